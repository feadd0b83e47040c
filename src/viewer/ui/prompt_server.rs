//! The server that writes prompts: what leaves this machine for it, where it is, and what was found there.

use egui::{CollapsingHeader, Label, RichText, TextEdit};

use super::dim;
use crate::base::ServerKey;
use crate::hub;
use crate::viewer::actions::Action;
use crate::viewer::{Viewer, theme};

/// Models that are listed.
const LISTED: usize = 100;

pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let settings = &viewer.state.settings;
    if let Some(notice) = settings.server.notice(settings.include_parent) {
        ui.add(Label::new(RichText::new(notice).color(ui.visuals().warn_fg_color)).wrap());
    }
    let title = format!("Server: {}", settings.server.address.host());
    CollapsingHeader::new(title).id_salt("server").show(ui, |ui| {
        address(viewer, ui);
        model(viewer, ui);
        key(viewer, ui);
        trial(viewer, ui);
    });
}

fn address(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let known = viewer.state.settings.server.address.to_string();
    let mut text = viewer.state.server.address.clone().unwrap_or_else(|| known.clone());
    ui.label(dim(ui, "Address, up to and with /v1"));
    let response = ui.add(TextEdit::singleline(&mut text).desired_width(f32::INFINITY));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Address of the server"));
    if response.changed() {
        viewer.state.server.address = Some(text.clone());
        viewer.state.server.problem = None;
    }
    // What is half typed is nobody's address.
    if response.lost_focus() && text != known {
        viewer.actions.push(Action::UseServer(text));
    }
    if let Some(problem) = &viewer.state.server.problem {
        ui.add(Label::new(RichText::new(problem).small().color(theme::ERROR)).wrap());
    }
    if let Ok(Some(named)) = hub::server_of_environment()
        && named.address != viewer.state.settings.server.address
    {
        let offer = format!("Use OPENAI_BASE_URL: {}", named.address);
        if ui.small_button(offer).clicked() {
            viewer.actions.push(Action::UseServer(named.address.to_string()));
        }
    }
}

fn model(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.label(dim(ui, "Model"));
    let model = &mut viewer.state.settings.server.model;
    let field = TextEdit::singleline(model).hint_text("The first that the server names");
    let response = ui.add(field.desired_width(f32::INFINITY));
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::TextInput, true, "Model of the server"));
    let models = viewer.state.server.trial.as_ref().map(|trial| trial.models.as_slice()).unwrap_or_default();
    if !models.is_empty() {
        ui.menu_button("Its models", |ui| {
            for name in models.iter().take(LISTED) {
                if ui.selectable_label(model == name, name).clicked() {
                    model.clone_from(name);
                    ui.close();
                }
            }
        });
    }
}

fn key(viewer: &mut Viewer, ui: &mut egui::Ui) {
    ui.label(dim(ui, "Key, where it needs one"));
    let mut text = viewer.state.settings.server.key.reveal().to_owned();
    let field = TextEdit::singleline(&mut text).password(true).desired_width(f32::INFINITY);
    let response = ui.add(field).on_hover_text(
        "Kept beside the settings in a file that only you can read, for this server alone. OPENAI_API_KEY works too.",
    );
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::PasswordInput, true, "Key of the server"));
    if response.changed() {
        viewer.use_server_key(&ServerKey::new(&text));
    }
}

fn trial(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let is_trying = viewer.state.server.is_trying;
    let (text, tip) = match is_trying {
        true => ("Stop asking", "Leave the server alone"),
        false => ("Test", "Ask the server for its models, and what is in a picture of the program's own"),
    };
    if ui.small_button(text).on_hover_text(tip).clicked() {
        viewer.actions.push(if is_trying { Action::StopTryingServer } else { Action::TryServer });
    }
    if is_trying {
        ui.label(dim(ui, "Asking\u{2026} A model may have to be loaded first."));
    }
    let Some(trial) = &viewer.state.server.trial else { return };
    if !trial.models.is_empty() {
        let plural = if trial.models.len() == 1 { "" } else { "s" };
        ui.label(dim(ui, format!("It answers, and names {} model{plural}.", trial.models.len())));
    }
    match &trial.seen {
        Ok(line) => _ = ui.add(Label::new(dim(ui, line.as_str())).wrap()),
        Err(problem) => {
            let text = RichText::new(format!("{}. {}", problem.details, problem.hint)).small().color(theme::ERROR);
            ui.add(Label::new(text).wrap());
        }
    }
}
