//! A line in the lower left corner of a frame: magnification, prompt, and from where on a model made the detail.

use tiny_skia::{Color, FillRule, Paint, Path, PathBuilder, Pixmap, Rect, Transform};

use crate::imaging::lettering::Lettering;

/// What it says.
pub(super) struct Caption<'a> {
    /// `48x`.
    pub magnification: String,
    /// The prompt of the state; may be empty.
    pub prompt: &'a str,
    /// That a model made this; may be empty.
    pub marker: &'a str,
}

impl Caption<'_> {
    /// Onto a frame of RGB.
    pub(super) fn draw(&self, rgb: &mut [u8], width: u32, height: u32) {
        // Legible on a phone, modest on a screen.
        let size = (height as f32 / 30.0).max(11.0);
        let Some(lettering) = Lettering::new(epaint_default_fonts::UBUNTU_LIGHT, size) else { return };
        let mut text = self.magnification.clone();
        for part in [self.prompt, self.marker].iter().filter(|part| !part.is_empty()) {
            text.push_str("   ");
            text.extend(part.chars().filter(|c| !c.is_control()));
        }
        let room = width as f32 - 4.0 * size;
        let mut length = 0.0;
        let fitting = text.chars().take_while(|&letter| {
            length += lettering.advance(letter);
            length <= room
        });
        let count = fitting.count();
        let text: String = text.chars().take(count).collect();
        let (Some(letters), line_width) = lettering.line(&text) else { return };
        let (plate_width, plate_height) = ((line_width + size).ceil(), (size * 1.7).ceil());
        let Some(mut plate) = Pixmap::new(plate_width as u32, plate_height as u32) else { return };
        let fill = |plate: &mut Pixmap, path: &Path, colour: Color, at: (f32, f32)| {
            let mut paint = Paint { anti_alias: true, ..Paint::default() };
            paint.set_color(colour);
            plate.fill_path(path, &paint, FillRule::Winding, Transform::from_translate(at.0, at.1), None);
        };
        if let Some(rect) = Rect::from_xywh(0.0, 0.0, plate_width, plate_height) {
            fill(&mut plate, &PathBuilder::from_rect(rect), Color::from_rgba8(0, 0, 0, 150), (0.0, 0.0));
        }
        fill(&mut plate, &letters, Color::WHITE, (size / 2.0, size * 1.2));
        let (left, top) = (size as u32, height.saturating_sub(plate.height() + size as u32));
        for y in 0..plate.height().min(height) {
            for x in 0..plate.width().min(width.saturating_sub(left)) {
                let Some(ink) = plate.pixel(x, y) else { continue };
                let at = (((top + y) * width + left + x) * 3) as usize;
                let below = u16::from(255 - ink.alpha());
                for (pixel, ink) in rgb[at..at + 3].iter_mut().zip([ink.red(), ink.green(), ink.blue()]) {
                    *pixel = ink.saturating_add((u16::from(*pixel) * below / 255) as u8);
                }
            }
        }
    }
}
