//! The window: what is on it ([`state`]), what the user can do ([`actions`]), what then happens (`logic`), and how it
//! is painted (`ui`). The thread here never waits: files, dialogs and pixels are the tasks' work, models the engine's.

pub mod actions;
mod logic;
pub mod state;
mod tasks;
mod theme;
mod thumbnails;
mod ui;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;

use crate::canvas::Renderer;
use crate::engine::Engine;
use crate::problem::Problem;
use crate::settings::Settings;
use crate::step::DeviceChoice;
use actions::Action;
use state::State;
use tasks::Tasks;
use thumbnails::Thumbnails;

/// The program with a window.
pub struct Viewer {
    /// All there is to see.
    pub state: State,
    engine: Engine,
    tasks: Tasks,
    thumbnails: Thumbnails,
    /// What the user asked for in this frame; the logic carries it out.
    actions: Vec<Action>,
    /// The pixel of the state at hand under the pointer.
    pointer_in_state: Option<[f64; 2]>,
}

impl Viewer {
    /// A viewer in a new window. `settings` as loaded; they are saved only where `keeps_settings`.
    pub fn new(
        creation: &eframe::CreationContext<'_>,
        settings: Settings,
        keeps_settings: bool,
    ) -> std::io::Result<Self> {
        let context = creation.egui_ctx.clone();
        theme::install(&context, settings.theme);
        if let Some(wgpu) = &creation.wgpu_render_state {
            let renderer = Renderer::new(&wgpu.device, wgpu.target_format);
            wgpu.renderer.write().callback_resources.insert(renderer);
        }
        let waking = context.clone();
        let engine = Engine::start(Arc::new(move || waking.request_repaint()))?;
        Ok(Self {
            pointer_in_state: None,
            state: State::new(settings, keeps_settings),
            engine,
            tasks: Tasks::new(context),
            thumbnails: Thumbnails::default(),
            actions: Vec::new(),
        })
    }

    /// Opens the first of these; the others wait among the recent ones.
    pub fn open_all(&mut self, files: Vec<PathBuf>) {
        for file in files.iter().skip(1).rev() {
            self.state.settings.remember(file.clone());
        }
        self.actions.extend(files.into_iter().next().map(Action::OpenFile));
    }

    /// Does as if the user had asked for it.
    pub fn act(&mut self, action: Action) {
        self.actions.push(action);
    }
}

impl eframe::App for Viewer {
    /// Runs also while the window is hidden: work that is done arrives here.
    fn logic(&mut self, context: &egui::Context, _: &mut eframe::Frame) {
        self.receive(context);
        self.carry_out(context);
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        ui::show(self, ui);
        // What was asked for just now happens before the next frame.
        if !self.actions.is_empty() {
            ui.ctx().request_repaint();
        }
    }

    fn on_exit(&mut self) {
        self.engine.cancel();
        // The window is gone; here a moment of waiting is right.
        if self.state.keeps_settings && self.state.settings != self.state.saved_settings {
            _ = self.state.settings.save();
        }
    }
}

/// Opens the window and returns when it is closed. `device` overrides the settings for this start only.
pub fn run(images: Vec<PathBuf>, device: Option<DeviceChoice>) -> anyhow::Result<()> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if cfg!(target_os = "linux") && !set("DISPLAY") && !set("WAYLAND_DISPLAY") && !set("WAYLAND_SOCKET") {
        let details = "neither DISPLAY nor WAYLAND_DISPLAY is set";
        return Err(Problem::new("There is no screen", details, "Without one, use `coz zoom`.").into());
    }
    // One picture is one recent file, however it was named.
    let images = images.into_iter().map(|file| file.canonicalize().unwrap_or(file)).collect();
    let (mut settings, problem) = Settings::load();
    if let Some(problem) = problem {
        eprintln!("warning: {problem}; starting with the defaults");
    }
    let keeps_settings = device.is_none();
    settings.device = device.unwrap_or(settings.device);
    let viewport = egui::ViewportBuilder::default()
        .with_title("Chain-of-Zoom")
        .with_app_id("chain-of-zoom")
        .with_inner_size([1440.0, 900.0])
        .with_min_inner_size([900.0, 600.0])
        .with_icon(theme::icon())
        .with_drag_and_drop(true);
    let options = eframe::NativeOptions { viewport, ..Default::default() };
    eframe::run_native(
        "chain-of-zoom",
        options,
        Box::new(move |creation| {
            let mut viewer = Viewer::new(creation, settings, keeps_settings)?;
            viewer.open_all(images);
            Ok(Box::new(viewer))
        }),
    )
    .context("the window could not be opened; is there a display and a graphics driver? `coz doctor` tells more")
}
