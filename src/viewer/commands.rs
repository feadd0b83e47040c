//! Everything the user can do without saying more: one row a command. Menus, tooltips, the palette, keys and the help window
//! read the rows, so they cannot drift; a command without a handler does not compile.

use egui::{FocusDirection, Key, KeyboardShortcut, Modifiers, ViewportCommand};

use super::actions::{Against, CompareMode, Tool};
use super::bindings::Bindings;
use super::settings::Theme;
use super::state::{Palette, State};
use super::{Viewer, theme};
use crate::document::Direction;

/// What is known of a command.
pub(super) struct Row {
    /// In the settings file.
    pub id: &'static str,
    /// In menus and tooltips.
    pub label: &'static str,
    /// Its usual keys, the first one to be shown.
    pub keys: &'static [KeyboardShortcut],
    /// Whether it makes sense now.
    pub is_enabled: fn(&State) -> bool,
    /// What it does.
    pub run: fn(&mut Viewer, &egui::Context),
}

const fn key(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::NONE, key)
}

const fn ctrl(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::COMMAND, key)
}

const fn ctrl_shift(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers { shift: true, ..Modifiers::COMMAND }, key)
}

const fn shift(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::SHIFT, key)
}

const fn alt(key: Key) -> KeyboardShortcut {
    KeyboardShortcut::new(Modifiers::ALT, key)
}

fn always(_: &State) -> bool {
    true
}

pub(super) fn with_photo(state: &State) -> bool {
    state.document.is_some()
}

fn can_score(state: &State) -> bool {
    let is_new = state.document.as_ref().is_some_and(|document| !document.unscored(state.metric).is_empty());
    is_new && !state.scoring && !state.found.metrics.is_empty()
}

/// One press of a zoom key.
const KEY_ZOOM: f64 = 1.4;

macro_rules! commands {
    ($($name:ident: $id:literal, $label:literal, [$($key:expr),*], $enabled:expr, $run:expr;)+) => {
        /// A command, by its row.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Command {
            $(
                #[doc = $label]
                $name,
            )+
        }

        impl Command {
            /// All of them, in the order of the palette and the help window.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            pub(super) fn row(self) -> Row {
                match self {
                    $(Self::$name => {
                        let keys = const { &[$($key),*] };
                        Row { id: $id, label: $label, keys, is_enabled: $enabled, run: $run }
                    })+
                }
            }
        }
    };
}

