//! Neutral surroundings, one accent, two sizes of type.

use egui::{Color32, CornerRadius, FontFamily, FontId, Stroke, TextStyle, Visuals};

use super::settings::Theme;

/// The zoom box, the state at hand, the one primary button.
pub(super) const ACCENT: Color32 = Color32::from_rgb(0xf2, 0xa9, 0x3b);
/// Errors, nothing else.
pub(super) const ERROR: Color32 = Color32::from_rgb(0xe5, 0x5a, 0x4e);
/// On the accent.
pub(super) const ON_ACCENT: Color32 = Color32::from_rgb(0x1a, 0x14, 0x08);

/// The colours that egui's visuals have no place for.
#[derive(Clone, Copy)]
pub(super) struct Palette {
    /// Around the picture.
    pub canvas: Color32,
    /// Panels.
    pub panel: Color32,
    /// Hair lines.
    pub line: Color32,
    /// Less important text.
    pub dim: Color32,
}

/// Of the theme in use.
pub(super) fn palette(ui: &egui::Ui) -> Palette {
    match ui.visuals() {
        visuals if !visuals.dark_mode => LIGHT,
        visuals if visuals.panel_fill == CONTRAST.panel => CONTRAST,
        _ => DARK,
    }
}

const DARK: Palette = Palette {
    canvas: Color32::from_gray(0x16),
    panel: Color32::from_gray(0x1e),
    line: Color32::from_gray(0x2c),
    dim: Color32::from_gray(0x8a),
};

const CONTRAST: Palette = Palette {
    canvas: Color32::BLACK,
    panel: Color32::from_gray(0x01),
    line: Color32::from_gray(0xd0),
    dim: Color32::from_gray(0xe0),
};

const LIGHT: Palette = Palette {
    canvas: Color32::from_gray(0xd9),
    panel: Color32::from_gray(0xf2),
    line: Color32::from_gray(0xcc),
    dim: Color32::from_gray(0x66),
};

/// Fonts and style, once.
pub(super) fn install(context: &egui::Context, theme: Theme) {
    egui_material_icons::initialize(context);
    context.all_styles_mut(|style| {
        let sans = |size| FontId::new(size, FontFamily::Proportional);
        style.text_styles = [
            (TextStyle::Heading, sans(13.0)),
            (TextStyle::Body, sans(13.0)),
            (TextStyle::Button, sans(13.0)),
            (TextStyle::Small, sans(11.0)),
            (TextStyle::Monospace, FontId::new(11.0, FontFamily::Monospace)),
        ]
        .into();
        style.spacing.item_spacing = egui::vec2(8.0, 6.0);
        style.spacing.button_padding = egui::vec2(8.0, 4.0);
        style.spacing.interact_size.y = 24.0;
        style.interaction.selectable_labels = false;
    });
    apply(context, theme);
}

/// Switches the surroundings.
pub(super) fn apply(context: &egui::Context, theme: Theme) {
    let dark = theme != Theme::Light;
    let contrast = theme == Theme::Contrast;
    context.set_theme(if dark { egui::Theme::Dark } else { egui::Theme::Light });
    let palette = match theme {
        Theme::Dark => DARK,
        Theme::Light => LIGHT,
        Theme::Contrast => CONTRAST,
    };
    let (mut visuals, text) = match theme {
        Theme::Dark => (Visuals::dark(), Color32::from_gray(0xd6)),
        Theme::Light => (Visuals::light(), Color32::from_gray(0x22)),
        Theme::Contrast => (Visuals::dark(), Color32::WHITE),
    };
    let lift =
        |by: i16| Color32::from_gray((i16::from(palette.panel.r()) + if dark { by } else { -by }).clamp(0, 255) as u8);
    visuals.panel_fill = palette.panel;
    visuals.window_fill = palette.panel;
    visuals.window_stroke = Stroke::new(1.0, palette.line);
    visuals.window_shadow = egui::Shadow::NONE;
    visuals.popup_shadow = egui::Shadow::NONE;
    visuals.extreme_bg_color = lift(-8);
    visuals.faint_bg_color = lift(6);
    visuals.override_text_color = Some(text);
    visuals.selection.bg_fill = ACCENT.gamma_multiply(0.35);
    visuals.selection.stroke = Stroke::new(1.0, text);
    visuals.error_fg_color = ERROR;
    visuals.warn_fg_color = ACCENT;
    visuals.hyperlink_color = text;
    let widgets = &mut visuals.widgets;
    for (widget, fill) in [
        (&mut widgets.noninteractive, palette.panel),
        (&mut widgets.inactive, lift(14)),
        (&mut widgets.hovered, lift(26)),
        (&mut widgets.active, lift(34)),
        (&mut widgets.open, lift(20)),
    ] {
        widget.bg_fill = fill;
        widget.weak_bg_fill = fill;
        widget.corner_radius = CornerRadius::same(4);
        widget.fg_stroke = Stroke::new(1.0, text);
        // Without shades to tell them apart, what can be pressed has a line around it.
        widget.bg_stroke = if contrast { Stroke::new(1.0, Color32::WHITE) } else { Stroke::NONE };
        widget.expansion = 0.0;
    }
    widgets.noninteractive.bg_stroke = Stroke::new(1.0, palette.line);
    context.set_visuals(visuals);
}

/// The window's icon: nested boxes.
pub(super) fn icon() -> egui::IconData {
    const SIDE: u32 = 64;
    let mut rgba = Vec::with_capacity((SIDE * SIDE * 4) as usize);
    for y in 0..SIDE {
        for x in 0..SIDE {
            let inside = |from: u32, side: u32| (from..from + side).contains(&x) && (from..from + side).contains(&y);
            let ring = |from: u32, side: u32| inside(from, side) && !inside(from + 4, side - 8);
            let colour = match () {
                () if ring(20, 36) || inside(36, 14) => ACCENT,
                () if inside(2, 60) => Color32::from_gray(0x1e),
                () => Color32::TRANSPARENT,
            };
            rgba.extend(colour.to_array());
        }
    }
    egui::IconData { rgba, width: SIDE, height: SIDE }
}
