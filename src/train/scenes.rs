//! Dead-leaves scenes: shapes that hide one another, radii with density r^-3, filled with flat colour, gradients or
//! textures; thin lines and text on top; lens blur on some. Lee, Mumford & Huang, "Occlusion Models for Natural
//! Images" (2001) say why these look like the world to a filter.

use std::f32::consts::TAU;

use fastrand::Rng;
use tiny_skia::{
    Color, FillRule, FilterQuality, GradientStop, LinearGradient, Paint, Path, PathBuilder, Pattern, Pixmap, Point,
    RadialGradient, Shader, SpreadMode, Stroke, Transform,
};

use crate::imaging::lettering::Lettering;
use crate::imaging::{Filter, Picture, resize};

/// Scenes are drawn larger and reduced, so that edges fall between pixels as a lens lets them.
const SUPERSAMPLING: u32 = 2;
const TEXTURE_SIDE: u32 = 160;

/// A random scene of `side` x `side` pixels.
pub fn scene(rng: &mut Rng, side: u32) -> Picture {
    let large = side * SUPERSAMPLING;
    let Some(mut pixmap) = Pixmap::new(large, large) else { return Picture::from_fn(side, side, |_, _| [0; 3]) };
    let palette = Palette::random(rng);
    pixmap.fill(palette.colour(rng));
    let textures: Vec<Pixmap> = (0..5).filter_map(|_| texture(rng, &palette)).collect();

    // First the ground is covered; then many small leaves, few large ones.
    let largest = large as f32 * 0.6;
    let smallest = 2.0 + 10.0 * rng.f32();
    let (ground, leaves) = (rng.u32(20..60), rng.u32(80..900));
    for i in 0..ground + leaves {
        let radius = power_law(rng, if i < ground { largest / 6.0 } else { smallest }, largest);
        let (x, y) = (rng.f32() * large as f32, rng.f32() * large as f32);
        let Some(path) = leaf(rng, x, y, radius) else { continue };
        pixmap.fill_path(
            &path,
            &paint(rng, &palette, &textures, x, y, radius),
            FillRule::EvenOdd,
            Transform::identity(),
            None,
        );
    }
    for _ in 0..rng.u32(0..40) {
        line(rng, &mut pixmap, &palette);
    }
    for _ in 0..rng.u32(0..8) {
        text(rng, &mut pixmap, &palette);
    }

    let rgb = pixmap.pixels().iter().flat_map(|p| [p.red(), p.green(), p.blue()]).collect();
    let drawn = Picture::from_rgb(large, large, rgb).unwrap_or_else(|| Picture::from_fn(large, large, |_, _| [0; 3]));
    let mut reduced = resize(&drawn, side, side, Filter::Lanczos);
    if rng.f32() < 0.6 {
        reduced = grained(rng, &reduced);
    }
    // Few photos are sharp to the pixel.
    if rng.f32() < 0.6 {
        let sigma = if rng.f32() < 0.7 { 0.3 + 0.6 * rng.f32() } else { 0.8 + 1.2 * rng.f32() };
        reduced = super::degrade::blurred(&reduced, sigma);
    }
    reduced
}

/// Fur, skin, stone: fine fractal grain, stretched along bent lines, strong here and faint there. It teaches what can
/// not be known from the small picture, so that the network does not make clean edges of everything.
fn grained(rng: &mut Rng, picture: &Picture) -> Picture {
    let (noise, place) = (Noise::random(rng), Noise::random(rng));
    let turn = TAU * rng.f32();
    let strength = 90.0 * rng.f32() * rng.f32();
    let (period, stretch, roughness) = (2.0 + 6.0 * rng.f32(), 1.0 + 5.0 * rng.f32(), 0.5 + 0.5 * rng.f32());
    Picture::from_fn(picture.width(), picture.height(), |x, y| {
        let (u, v) = (x as f32, y as f32);
        let bend = 40.0 * place.value(u / 90.0, v / 90.0);
        let along = (u * turn.cos() + v * turn.sin()) / (period * stretch);
        let across = (v * turn.cos() - u * turn.sin() + bend) / period;
        let here = place.value(u / 60.0 + 31.0, v / 60.0);
        let grain = (noise.fractal(along, across, roughness) - 0.5) * strength * here;
        picture.pixel(x, y).map(|value| (f32::from(value) + grain).round().clamp(0.0, 255.0) as u8)
    })
}

/// Density proportional to r^-3 between the bounds.
fn power_law(rng: &mut Rng, smallest: f32, largest: f32) -> f32 {
    let (a, b) = (smallest.powi(-2), largest.powi(-2));
    (a + (b - a) * rng.f32()).powf(-0.5)
}

/// Natural colours: brightness varies widely, hue around a few centres.
struct Palette(Vec<[f32; 3]>);