commands! {
    Open: "open", "Open…", [ctrl(Key::O)], always, |viewer, _| viewer.tasks.ask_for_picture();
    OpenSample: "open_sample", "Try the sample", [], always, |viewer, _| viewer.open_sample();
    Save: "save", "Save the session", [ctrl(Key::S)], with_photo, |viewer, _| viewer.save();
    SaveAs: "save_as", "Save the session as…", [ctrl_shift(Key::S)], with_photo,
        |viewer, _| viewer.ask_where_to_save();
    Close: "close", "Close the photo", [ctrl(Key::W)], with_photo, |viewer, context| viewer.close(context);
    ExportFilm: "export_film", "Export the film…", [], with_photo, |viewer, _| viewer.ask_where_to_film();
    ToggleFilm: "film_options", "Zoom film…", [ctrl(Key::M)], with_photo,
        |viewer, _| viewer.state.film_options ^= true;
    PlayFilm: "play_film", "Preview the film", [key(Key::P)], with_photo, |viewer, _| viewer.play_film();
    StopExport: "stop_export", "Stop the export", [], with_photo, |viewer, _| viewer.stop_export();
    Copy: "copy", "Copy this state", [ctrl(Key::C)], with_photo, |viewer, _| viewer.copy();
    Quit: "quit", "Quit", [ctrl(Key::Q)], always,
        |_, context| context.send_viewport_cmd(ViewportCommand::Close);
    Run: "run", "Zoom", [key(Key::Enter), ctrl(Key::Enter)], with_photo, |viewer, _| viewer.run_placed();
    EnlargeFullImage: "enlarge_full_image", "Enlarge the full image x4", [key(Key::W)], with_photo,
        |viewer, _| viewer.enlarge_full_image();
    MoveBoxLeft: "move_box_left", "Place the box, or move it left", [shift(Key::ArrowLeft)], with_photo,
        |viewer, _| viewer.move_box([-1, 0]);
    MoveBoxRight: "move_box_right", "Place the box, or move it right", [shift(Key::ArrowRight)], with_photo,
        |viewer, _| viewer.move_box([1, 0]);
    MoveBoxUp: "move_box_up", "Place the box, or move it up", [shift(Key::ArrowUp)], with_photo,
        |viewer, _| viewer.move_box([0, -1]);
    MoveBoxDown: "move_box_down", "Place the box, or move it down", [shift(Key::ArrowDown)], with_photo,
        |viewer, _| viewer.move_box([0, 1]);
    GrowBox: "grow_box", "Larger box", [ctrl(Key::ArrowUp)], with_photo, |viewer, _| viewer.resize_box(true);
    ShrinkBox: "shrink_box", "Smaller box", [ctrl(Key::ArrowDown)], with_photo, |viewer, _| viewer.resize_box(false);
    Regenerate: "regenerate_prompt", "Write another prompt", [key(Key::R)], with_photo,
        |viewer, _| viewer.caption_box(true);
    StopCaptioning: "stop_captioning", "Stop writing the prompt", [], with_photo, |viewer, _| viewer.stop_captioning();
    Enqueue: "enqueue", "Queue the box", [key(Key::Q)], with_photo, |viewer, _| viewer.enqueue(None);
    ClearQueue: "clear_queue", "Clear the queue", [], with_photo, |viewer, _| viewer.state.queue.clear();
    RunAgain: "run_again", "Run again", [ctrl(Key::R)], with_photo, |viewer, _| viewer.run_again();
    Variants: "variants", "Make variants", [key(Key::V)], with_photo, |viewer, _| viewer.make_variants();
    Cancel: "cancel", "Cancel", [key(Key::Escape)], always, |viewer, context| viewer.cancel(context);
    GoToParent: "go_to_parent", "Up to the parent", [key(Key::ArrowLeft)], with_photo,
        |viewer, _| viewer.step(Direction::Parent);
    GoToChild: "go_to_child", "Down to the next state", [key(Key::ArrowRight)], with_photo,
        |viewer, _| viewer.step(Direction::Child);
    GoToPreviousSibling: "go_to_previous_sibling", "Previous sibling", [key(Key::ArrowUp)], with_photo,
        |viewer, _| viewer.step(Direction::PreviousSibling);
    GoToNextSibling: "go_to_next_sibling", "Next sibling", [key(Key::ArrowDown)], with_photo,
        |viewer, _| viewer.step(Direction::NextSibling);
    GoBack: "go_back", "Back", [alt(Key::ArrowLeft)], with_photo, |viewer, _| viewer.step(Direction::Back);
    GoForward: "go_forward", "Forward", [alt(Key::ArrowRight)], with_photo,
        |viewer, _| viewer.step(Direction::Forward);
    GoToPhoto: "go_to_photo", "To the photo", [key(Key::Home)], with_photo, |viewer, _| viewer.step(Direction::Photo);
    GoToDeepest: "go_to_deepest", "To the deepest state", [key(Key::End)], with_photo,
        |viewer, _| viewer.step(Direction::Deepest);
    Delete: "delete", "Delete with all below", [key(Key::Delete)], with_photo, |viewer, _| viewer.delete_current();
    Undo: "undo", "Undo delete", [ctrl(Key::Z)], with_photo, |viewer, _| viewer.undo();
    Redo: "redo", "Redo delete", [ctrl_shift(Key::Z), ctrl(Key::Y)], with_photo, |viewer, _| viewer.redo();
    Fit: "fit", "Fit", [key(Key::Num0), ctrl(Key::Num0)], with_photo,
        |viewer, _| viewer.with_document(|document, motion| document.show_current(motion));
    OneToOne: "actual_pixels", "Actual pixels, 1:1", [key(Key::Num1)], with_photo,
        |viewer, _| viewer.with_document(|document, motion| document.look_at_scale(1.0, motion));
    TwoToOne: "double_pixels", "Double, 2:1", [key(Key::Num2)], with_photo,
        |viewer, _| viewer.with_document(|document, motion| document.look_at_scale(2.0, motion));
    ZoomIn: "zoom_in", "Look closer", [key(Key::Plus), key(Key::Equals)], with_photo,
        |viewer, _| viewer.with_document(|document, _| document.zoom_middle(KEY_ZOOM));
    ZoomOut: "zoom_out", "Look from further away", [key(Key::Minus)], with_photo,
        |viewer, _| viewer.with_document(|document, _| document.zoom_middle(1.0 / KEY_ZOOM));
    ZoomTool: "zoom_tool", "Zoom box", [key(Key::Z)], always, |viewer, _| viewer.state.tool = Tool::Zoom;
    HandTool: "hand_tool", "Hand", [key(Key::H)], always, |viewer, _| viewer.state.tool = Tool::Hand;
    CompareSplit: "compare_split", "Compare: split", [key(Key::S)], with_photo,
        |viewer, _| viewer.state.toggle_compare(CompareMode::Split);
    CompareLens: "compare_lens", "Compare: lens", [key(Key::G)], with_photo,
        |viewer, _| viewer.state.toggle_compare(CompareMode::Lens);
    CompareWithBicubic: "compare_with_bicubic", "Compare with plain bicubic", [], with_photo,
        |viewer, _| viewer.state.against = Against::Bicubic;
    CompareWithPhoto: "compare_with_photo", "Compare with the photo's own pixels", [], with_photo,
        |viewer, _| viewer.state.against = Against::Photo;
    ScoreChain: "score_chain", "Score this chain", [], can_score, |viewer, _| viewer.score_chain();
    NextReference: "next_reference", "Compare with the next reference", [key(Key::B)], with_photo,
        |viewer, _| viewer.state.next_reference();
    // These last while their keys are held; the canvas looks at the keys.
    HoldReference: "hold_reference", "Flip to the reference (hold)", [key(Key::C)], with_photo, |_, _| ();
    HoldHeat: "hold_heat_map", "Show where it differs from its source (hold)", [key(Key::X)], with_photo, |_, _| ();
    HoldPhoto: "hold_photo", "Show the photo's own pixels (hold)", [key(Key::E)], with_photo, |_, _| ();
    EarlierPrompt: "earlier_prompt", "Earlier prompt", [alt(Key::ArrowUp)], with_photo,
        |viewer, _| viewer.recall_prompt(1);
    LaterPrompt: "later_prompt", "Later prompt", [alt(Key::ArrowDown)], with_photo,
        |viewer, _| viewer.recall_prompt(-1);
    RollSeed: "roll_seed", "Roll a new seed", [key(Key::D)], always,
        |viewer, _| viewer.state.choices.seed = fastrand::u32(..).into();
    ToggleSeedLock: "lock_seed", "Keep the seed", [key(Key::L)], always,
        |viewer, _| viewer.state.settings.seed_locked ^= true;
    ToggleEditPromptFirst: "edit_prompt_first", "Edit prompt first", [key(Key::A)], always,
        |viewer, _| viewer.state.settings.edit_prompt_first ^= true;
    ToggleFollow: "follow", "Follow new states", [], always, |viewer, _| viewer.state.settings.follow ^= true;
    ToggleMotion: "motion", "Motion", [], always, |viewer, _| viewer.state.settings.motion ^= true;
    TogglePrefetch: "prefetch", "Prefetch boxes", [], always, |viewer, _| viewer.state.settings.prefetch ^= true;
    ToggleLinkPhoto: "link_photo", "Link the photo in sessions", [], always,
        |viewer, _| viewer.state.settings.link_photo ^= true;
    ToggleKeepLocation: "keep_location", "Say in exports where photos were taken", [], always,
        |viewer, _| viewer.state.settings.keep_location ^= true;
    TogglePanels: "panels", "Show or hide the panels", [key(Key::Tab)], always,
        |viewer, _| viewer.state.settings.panels ^= true;
    WalkControls: "walk_controls", "To the first control; on with Tab", [key(Key::F6)], always,
        |_, context| context.memory_mut(|memory| memory.move_focus(FocusDirection::Next));
    ToggleInfo: "info_panel", "Show or hide the info panel", [key(Key::I)], always,
        |viewer, _| viewer.state.settings.info ^= true;
    ToggleFullscreen: "full_screen", "Full screen", [key(Key::F11)], always, |_, context| {
        let fullscreen = context.input(|input| input.viewport().fullscreen.unwrap_or(false));
        context.send_viewport_cmd(ViewportCommand::Fullscreen(!fullscreen));
    };
    NextTheme: "next_theme", "Dark, light or high contrast", [], always, |viewer, context| {
        let next = match viewer.state.settings.theme {
            Theme::Dark => Theme::Light,
            Theme::Light => Theme::Contrast,
            Theme::Contrast => Theme::Dark,
        };
        viewer.state.settings.theme = next;
        theme::apply(context, next);
    };
    ToggleModels: "models", "Models and memory…", [key(Key::M)], always, |viewer, _| viewer.toggle_models();
    ToggleDownloads: "downloads", "Get models…", [], always, |viewer, _| viewer.toggle_downloads();
    StopDownload: "stop_download", "Stop getting models", [], always, |viewer, _| viewer.stop_download();
    LookForModels: "look_for_models", "Look for models again", [], always, |viewer, _| viewer.look_for_models();
    UseBestBackbone: "use_best_model", "Use the best model on this machine", [], always,
        |viewer, _| viewer.use_best_backbone();
    OpenModel: "open_model", "Open a model file…", [], always, |viewer, _| viewer.tasks.ask_for_model();
    AddModelFolder: "add_model_folder", "Add a folder of models…", [], always, |viewer, _| viewer.tasks.ask_for_model_folder();
    TogglePalette: "palette", "All actions…", [ctrl(Key::P)], always, |viewer, _| {
        viewer.state.palette = match viewer.state.palette {
            Some(_) => None,
            None => Some(Palette::default()),
        };
    };
    ToggleHelp: "keys", "Keys", [key(Key::F1), key(Key::Questionmark)], always, |viewer, _| viewer.state.help ^= true;
    ToggleSelftest: "selftest", "Self-test…", [], always, |viewer, _| viewer.state.selftest.is_open ^= true;
    RunSelftest: "run_selftest", "Run the self-test", [], always, |viewer, _| viewer.run_selftest();
    StopSelftest: "stop_selftest", "Stop the self-test", [], always, |viewer, _| viewer.stop_selftest();
    CopySelftest: "copy_selftest", "Copy report", [], |state| !state.selftest.outcomes.is_empty(),
        |viewer, context| context.copy_text(viewer.state.selftest.report());
    ResetKeys: "reset_keys", "Reset all keys", [], always, |viewer, _| {
        viewer.state.settings.keys.clear();
        viewer.state.bindings = Bindings::new(&viewer.state.settings.keys);
    };
    Dismiss: "dismiss", "Close the message", [], always, |viewer, _| _ = viewer.state.messages.pop();
}

