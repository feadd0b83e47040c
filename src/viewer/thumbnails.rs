//! Small pictures for panels, as egui's textures.

use std::collections::HashMap;

use egui::{TextureHandle, TextureOptions};

use crate::document::{ScaleState, StateId};
use crate::imaging::codec::Preview;

/// Textures of states that are kept at most, more than any screen shows at once: 25 MB.
const KEPT: usize = 256;

/// Uploaded when first shown; those seen longest ago go first.
#[derive(Default)]
pub(super) struct Thumbnails {
    /// With when each was last seen, in frames.
    states: HashMap<StateId, (u64, TextureHandle)>,
    /// Of the picture being decoded, and how far it was.
    preview: Option<(f32, TextureHandle)>,
}

impl Thumbnails {
    pub(super) fn get(&mut self, context: &egui::Context, state: &ScaleState) -> TextureHandle {
        let frame = context.cumulative_frame_nr();
        if self.states.len() >= KEPT && !self.states.contains_key(&state.id) {
            let oldest = self.states.values().map(|(seen, _)| *seen).min();
            // What is on this frame stays.
            self.states.retain(|_, (seen, _)| *seen == frame || Some(*seen) != oldest);
        }
        let (seen, texture) = self.states.entry(state.id).or_insert_with(|| {
            let size = [state.thumbnail.width() as usize, state.thumbnail.height() as usize];
            let image = egui::ColorImage::from_rgb(size, state.thumbnail.rgb());
            (frame, context.load_texture(format!("state {}", state.id.0), image, TextureOptions::LINEAR))
        });
        *seen = frame;
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
