//! A server as the source of prompts: what the panel says of it, and what of it is kept.

use super::*;
use crate::chat_server::{ChatServer, MODEL, stream};
use chain_of_zoom::base::{PromptSource, SERVER, ServerEndpoint, ServerKey};
use chain_of_zoom::document::session;

const KEY: &str = "sk-canary-0123456789";

fn with_server(server: ServerEndpoint) -> Settings {
    let prompt_source = PromptSource::from(&SERVER);
    Settings { server, prompt_source, edit_prompt_first: true, backbone: Backbone::from(&BICUBIC), ..settings() }
}

/// Opens what is folded up at first.
fn unfold(harness: &mut Harness<'_, Viewer>) {
    harness.get_by_label_contains("Server: ").click();
    harness.run_steps(20);
}

#[test]
fn the_panel_says_where_pictures_go() {
    let folder = Folder::new();
    let mut harness = app(with_server(ServerEndpoint::default()));
    open(&mut harness, &folder);
    assert!(harness.query_by_label_contains("sent to").is_none(), "they stay here");
    harness.state_mut().act(Action::UseServer("http://example.org/v1".into()));
    harness.run_steps(3);
    let notice =
        "The box, the state around it and the question are sent to example.org. The connection is not encrypted";
    assert!(harness.query_by_label_contains(notice).is_some());
    harness.state_mut().state.settings.include_parent = false;
    harness.state_mut().act(Action::UseServer("https://example.org/v1/".into()));
    harness.run_steps(3);
    assert!(harness.query_by_label("The box and its question are sent to example.org.").is_some());
    // What is no address changes nothing, and is told.
    unfold(&mut harness);
    harness.state_mut().act(Action::UseServer("example.org".into()));
    harness.run_steps(3);
    assert!(harness.query_by_label_contains("expected an address such as http://127.0.0.1:11434/v1").is_some());
    assert_eq!(harness.state().state.settings.server.address.as_str(), "https://example.org/v1");
    harness.state_mut().act(Action::UsePromptSource(chain_of_zoom::base::PROMPT_SOURCES[0]));
    harness.run_steps(3);
    assert!(harness.query_by_label_contains("sent to").is_none());
}

#[test]
fn a_key_goes_to_its_own_server_alone() {
    let address = "https://example.org/v1".parse().unwrap();
    let server = ServerEndpoint { address, model: "eyes".into(), key: ServerKey::new(KEY) };
    let mut harness = app(with_server(server));
    let key = |harness: &Harness<'_, Viewer>| harness.state().state.settings.server.key.reveal().to_owned();
    for (address, expected) in [("https://example.org/v2", KEY), ("https://example.com/v1", "")] {
        harness.state_mut().act(Action::UseServer(address.into()));
        harness.step();
        assert_eq!(key(&harness), expected, "{address}");
    }
    assert_eq!(harness.state().state.settings.server.model, "", "a model of another server");
}

#[test]
fn a_server_is_tested_from_the_panel() {
    let server = ChatServer::start(|_, _, to| stream(to, &["an orange disc"]));
    let address = server.address.parse().unwrap();
    let folder = Folder::new();
    let mut harness = app(with_server(ServerEndpoint { address, ..ServerEndpoint::default() }));
    open(&mut harness, &folder);
    unfold(&mut harness);
    for label in ["Address of the server", "Model of the server", "Key of the server"] {
        assert!(harness.query_by_label(label).is_some(), "{label}");
    }
    assert!(server.asked().is_empty(), "nobody is asked before the user does");
    harness.state_mut().act(Action::TryServer);
    harness.step();
    until(&mut harness, "the trial", |viewer| viewer.state.server.trial.is_some());
    assert!(harness.query_by_label("It answers, and names 1 model.").is_some());
    assert!(harness.query_by_label_contains("eyes answers in").is_some());
    assert_eq!(server.questions().len(), 1);
}