impl Palette {
    fn random(rng: &mut Rng) -> Self {
        let strength = 0.35 * rng.f32();
        Self((0..5).map(|_| [0; 3].map(|_| (rng.f32() - 0.5) * 2.0 * strength)).collect())
    }

    fn colour(&self, rng: &mut Rng) -> Color {
        let tint = self.0[rng.usize(..self.0.len())];
        let light = rng.f32();
        let [r, g, b] = tint.map(|t| (light + t + 0.04 * (rng.f32() - 0.5)).clamp(0.0, 1.0));
        Color::from_rgba(r, g, b, 1.0).unwrap_or(Color::BLACK)
    }
}

/// One shape around (`x`, `y`): an ellipse, a polygon, a soft blob, or a ring.
fn leaf(rng: &mut Rng, x: f32, y: f32, radius: f32) -> Option<Path> {
    let mut path = PathBuilder::new();
    let squeeze = 0.3 + 0.7 * rng.f32();
    let turn = TAU * rng.f32();
    let at = |angle: f32, r: f32| {
        let (dx, dy) = (r * angle.cos(), r * angle.sin() * squeeze);
        (x + dx * turn.cos() - dy * turn.sin(), y + dx * turn.sin() + dy * turn.cos())
    };
    match rng.u32(..10) {
        0..4 => {
            for i in 0..24 {
                let (px, py) = at(TAU * i as f32 / 24.0, radius);
                if i == 0 { path.move_to(px, py) } else { path.line_to(px, py) }
            }
        }
        4..8 => {
            let corners = rng.u32(3..8);
            for i in 0..corners {
                let jitter = if corners == 4 { 0.5 } else { rng.f32() };
                let (px, py) = at(TAU * (i as f32 + 0.6 * jitter) / corners as f32, radius);
                if i == 0 { path.move_to(px, py) } else { path.line_to(px, py) }
            }
        }
        8 => {
            let radii: Vec<f32> = (0..8).map(|_| radius * (0.4 + 0.6 * rng.f32())).collect();
            let point = |i: usize| at(TAU * (i % 8) as f32 / 8.0, radii[i % 8]);
            let middle = |i: usize| {
                let (a, b) = (point(i), point(i + 1));
                ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0)
            };
            path.move_to(middle(7).0, middle(7).1);
            for i in 0..8 {
                path.quad_to(point(i).0, point(i).1, middle(i).0, middle(i).1);
            }
        }
        _ => {
            path.push_circle(x, y, radius);
            path.push_circle(x, y, radius * (0.5 + 0.45 * rng.f32()));
        }
    }
    path.close();
    path.finish()
}

fn paint<'a>(rng: &mut Rng, palette: &Palette, textures: &'a [Pixmap], x: f32, y: f32, radius: f32) -> Paint<'a> {
    let (from, to) = (palette.colour(rng), palette.colour(rng));
    let stops = || vec![GradientStop::new(0.0, from), GradientStop::new(1.0, to)];
    let angle = TAU * rng.f32();
    let (dx, dy) = (radius * angle.cos(), radius * angle.sin());
    let shader = match rng.u32(..10) {
        0..2 => None,
        2..4 => LinearGradient::new(
            Point::from_xy(x - dx, y - dy),
            Point::from_xy(x + dx, y + dy),
            stops(),
            SpreadMode::Pad,
            Transform::identity(),
        ),
        4 => {
            let focus = Point::from_xy(x + dx * 0.4, y + dy * 0.4);
            RadialGradient::new(focus, 0.0, focus, radius * 1.3, stops(), SpreadMode::Pad, Transform::identity())
        }
        _ if !textures.is_empty() => {
            let scale = 0.5 + 1.5 * rng.f32();
            let placed = Transform::from_row(
                scale * angle.cos(),
                scale * angle.sin(),
                -scale * angle.sin(),
                scale * angle.cos(),
                x,
                y,
            );
            let texture = textures[rng.usize(..textures.len())].as_ref();
            Some(Pattern::new(texture, SpreadMode::Reflect, FilterQuality::Bilinear, 1.0, placed))
        }
        _ => None,
    };
    Paint { shader: shader.unwrap_or(Shader::SolidColor(from)), anti_alias: true, ..Paint::default() }
}

