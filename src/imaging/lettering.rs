//! Letters as outlines, from the fonts that the window uses anyway.

use skrifa::instance::{LocationRef, Size};
use skrifa::outline::{DrawSettings, OutlinePen};
use skrifa::{FontRef, MetadataProvider};
use tiny_skia::{Path, PathBuilder, Transform};

/// Draws a glyph into a path; fonts count upwards, pictures downwards.
struct Pen(PathBuilder);

impl OutlinePen for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.0.move_to(x, -y);
    }
    fn line_to(&mut self, x: f32, y: f32) {
        self.0.line_to(x, -y);
    }
    fn quad_to(&mut self, cx: f32, cy: f32, x: f32, y: f32) {
        self.0.quad_to(cx, -cy, x, -y);
    }
    fn curve_to(&mut self, ax: f32, ay: f32, bx: f32, by: f32, x: f32, y: f32) {
        self.0.cubic_to(ax, -ay, bx, -by, x, -y);
    }
    fn close(&mut self) {
        self.0.close();
    }
}

/// A font at a size.
pub struct Lettering {
    font: FontRef<'static>,
    size: f32,
}

impl Lettering {
    /// `size` pixels high; `None` where the font cannot be read.
    pub fn new(font: &'static [u8], size: f32) -> Option<Self> {
        Some(Self { font: FontRef::new(font).ok()?, size })
    }

    /// Outline of one letter on the baseline at the origin; `None` for those without one, such as spaces.
    pub fn letter(&self, letter: char) -> Option<Path> {
        let glyph = self.font.outline_glyphs().get(self.font.charmap().map(letter)?)?;
        let mut pen = Pen(PathBuilder::new());
        glyph.draw(DrawSettings::unhinted(Size::new(self.size), LocationRef::default()), &mut pen).ok()?;
        pen.0.finish()
    }

    /// How far the next letter is.
    pub fn advance(&self, letter: char) -> f32 {
        let metrics = self.font.glyph_metrics(Size::new(self.size), LocationRef::default());
        self.font.charmap().map(letter).and_then(|id| metrics.advance_width(id)).unwrap_or(self.size * 0.5)
    }

    /// Outline of a line of text from the origin, and its width.
    pub fn line(&self, text: &str) -> (Option<Path>, f32) {
        let (mut path, mut x) = (PathBuilder::new(), 0.0);
        for letter in text.chars() {
            if let Some(outline) = self.letter(letter).and_then(|it| it.transform(Transform::from_translate(x, 0.0))) {
                path.push_path(&outline);
            }
            x += self.advance(letter);
        }
        (path.finish(), x)
    }
}