#[test]
fn prompts_of_a_server_are_used_and_nothing_else_of_it_is_kept() {
    let folder = Folder::new();
    let server = ChatServer::start(|number, _, to| stream(to, &["fur", &format!(" {number}")]));
    let endpoint =
        ServerEndpoint { address: server.address.parse().unwrap(), model: MODEL.into(), key: ServerKey::new(KEY) };
    let keeps = Persistence { settings: false, sessions: Some(folder.path("autosave")) };
    let mut harness = app_that_keeps(with_server(endpoint), keeps);
    open(&mut harness, &folder);
    harness.hover_at(on_window(&harness, 100.0, 100.0));
    harness.run_steps(20);
    assert!(server.asked().is_empty(), "a box that is only pointed at");
    drag(&mut harness, (100.0, 100.0), (132.0, 132.0));
    until(&mut harness, "the prompt", |viewer| idle(viewer) && !viewer.state.extracted_prompt.is_empty());
    assert_eq!(harness.state().state.extracted_prompt, "fur 0");
    harness.state_mut().act(Command::Run);
    until(&mut harness, "the step", |viewer| count(viewer) == 2 && idle(viewer));
    assert_eq!(server.questions().len(), 1, "it has the prompt already");
    assert_eq!(server.questions()[0].header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(document(&harness).history.current().record.as_ref().unwrap().prompt, "fur 0");

    harness.state_mut().act(Action::SaveTo(folder.path("work.coz")));
    until(&mut harness, "the session", |viewer| matches!(viewer.state.messages.last(), Some(Message::Done(_))));
    for (exporter, name) in
        [(&stills::STATE, "state.png"), (&tree::EXPORTER, "folders"), (&sheet::EXPORTER, "sheet.png")]
    {
        harness.state_mut().act(Command::Dismiss);
        harness.step();
        harness.state_mut().act(Action::ExportTo(exporter, folder.path(name)));
        until(&mut harness, "the export", |viewer| matches!(viewer.state.messages.last(), Some(Message::Done(_))));
    }
    let mut archive = zip::ZipArchive::new(std::fs::File::open(folder.path("work.coz")).unwrap()).unwrap();
    archive.extract(folder.path("session")).unwrap();
    until(&mut harness, "the autosave", |_| folder.path("autosave").is_dir());
    let files = walkdir::WalkDir::new(folder.root()).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let mut checked = 0;
    for file in files {
        let bytes = std::fs::read(file.path()).unwrap();
        for text in ["canary", server.address.as_str()] {
            let is_there = bytes.windows(text.len()).any(|part| part == text.as_bytes());
            assert!(!is_there, "{} holds {text}", file.path().display());
        }
        checked += 1;
    }
    assert!(checked > 8, "{checked}");
    assert!(session::open(&folder.path("work.coz")).is_ok());
    let written = toml::to_string_pretty(&harness.state().state.settings).unwrap();
    assert!(written.contains(&server.address) && !written.contains("canary"), "{written}");
    assert!(!format!("{:?}", harness.state().state.settings).contains("canary"));
}

#[test]
fn a_server_that_fails_is_told_and_nothing_is_lost() {
    let folder = Folder::new();
    let server = ChatServer::start(|number, _, to| match number {
        0 => crate::chat_server::respond(to, 200, "Content-Type: text/html\r\n", b"<html>"),
        _ => stream(to, &["fur"]),
    });
    let address = server.address.parse().unwrap();
    let mut harness = app(with_server(ServerEndpoint { address, ..ServerEndpoint::default() }));
    open(&mut harness, &folder);
    drag(&mut harness, (100.0, 100.0), (132.0, 132.0));
    until(&mut harness, "the problem", |viewer| idle(viewer) && !viewer.state.messages.is_empty());
    let Some(Message::UserError(problem, Cause::Job)) = harness.state().state.messages.last() else { panic!("none") };
    assert!(problem.details.contains("a web page") && problem.hint.contains("/v1"), "{problem:?}");
    assert!(document(&harness).placed.is_some(), "the box waits still");
    harness.state_mut().act(Command::Regenerate);
    until(&mut harness, "the prompt", |viewer| idle(viewer) && viewer.state.extracted_prompt == "fur");
}