impl Command {
    /// What it is called in menus and tooltips.
    pub fn label(self) -> &'static str {
        self.row().label
    }

    /// Whether it lasts as long as its key is held; such keys do nothing when pressed.
    pub fn is_held(self) -> bool {
        matches!(self, Self::HoldReference | Self::HoldHeat | Self::HoldPhoto)
    }

    /// Whether its keys work while a text field has the focus.
    pub fn works_while_typing(self, shortcut: &KeyboardShortcut) -> bool {
        if matches!(self, Self::EarlierPrompt | Self::LaterPrompt) {
            return true;
        }
        // Copying, undoing and word-wise moving belong to the text then.
        let moves = matches!(self, Self::Copy | Self::Undo | Self::Redo | Self::GrowBox | Self::ShrinkBox)
            || self.row().id.starts_with("go_");
        !moves
            && (shortcut.modifiers.command
                || matches!(shortcut.logical_key, Key::Escape | Key::F1 | Key::F6 | Key::F11))
    }
}

/// The usual keys of exporters that are used often.
pub(super) fn export_key(id: &str) -> Option<KeyboardShortcut> {
    match id {
        "state" => Some(ctrl(Key::E)),
        "chain" => Some(ctrl_shift(Key::E)),
        _ => None,
    }
}

/// What settings files called commands before they had ids: their labels then.
const FORMER_NAMES: [(&str, &str); 77] = [
    ("try_the_sample", "open_sample"),
    ("save_the_session", "save"),
    ("save_the_session_as", "save_as"),
    ("close_the_photo", "close"),
    ("export_this_state", "export_state"),
    ("export_the_chain", "export_chain"),
    ("export_a_strip", "export_strip"),
    ("export_a_contact_sheet", "export_sheet"),
    ("export_the_reference_s_folders", "export_folders"),
    ("zoom_film", "film_options"),
    ("preview_the_film", "play_film"),
    ("stop_the_export", "stop_export"),
    ("copy_this_state", "copy"),
    ("zoom", "run"),
    ("enlarge_the_whole_image_x4", "enlarge_full_image"),
    ("find_other_words", "regenerate_prompt"),
    ("stop_finding_words", "stop_captioning"),
    ("queue_the_box", "enqueue"),
    ("clear_the_queue", "clear_queue"),
    ("make_variants", "variants"),
    ("up_to_the_state_before", "go_to_parent"),
    ("down_to_the_next_state", "go_to_child"),
    ("previous_sibling", "go_to_previous_sibling"),
    ("next_sibling", "go_to_next_sibling"),
    ("back", "go_back"),
    ("forward", "go_forward"),
    ("to_the_photo", "go_to_photo"),
    ("to_the_deepest_state", "go_to_deepest"),
    ("delete_with_all_below", "delete"),
    ("undo_delete", "undo"),
    ("redo_delete", "redo"),
    ("actual_pixels_1_1", "actual_pixels"),
    ("double_2_1", "double_pixels"),
    ("look_closer", "zoom_in"),
    ("look_from_further_away", "zoom_out"),
    ("zoom_box", "zoom_tool"),
    ("hand", "hand_tool"),
    ("compare_with_plain_bicubic", "compare_with_bicubic"),
    ("compare_with_the_photo_s_own_pixels", "compare_with_photo"),
    ("compare_with_the_next_reference", "next_reference"),
    ("flip_to_the_reference_hold", "hold_reference"),
    ("show_where_it_disagrees_hold", "hold_heat_map"),
    ("show_the_photo_s_own_pixels_hold", "hold_photo"),
    ("roll_a_new_seed", "roll_seed"),
    ("keep_the_seed", "lock_seed"),
    ("ask_first", "edit_prompt_first"),
    ("follow_new_states", "follow"),
    ("work_ahead", "prefetch"),
    ("link_the_photo_in_sessions", "link_photo"),
    ("show_or_hide_the_panels", "panels"),
    ("show_or_hide_the_info_panel", "info_panel"),
    ("dark_light_or_high_contrast", "next_theme"),
    ("words_my_own", "prompt_from_null"),
    ("words_tags", "prompt_from_dape"),
    ("words_qwen2_5_vl", "prompt_from_vlm_base"),
    ("words_qwen2_5_vl_tuned", "prompt_from_vlm"),
    ("open_a_tagger_ram", "open_dape"),
    ("open_qwen2_5_vl", "open_vlm_base"),
    ("open_an_adapter_for_qwen2_5_vl", "open_vlm"),
    ("models_and_memory", "models"),
    ("get_models", "downloads"),
    ("stop_getting_models", "stop_download"),
    ("look_for_models_again", "look_for_models"),
    ("use_the_best_model_on_this_machine", "use_best_model"),
    ("open_a_model_file", "open_model"),
    ("open_chain_of_zoom_sd3", "open_sd3"),
    ("all_actions", "palette"),
    ("reset_all_keys", "reset_keys"),
    ("full_screen", "full_screen"),
    ("open", "open"),
    ("quit", "quit"),
    ("run_again", "run_again"),
    ("fit", "fit"),
    ("earlier_prompt", "earlier_prompt"),
    ("later_prompt", "later_prompt"),
    ("motion", "motion"),
    ("keys", "keys"),
];

/// The id of a command that a settings file calls by its id or, as files of before did, by its label.
pub(super) fn current_id(name: &str) -> &str {
    FORMER_NAMES.iter().find(|(former, _)| *former == name).map_or(name, |(_, id)| id)
}
