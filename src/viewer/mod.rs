//! The window: what is on it ([`state`]), what the user can do ([`actions`]), what then happens (`logic`), and how it
//! is painted (`ui`). The thread here never waits: files, dialogs and pixels are the tasks' work, models the engine's.

pub mod actions;
mod autosave_worker;
pub mod bindings;
pub mod commands;
mod dialogs;
pub mod found_models;
mod logic;
pub mod network_facts;
mod open;
pub mod prompt_server;
mod sample;
mod scores;
pub mod selftest;
pub mod settings;
pub mod state;
mod tasks;
mod theme;
mod thumbnails;
mod ui;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use actions::Action;
use anyhow::Context;
use autosave_worker::AutosaveWorker;
use state::{Cause, Message, PlacedBox, State};
use tasks::Tasks;
use thumbnails::Thumbnails;

use self::settings::Settings;
use crate::base::{DeviceChoice, Folders, Slot, UserError, is_model_file, memory};
use crate::document::session::autosave;
use crate::engine::Engine;
use crate::scene::canvas::Renderer;

/// The program with a window.
pub struct Viewer {
    /// All there is to see.
    pub state: State,
    engine: Engine,
    tasks: Tasks,
    /// Keeps the open session on the disk; `None` where there is no place for it.
    autosave_worker: Option<AutosaveWorker>,
    autosave_folder: Option<PathBuf>,
    thumbnails: Thumbnails,
    history_rows: ui::HistoryRows,
    /// What the user asked for in this frame; the logic carries it out.
    actions: Vec<Action>,
    /// The pixel of the state at hand under the pointer.
    pointer_in_state: Option<[f64; 2]>,
    /// The box that was prefetched last.
    prefetched: Option<PlacedBox>,
    /// The file that is being opened.
    opening: Slot,
    /// The export that runs.
    exports: Slot,
    /// Where the prompt source that is to be used is being looked for.
    prompt_source_search: Slot,
    /// The server that writes prompts is being tried.
    server_trial: Slot,
    /// What is being found out of the document's states.
    examining: Slot,
    /// The self-test that runs.
    selftest: Slot,
    /// Where super-resolution models are being looked for.
    backbone_search: Slot,
    /// Where models that consist of several files are.
    model_search: Slot,
    /// What is known of networks is being looked up.
    network_recall: Slot,
    /// Memory for the states' pictures, where the user has not said.
    picture_bytes: u64,
    /// Pictures reread so far.
    loaded_pictures: u64,
    /// Documents opened so far.
    documents: u64,
    last_screen: [f64; 2],
    settings_at_start: Settings,
    /// Settings that wait to be written, and since when they are so.
    settings_seen: Option<(Instant, Settings)>,
    /// Recoverable sessions are to be offered once.
    offer_recoverable: bool,
    device_lost: Arc<AtomicBool>,
    /// The window is being closed.
    leaving: Arc<AtomicBool>,
}

/// What a viewer may write on the disk.
#[derive(Clone, Debug, Default)]
pub struct Persistence {
    /// Settings are saved when they change.
    pub settings: bool,
    /// The open session is kept below this folder.
    pub sessions: Option<PathBuf>,
}

