//! Small pictures for panels, as egui's textures.

use std::collections::HashMap;

use egui::{TextureHandle, TextureOptions};

use crate::history::{ScaleState, StateId};

/// Made on first sight, kept while the photo is open.
#[derive(Default)]
pub(super) struct Thumbnails(HashMap<StateId, TextureHandle>);

impl Thumbnails {
    pub fn get(&mut self, context: &egui::Context, state: &ScaleState) -> TextureHandle {
        let texture = self.0.entry(state.id).or_insert_with(|| {
            let size = [state.thumbnail.width() as usize, state.thumbnail.height() as usize];
            let image = egui::ColorImage::from_rgb(size, state.thumbnail.rgb());
            context.load_texture(format!("state {}", state.id.0), image, TextureOptions::LINEAR)
        });
        texture.clone()
    }

    pub fn clear(&mut self) {
        self.0.clear();
    }
}
