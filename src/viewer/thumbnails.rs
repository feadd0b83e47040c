//! Small pictures for panels, as egui's textures.

use std::collections::HashMap;

use egui::{TextureHandle, TextureOptions};

use crate::document::{ScaleState, StateId};
use crate::imaging::codec::Preview;

/// Made on first sight, kept while the photo is open.
#[derive(Default)]
pub(super) struct Thumbnails {
    states: HashMap<StateId, TextureHandle>,
    /// Of the picture being decoded, and how far it was.
    preview: Option<(f32, TextureHandle)>,
}

impl Thumbnails {
    pub(super) fn get(&mut self, context: &egui::Context, state: &ScaleState) -> TextureHandle {
        let texture = self.states.entry(state.id).or_insert_with(|| {
            let size = [state.thumbnail.width() as usize, state.thumbnail.height() as usize];
            let image = egui::ColorImage::from_rgb(size, state.thumbnail.rgb());
            context.load_texture(format!("state {}", state.id.0), image, TextureOptions::LINEAR)
        });
        texture.clone()
    }

    /// A picture that is being decoded.
    pub(super) fn preview(&mut self, context: &egui::Context, preview: &Preview) -> TextureHandle {
        match &self.preview {
            Some((fraction, texture)) if *fraction == preview.fraction => texture.clone(),
            _ => {
                let size = [preview.picture.width() as usize, preview.picture.height() as usize];
                let image = egui::ColorImage::from_rgb(size, preview.picture.rgb());
                let texture = context.load_texture("preview", image, TextureOptions::LINEAR);
                self.preview = Some((preview.fraction, texture.clone()));
                texture
            }
        }
    }

    pub(super) fn clear(&mut self) {
        self.states.clear();
        self.preview = None;
    }
}