impl Viewer {
    /// A viewer in a new window, with settings as loaded.
    pub fn new(
        creation: &eframe::CreationContext<'_>,
        settings: Settings,
        persistence: Persistence,
    ) -> std::io::Result<Self> {
        let context = creation.egui_ctx.clone();
        theme::install(&context, settings.theme);
        let (device_lost, leaving) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        if let Some(wgpu) = &creation.wgpu_render_state {
            let renderer = Renderer::new(&wgpu.device, wgpu.target_format);
            wgpu.renderer.write().callback_resources.insert(renderer);
            let (lost, leaving, waking) = (device_lost.clone(), leaving.clone(), context.clone());
            wgpu.device.set_device_lost_callback(move |_, _| {
                // A window that closes gives its device back.
                if !leaving.load(Ordering::Acquire) {
                    lost.store(true, Ordering::Release);
                    waking.request_repaint();
                }
            });
        }
        let waking = context.clone();
        let engine = Engine::start(Arc::new(move || waking.request_repaint()))?;
        let tasks = Tasks::new(context.clone())?;
        let autosave_worker = match &persistence.sessions {
            Some(folder) => Some(AutosaveWorker::start(folder.clone(), tasks.sender(), context)?),
            None => None,
        };
        if let Some(folder) = &persistence.sessions {
            tasks.look_for_recoverable(folder.clone());
        }
        let mut backbone_search = Slot::default();
        tasks.look_for_backbones(&settings, backbone_search.start());
        let mut viewer = Self {
            settings_at_start: settings.clone(),
            state: State::new(settings, persistence.settings),
            engine,
            tasks,
            autosave_worker,
            autosave_folder: persistence.sessions,
            thumbnails: Thumbnails::default(),
            history_rows: ui::HistoryRows::default(),
            actions: Vec::new(),
            pointer_in_state: None,
            prefetched: None,
            opening: Slot::default(),
            exports: Slot::default(),
            prompt_source_search: Slot::default(),
            server_trial: Slot::default(),
            examining: Slot::default(),
            selftest: Slot::default(),
            backbone_search,
            model_search: Slot::default(),
            network_recall: Slot::default(),
            picture_bytes: picture_bytes(),
            loaded_pictures: 0,
            documents: 0,
            last_screen: [0.0; 2],
            settings_seen: None,
            offer_recoverable: true,
            device_lost,
            leaving,
        };
        viewer.look_for_models();
        Ok(viewer)
    }

    /// Opens the first of these, and offers the others, which wait among the recent ones too; model files are offered as
    /// models.
    pub fn open_all(&mut self, files: Vec<PathBuf>) {
        let (models, mut files): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| is_model_file(file));
        self.offer_models(models);
        for file in files.iter().skip(1).rev() {
            self.state.settings.remember(file.clone());
        }
        if files.is_empty() {
            return;
        }
        self.actions.push(Action::OpenFile(files.remove(0)));
        self.state.messages.retain(|message| !matches!(message, Message::Waiting(_)));
        if !files.is_empty() {
            self.tell(Message::Waiting(files));
        }
    }

    /// Does as if the user had asked for it.
    pub fn act(&mut self, action: impl Into<Action>) {
        self.actions.push(action.into());
    }
}

impl eframe::App for Viewer {
    /// Runs also while the window is hidden: work that is done arrives here.
    fn logic(&mut self, context: &egui::Context, _: &mut eframe::Frame) {
        self.receive(context);
        self.carry_out(context);
        if self.device_lost.load(Ordering::Acquire) {
            context.send_viewport_cmd(egui::ViewportCommand::Close);
        }
    }

    fn ui(&mut self, ui: &mut egui::Ui, _: &mut eframe::Frame) {
        ui::show(self, ui);
        // What was asked for just now happens before the next frame.
        if !self.actions.is_empty() {
            ui.ctx().request_repaint();
        }
    }

    fn on_exit(&mut self) {
        self.leaving.store(true, Ordering::Release);
        self.engine.cancel();
        self.keep_session(None);
        // The window is gone; here a moment of waiting is right.
        if let Some(transfer) = &self.state.transfer {
            transfer.stop.store(true, Ordering::Relaxed);
            std::thread::sleep(STOPPING);
        }
        if let Some(autosave_worker) = self.autosave_worker.take() {
            if !self.state.document.as_ref().is_some_and(state::Document::is_unsaved) {
                autosave_worker.forget();
            }
            drop(autosave_worker);
        }
        let is_changed = self.state.settings != self.settings_at_start;
        if self.state.keeps_settings
            && is_changed
            && let Err(error) = self.tasks.save_last_settings(&self.state.settings)
        {
            tracing::error!("the settings were not saved: {error}");
        }
    }
}

/// A quarter of what is free at the start, at most 2 GB.
fn picture_bytes() -> u64 {
    const MOST: u64 = 2 << 30;
    memory::available().map_or(MOST, |free| (free / 4).min(MOST))
}

/// What is on its way stops, and takes away what it has begun, within this time.
const STOPPING: std::time::Duration = std::time::Duration::from_millis(300);