/// Between two colours by a field in [0, 1]: clouds, hair, weave or speckles.
fn texture(rng: &mut Rng, palette: &Palette) -> Option<Pixmap> {
    let mut pixmap = Pixmap::new(TEXTURE_SIDE, TEXTURE_SIDE)?;
    let (a, b) = (palette.colour(rng), palette.colour(rng));
    let contrast = 0.15 + 0.85 * rng.f32();
    let kind = rng.u32(..4);
    let stretch = if kind == 1 { 4.0 + 12.0 * rng.f32() } else { 1.0 };
    let noise = Noise::random(rng);
    let (period, weave) = (3.0 + 14.0 * rng.f32(), rng.f32());
    let roughness = 0.45 + 0.4 * rng.f32();
    for y in 0..TEXTURE_SIDE {
        for x in 0..TEXTURE_SIDE {
            let (u, v) = (x as f32, y as f32 / stretch);
            let cloud = noise.fractal(u / 24.0, v / 24.0, roughness);
            let field = match kind {
                0 | 1 => cloud,
                2 => {
                    let wave = |t: f32| 0.5 + 0.5 * (TAU * t / period + 5.0 * cloud).sin();
                    wave(u) * (1.0 - weave) + wave(v + 0.3 * u) * weave
                }
                _ => ((noise.value(u / 2.5, v / 2.5) - 0.6) * 6.0).clamp(0.0, 1.0),
            };
            let mix = (0.5 + (field - 0.5) * contrast).clamp(0.0, 1.0);
            let channel = |from: f32, to: f32| ((from + (to - from) * mix) * 255.0).round() as u8;
            let (red, green, blue) =
                (channel(a.red(), b.red()), channel(a.green(), b.green()), channel(a.blue(), b.blue()));
            let at = (y * TEXTURE_SIDE + x) as usize * 4;
            pixmap.data_mut()[at..at + 4].copy_from_slice(&[red, green, blue, 255]);
        }
    }
    Some(pixmap)
}

/// Value noise on a wrapped lattice.
struct Noise(Vec<f32>);

impl Noise {
    const SIDE: usize = 64;

    fn random(rng: &mut Rng) -> Self {
        Self((0..Self::SIDE * Self::SIDE).map(|_| rng.f32()).collect())
    }

    fn value(&self, x: f32, y: f32) -> f32 {
        let (x0, y0) = (x.floor(), y.floor());
        let smooth = |t: f32| t * t * (3.0 - 2.0 * t);
        let (fx, fy) = (smooth(x - x0), smooth(y - y0));
        let at = |dx: i64, dy: i64| {
            let side = Self::SIDE as i64;
            self.0[((y0 as i64 + dy).rem_euclid(side) * side + (x0 as i64 + dx).rem_euclid(side)) as usize]
        };
        let top = at(0, 0) * (1.0 - fx) + at(1, 0) * fx;
        let bottom = at(0, 1) * (1.0 - fx) + at(1, 1) * fx;
        top * (1.0 - fy) + bottom * fy
    }

    fn fractal(&self, x: f32, y: f32, roughness: f32) -> f32 {
        let (mut sum, mut weight, mut total, mut scale) = (0.0, 1.0, 0.0, 1.0);
        for _ in 0..5 {
            sum += weight * self.value(x * scale + 17.0 * scale, y * scale);
            total += weight;
            weight *= roughness;
            scale *= 2.1;
        }
        sum / total
    }
}

fn line(rng: &mut Rng, pixmap: &mut Pixmap, palette: &Palette) {
    let side = pixmap.width() as f32;
    let mut path = PathBuilder::new();
    let (x, y) = (rng.f32() * side, rng.f32() * side);
    let mut reach = || (rng.f32() - 0.5) * side;
    path.move_to(x, y);
    let (x1, y1, x2, y2) = (x + reach(), y + reach(), x + reach(), y + reach());
    if rng.bool() {
        path.line_to(x1, y1)
    } else {
        path.quad_to(x1, y1, x2, y2)
    }
    let Some(path) = path.finish() else { return };
    let stroke = Stroke { width: 0.6 + power_law(rng, 0.6, 12.0), ..Stroke::default() };
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(palette.colour(rng));
    // Often a whole family of them: hair, fences, grass.
    for i in 0..if rng.f32() < 0.3 { rng.u32(2..12) } else { 1 } {
        let shift = i as f32 * (2.0 + 3.0 * stroke.width);
        pixmap.stroke_path(&path, &paint, &stroke, Transform::from_translate(shift, 0.3 * shift), None);
    }
}

fn text(rng: &mut Rng, pixmap: &mut Pixmap, palette: &Palette) {
    let font = if rng.bool() { epaint_default_fonts::HACK_REGULAR } else { epaint_default_fonts::UBUNTU_LIGHT };
    let size = power_law(rng, 12.0, 120.0);
    let Some(lettering) = Lettering::new(font, size) else { return };
    let side = pixmap.width() as f32;
    let turn =
        Transform::from_rotate((rng.f32() - 0.5) * 40.0).post_translate((rng.f32() - 0.2) * side, rng.f32() * side);
    let mut paint = Paint { anti_alias: true, ..Paint::default() };
    paint.set_color(palette.colour(rng));
    let mut x = 0.0;
    for _ in 0..rng.u32(3..16) {
        let letter = char::from(rng.u8(b'!'..=b'z'));
        if let Some(path) = lettering.letter(letter) {
            pixmap.fill_path(&path, &paint, FillRule::Winding, turn.pre_translate(x, 0.0), None);
        }
        x += size * 0.6;
    }
}