/// How often a window that broke is replaced before the program gives up.
const RESTARTS: u32 = 3;

/// Opens the window and returns when it is closed. `device` overrides the settings for this start only; `restarts` counts
/// the windows that broke before this one: then it goes on with the session that was open.
pub fn run(images: Vec<PathBuf>, device: Option<DeviceChoice>, restarts: u32) -> anyhow::Result<()> {
    let set = |name| std::env::var_os(name).is_some_and(|value| !value.is_empty());
    if cfg!(target_os = "linux") && !set("DISPLAY") && !set("WAYLAND_DISPLAY") && !set("WAYLAND_SOCKET") {
        let details = "neither DISPLAY nor WAYLAND_DISPLAY is set";
        return Err(UserError::new("There is no screen", details, "Without one, use `coz zoom`.").into());
    }
    // One picture is one recent file, however it was named.
    let mut images: Vec<PathBuf> = images.into_iter().map(|file| file.canonicalize().unwrap_or(file)).collect();
    let (mut settings, unreadable) = Settings::load();
    let persistence = Persistence {
        settings: device.is_none() && unreadable.as_ref().is_none_or(|unreadable| unreadable.is_kept),
        sessions: Folders::of_user().map(|folders| folders.autosave),
    };
    let problem = unreadable.map(|unreadable| unreadable.problem);
    settings.device = device.unwrap_or(settings.device);
    if let Some(folder) = persistence.sessions.as_ref().filter(|_| restarts > 0) {
        images = autosave::recoverable(folder).into_iter().map(|session| session.folder).take(1).collect();
    }
    // Where the graphics device is lost while a frame is drawn, the libraries in between can only panic.
    let lost = catch_unwind(AssertUnwindSafe(|| window(settings, persistence, problem, images))).unwrap_or(Ok(true))?;
    if !lost {
        return Ok(());
    }
    if restarts >= RESTARTS {
        let details = format!("it broke {} times, one after another", restarts + 1);
        let hint = "Your work is kept and will be offered at the next start. `coz doctor` shows the graphics drivers.";
        return Err(UserError::new("The window cannot be drawn", details, hint).into());
    }
    eprintln!("warning: the graphics device was lost; starting again with the session as it was");
    restart(restarts + 1, device)
}

/// The program again, in place of this one: nothing that broke is used again.
fn restart(restarts: u32, device: Option<DeviceChoice>) -> anyhow::Result<()> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args(["--restarts", &restarts.to_string()]);
    if let Some(device) = device {
        command.args(["--device", &device.to_string()]);
    }
    #[cfg(unix)]
    let failed = std::os::unix::process::CommandExt::exec(&mut command);
    #[cfg(not(unix))]
    let failed = match command.spawn() {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    Err(anyhow::Error::new(failed).context("the program could not start itself again"))
}

/// Shows one window until it is closed; whether that was because its graphics device was lost.
fn window(
    settings: Settings,
    persistence: Persistence,
    problem: Option<UserError>,
    images: Vec<PathBuf>,
) -> anyhow::Result<bool> {
    let viewport = egui::ViewportBuilder::default()
        .with_title("Chain-of-Zoom")
        .with_app_id("chain-of-zoom")
        .with_inner_size(settings.window)
        .with_maximized(settings.maximized)
        .with_min_inner_size([900.0, 600.0])
        .with_icon(theme::icon())
        .with_drag_and_drop(true);
    let options = eframe::NativeOptions { viewport, ..Default::default() };
    let lost = Arc::new(OnceLock::new());
    let device_lost = lost.clone();
    eframe::run_native(
        "chain-of-zoom",
        options,
        Box::new(move |creation| {
            let mut viewer = Viewer::new(creation, settings, persistence)?;
            // Set once: this runs once.
            _ = device_lost.set(viewer.device_lost.clone());
            viewer.open_all(images);
            if let Some(problem) = problem {
                viewer.tell(Message::UserError(problem, Cause::Other));
            }
            Ok(Box::new(viewer))
        }),
    )
    .context("the window could not be opened; is there a display and a graphics driver? `coz doctor` tells more")?;
    Ok(lost.get().is_some_and(|lost| lost.load(Ordering::Acquire)))
}
