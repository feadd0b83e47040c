//! Prompts by servers: one that streams, stalls, errs, cuts, sends elsewhere and talks nonsense. What is sent, to whom,
//! and that keys stay with those they are for.

use std::io::Write;
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::chat_server::{ChatServer, MODEL, begin, document, done, is_left, message, respond, stream, word};
use crate::samples::{Folder, coz, photo};
use chain_of_zoom::base::{
    AlignMethod, BUILT_IN, CaptionRequest, DeviceChoice, MemoryPlan, Progress, PromptSource, Region, SERVER,
    ServerEndpoint, ServerKey, Stage, UserError,
};
use chain_of_zoom::engine::{Engine, Event, Job, JobOutcome, Restorer, ServerTrial};
use chain_of_zoom::imaging::{Picture, codec};
use chain_of_zoom::pipelines::caption::server::{ChatServer as Client, Patience, Question};
use chain_of_zoom::pipelines::caption::{CaptionInput, Captioner};
use chain_of_zoom::pipelines::{PipelineError, caption};
use chain_of_zoom::synthetic;
use chain_of_zoom::synthetic::Size;

const KEY: &str = "sk-canary-0123456789";

fn endpoint(server: &ChatServer) -> ServerEndpoint {
    let address = server.address.parse().unwrap();
    ServerEndpoint { address, model: String::new(), key: ServerKey::new(KEY) }
}

fn source(server: &ChatServer) -> PromptSource {
    PromptSource::from(&SERVER).asked_at(endpoint(server))
}

fn open(server: &ChatServer) -> Box<dyn Captioner> {
    caption::open(&source(server), DeviceChoice::Cpu).unwrap().unwrap()
}

fn input(request: CaptionRequest) -> CaptionInput {
    CaptionInput { parent: Arc::new(photo(100, 80)), enlarged: Arc::new(photo(64, 64)), request }
}

fn ask(captioner: &mut dyn Captioner) -> Result<String, PipelineError> {
    let input = input(CaptionRequest::default());
    captioner.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ())
}

/// What the user reads.
fn problem(error: PipelineError) -> String {
    let text = UserError::from(error).to_string();
    assert!(!text.contains(KEY) && !text.contains("canary"), "{text}");
    text
}

#[test]
fn words_come_one_by_one_to_the_question_of_the_vlm() {
    let (seen, wait) = channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = ChatServer::start(move |_, _, stream| {
        begin(stream);
        for text in ["fur", ", snow", ", eyes"] {
            word(stream, text);
            // The next one only when this one was seen.
            wait.lock().unwrap().recv_timeout(Duration::from_secs(20)).unwrap();
        }
        done(stream);
    });
    let mut captioner = open(&server);
    let request = CaptionRequest {
        include_parent: true,
        max_new_tokens: 48,
        temperature: 0.5,
        seed: 7,
        message: Some("Which colours?".into()),
    };
    let input = input(request);
    let mut texts = Vec::new();
    let mut on_text = |text: &str| {
        if texts.last().is_none_or(|last| last != text) {
            texts.push(text.to_owned());
            seen.send(()).unwrap();
        }
    };
    let prompt = captioner.caption(&input, &mut Progress::new(&mut |_, _| true), &mut on_text).unwrap();
    assert_eq!(prompt, "fur, snow, eyes");
    assert_eq!(texts, ["fur", "fur, snow", "fur, snow, eyes"]);
    let asked = &server.questions()[0];
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
    assert_eq!(asked.headers.iter().filter(|(_, value)| value.contains("canary")).count(), 1);
    assert!(!asked.line.contains("canary") && !asked.body.to_string().contains("canary"));
    let body = &asked.body;
    assert_eq!(
        (&body["model"], &body["max_tokens"], &body["temperature"], &body["seed"], &body["stream"]),
        (&json!(MODEL), &json!(48), &json!(0.5), &json!(7), &json!(true))
    );
    assert_eq!(body["messages"][0], json!({ "role": "system", "content": "Which colours?" }));
    assert_eq!(body["messages"][1]["role"], "user");
    let pictures: Vec<Picture> = asked.images().into_iter().map(decoded).collect();
    assert_eq!(pictures, [(*input.parent).clone(), (*input.enlarged).clone()], "the parent first, as they are");
    // The list of models is asked for once.
    assert_eq!(server.asked().len(), 2);
}

fn decoded(url: &str) -> Picture {
    let bytes = STANDARD.decode(url.strip_prefix("data:image/png;base64,").unwrap()).unwrap();
    let folder = Folder::new();
    std::fs::write(folder.path("sent.png"), bytes).unwrap();
    codec::open(&folder.path("sent.png")).unwrap()
}

#[test]
fn servers_that_do_not_stream_are_understood_and_large_photos_reduced() {
    let server = ChatServer::start(|_, _, stream| message(stream, "<think>A fox?</think>\n fur, snow\n"));
    let mut captioner = open(&server);
    assert_eq!(ask(&mut *captioner).unwrap(), "fur, snow");
    let request = CaptionRequest { include_parent: true, ..CaptionRequest::default() };
    let wide = CaptionInput { parent: Arc::new(photo(3072, 40)), ..input(request) };
    captioner.caption(&wide, &mut Progress::new(&mut |_, _| true), &mut |_| ()).unwrap();
    let asked = &server.questions()[1];
    let question = CaptionRequest::default_message(true);
    assert_eq!(asked.body["messages"][0]["content"], question);
    let parent = decoded(asked.images()[0]);
    assert_eq!((parent.width(), parent.height()), (1536, 20));
    assert_eq!(captioner.bytes() + captioner.bytes_loaded() + captioner.bytes_to_load(), 0);
}

#[test]
fn a_stall_ends_at_once_when_it_is_stopped() {
    let (left, is_gone) = channel();
    let server = ChatServer::start(move |number, _, stream| {
        if number % 2 == 1 {
            begin(stream);
            word(stream, "fur");
        }
        left.send(is_left(stream, 20)).unwrap();
    });
    let mut captioner = open(&server);
    for number in 0..4 {
        let (start, mut stopped) = (Instant::now(), None);
        let mut goes_on = |_: Stage, _: f32| {
            let goes_on = start.elapsed() < Duration::from_millis(300);
            if !goes_on {
                stopped.get_or_insert_with(Instant::now);
            }
            goes_on
        };
        let input = input(CaptionRequest::default());
        let mut texts = Vec::new();
        let outcome =
            captioner.caption(&input, &mut Progress::new(&mut goes_on), &mut |text| texts.push(text.to_owned()));
        assert!(matches!(outcome, Err(PipelineError::Cancelled)), "{outcome:?}");
        assert!(stopped.unwrap().elapsed() < Duration::from_millis(100), "it took {:?}", stopped.unwrap().elapsed());
        assert!(start.elapsed() < Duration::from_millis(600), "it was asked too seldom: {:?}", start.elapsed());
        assert_eq!(texts.is_empty(), number % 2 == 0);
        // The connection goes too, and with it the thread.
        assert!(is_gone.recv_timeout(Duration::from_secs(10)).unwrap());
    }
}

#[test]
fn silence_is_told_before_the_first_word_and_after_it() {
    let server = ChatServer::start(|number, _, stream| {
        if number > 0 {
            begin(stream);
            word(stream, "fur");
        }
        is_left(stream, 20);
    });
    let patience =
        Patience { first: Duration::from_millis(300), between: Duration::from_millis(200), ..Patience::CAPTION };
    let mut client = Client::new(ServerEndpoint { model: MODEL.into(), ..endpoint(&server) }, patience);
    let question = Question { system: None, parts: &[], max_tokens: 8, temperature: 0.0, seed: None };
    let mut ask = || problem(client.answer(&question, &mut || true, &mut |_| ()).unwrap_err());
    let text = ask();
    assert!(text.contains("it does not answer: nothing came for 0.3 s") && text.contains(&server.address), "{text}");
    let text = ask();
    assert!(text.contains("in the middle of its answer: nothing came for 0.2 s"), "{text}");
    assert_eq!(server.questions().len(), 2, "neither is asked again");
}

#[test]
fn busy_servers_are_asked_again_and_nobody_for_ever() {
    let server = ChatServer::start(|number, _, to| match number {
        0 => document(to, 500, &json!({ "error": { "message": "loading" } })),
        1 => respond(to, 429, "Retry-After: 0\r\n", b"slowly"),
        2 => stream(to, &["fur"]),
        _ => respond(to, 503, "Retry-After: 1\r\n", b"<html>busy"),
    });
    let mut captioner = open(&server);
    assert_eq!(ask(&mut *captioner).unwrap(), "fur");
    let start = Instant::now();
    let text = problem(ask(&mut *captioner).unwrap_err());
    assert!(text.contains("503: it answers with a web page"), "{text}");
    assert_eq!(server.questions().len(), 6, "three tries each");
    assert!(start.elapsed() >= Duration::from_secs(2), "it is asked as late as it wants");

    // Nobody there.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let nobody = ServerEndpoint { address: address.parse().unwrap(), ..ServerEndpoint::default() };
    let mut captioner =
        caption::open(&PromptSource::from(&SERVER).asked_at(nobody), DeviceChoice::Cpu).unwrap().unwrap();
    let text = problem(ask(&mut *captioner).unwrap_err());
    assert!(text.contains(&address) && text.contains("Start the server"), "{text}");
}

#[test]
fn a_cut_stream_is_no_short_prompt() {
    let server = ChatServer::start(|number, _, to| match number {
        0 => {
            begin(to);
            word(to, "fur");
            word(to, ", sno");
        }
        // Chunks that end without the last one.
        1 => {
            let event = "data: {\"choices\":[{\"delta\":{\"content\":\"fur\"}}]}\n\n";
            let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
            _ = to.write_all(format!("{head}{:x}\r\n{event}\r\n20\r\ndata: {{\"cho", event.len()).as_bytes());
        }
        2 => {
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n";
            _ = to.write_all(format!("{head}{{\"choices\":[{{\"mess").as_bytes());
        }
        _ => stream(to, &["fur, snow"]),
    });
    let mut captioner = open(&server);
    for number in 1..=2 {
        let text = problem(ask(&mut *captioner).unwrap_err());
        assert!(text.contains("broke off in the middle") && text.contains(&server.address), "{text}");
        assert_eq!(server.questions().len(), number, "what was shown is not asked again");
    }
    // Of this one no word had come.
    assert_eq!(ask(&mut *captioner).unwrap(), "fur, snow");
}

#[test]
fn nothing_follows_a_server_elsewhere() {
    let other = ChatServer::start(|_, _, to| message(to, "caught"));
    let target = format!("{}/chat/completions?key=1", other.address);
    let server = ChatServer::start(move |number, _, to| {
        let status = [301, 302, 303, 307, 308][number];
        respond(to, status, &format!("Location: {target}\r\n"), b"");
    });
    let mut captioner = open(&server);
    for _ in 0..5 {
        let text = problem(ask(&mut *captioner).unwrap_err());
        assert!(text.contains("sends to another address") && text.contains(&other.address), "{text}");
        assert!(!text.contains("key=1"), "{text}");
    }
    assert_eq!(server.questions().len(), 5);
    assert!(other.asked().is_empty(), "{:?}", other.asked());
}

#[test]
fn what_is_no_answer_is_named_and_nothing_is_lost() {
    let folder = Folder::new();
    let png = std::fs::read(folder.photo("x.png", 8, 8)).unwrap();
    let long = format!("data: {}", "x".repeat(10 << 20)).into_bytes();
    let many = |field: &str| {
        let event = format!("data: {{\"choices\":[{{\"delta\":{{\"{field}\":\"fur \"}}}}]}}\n");
        event.repeat(120_000).into_bytes()
    };
    let answers: Vec<(&str, Vec<u8>, &str)> = vec![
        ("text/html; charset=utf-8", b"<!DOCTYPE html><title>Welcome</title>".to_vec(), "a web page"),
        ("text/plain", b"\n <html>".to_vec(), "a web page"),
        ("image/png", png.clone(), "a picture"),
        ("application/octet-stream", png, "a picture"),
        ("application/json", b"{\"choices\": 3}".to_vec(), "not with a chat's answer"),
        ("application/json", b"nonsense".to_vec(), "\"nonsense\""),
        ("application/json", Vec::new(), "nothing"),
        ("application/json", vec![0xff; 100], "not with a chat's answer"),
        ("text/event-stream", b"data: {]\n\n".to_vec(), "not with a chat's answer"),
        ("text/event-stream", long.clone(), "a line of more than 1 MB"),
        ("application/json", [b"{\"a\":\"".as_slice(), &long].concat(), "a line of more than 1 MB"),
        ("text/event-stream", many("content"), "more than 64 KB of words"),
        ("text/event-stream", many("reasoning"), "more than 4 MB"),
        ("text/event-stream", b"data: {\"error\":{\"message\":\"no such model\"}}\n".to_vec(), "no such model"),
        ("text/event-stream", b"data: {\"error\":\"the key sk-canary-0123456789\"}\n".to_vec(), "the key (key)"),
    ];
    let (count, served) = (answers.len(), answers.clone());
    let server = ChatServer::start(move |number, _, to| match served.get(number) {
        Some((kind, body, _)) => respond(to, 200, &format!("Content-Type: {kind}\r\n"), body),
        None => stream(to, &["fur"]),
    });
    let mut captioner = open(&server);
    for (kind, _, expected) in &answers {
        let text = problem(ask(&mut *captioner).unwrap_err());
        assert!(text.contains(expected) && text.len() < 700, "{kind}, {expected}: {text}");
    }
    assert_eq!(server.questions().len(), count);
    assert_eq!(ask(&mut *captioner).unwrap(), "fur", "the same one, asked once more");
}

#[test]
fn refusals_say_what_to_do_and_show_no_key() {
    let server = ChatServer::start(|number, _, to| match number {
        0 => document(to, 401, &json!({ "error": { "message": format!("Incorrect API key provided: {KEY}") } })),
        1 => respond(to, 404, "Content-Type: text/plain\r\n", b"404 page not found"),
        2 => document(to, 404, &json!({ "error": { "message": "model 'eyes' not found" } })),
        3 => document(to, 500, &json!({ "error": { "message": "image input is not supported - hint: mmproj" } })),
        4 => document(to, 200, &json!({ "error": "Unexpected endpoint or method. (POST /chat/completions)" })),
        _ => document(to, 400, &json!({ "error": { "message": "this model does not support images" } })),
    });
    let mut captioner = open(&server);
    const BLIND: &str = "a model that the server has and that sees pictures";
    for expected in ["Check its key", "Check the address", BLIND, BLIND, "Check the address", BLIND] {
        let text = problem(ask(&mut *captioner).unwrap_err());
        assert!(text.contains(expected), "{text}");
    }
    assert_eq!(server.questions().len(), 6, "none of it passes");
}

#[test]
fn a_model_that_is_being_loaded_is_waited_for() {
    let server = ChatServer::start(|number, _, to| match number {
        0..6 => document(to, 503, &json!({ "error": { "message": "Loading model", "code": 503 } })),
        _ => stream(to, &["fur"]),
    });
    assert_eq!(ask(&mut *open(&server)).unwrap(), "fur");
    assert_eq!(server.questions().len(), 7);
}

/// llama.cpp refuses by the headers alone, and closes the connection.
#[test]
fn who_refuses_before_the_pictures_came_is_heard() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://{}/v1", listener.local_addr().unwrap()).parse().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut lines = std::io::BufRead::lines(std::io::BufReader::new(&stream));
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            counted.fetch_add(1, Ordering::Relaxed);
            document(&mut stream, 401, &json!({ "error": { "message": "Invalid API Key" } }));
        }
    });
    let endpoint = ServerEndpoint { address, model: MODEL.into(), key: ServerKey::default() };
    let mut captioner =
        caption::open(&PromptSource::from(&SERVER).asked_at(endpoint), DeviceChoice::Cpu).unwrap().unwrap();
    let mut dice = fastrand::Rng::with_seed(1);
    let noise: Vec<u8> = (0..3 * 1100 * 1100).map(|_| dice.u8(..)).collect();
    let parent = Arc::new(Picture::from_rgb(1100, 1100, noise).unwrap());
    let request = CaptionRequest { include_parent: true, ..CaptionRequest::default() };
    let input = CaptionInput { parent, ..input(request) };
    let asking = captioner.caption(&input, &mut Progress::new(&mut |_, _| true), &mut |_| ());
    let text = problem(asking.unwrap_err());
    assert!(text.contains("Invalid API Key") && text.contains("Check its key"), "{text}");
    assert_eq!(asked.load(Ordering::Relaxed), 1);
}

#[test]
fn fields_that_a_server_does_not_know_are_left_out_from_then_on() {
    let server = ChatServer::start(|number, _, to| {
        let complaint = |text: &str| json!({ "error": { "message": text } });
        match number {
            0 => {
                let text = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.";
                document(to, 400, &complaint(text));
            }
            1 => document(to, 422, &json!({ "detail": [{ "loc": ["body", "seed"], "msg": "extra" }] })),
            2 => document(to, 500, &complaint("System role not supported")),
            _ => stream(to, &["fur"]),
        }
    });
    let mut captioner = open(&server);
    for asked in [4, 5] {
        assert_eq!(ask(&mut *captioner).unwrap(), "fur");
        assert_eq!(server.questions().len(), asked);
    }
    let body = &server.questions()[4].body;
    assert_eq!((&body["max_completion_tokens"], &body["temperature"]), (&json!(32), &json!(0.0)));
    assert!(body.get("max_tokens").is_none() && body.get("seed").is_none(), "{body}");
    // The question comes behind the pictures then.
    assert_eq!(body["messages"].as_array().unwrap().len(), 1);
    let content = body["messages"][0]["content"].as_array().unwrap();
    assert_eq!(content.last().unwrap()["text"], CaptionRequest::default_message(false));
}

#[test]
fn a_model_that_thinks_away_all_tokens_is_asked_not_to() {
    let server = ChatServer::start(|number, _, to| match number {
        0 | 4 => message(to, "<think>A fox?"),
        1 => {
            let text = "Unrecognized request argument supplied: chat_template_kwargs";
            document(to, 400, &json!({ "error": { "message": text } }));
        }
        _ => stream(to, &["fur"]),
    });
    let mut captioner = open(&server);
    assert_eq!(ask(&mut *captioner).unwrap(), "fur");
    assert_eq!(ask(&mut *captioner).unwrap(), "fur");
    let questions = server.questions();
    assert_eq!(questions.len(), 4);
    assert!(questions[0].body.get("reasoning_effort").is_none());
    assert_eq!(questions[1].body["chat_template_kwargs"], json!({ "enable_thinking": false }));
    assert_eq!(questions[3].body["reasoning_effort"], "none", "from then on");
    assert!(questions[3].body.get("chat_template_kwargs").is_none());
    let text = problem(ask(&mut *captioner).unwrap_err());
    assert!(text.contains("thought until the tokens were used up") && text.contains("--max-new-tokens"), "{text}");
}

#[test]
fn a_trial_says_what_is_there_and_sends_no_picture_of_the_users() {
    let server = ChatServer::start(|number, _, to| match number {
        0 => stream(to, &["an orange", " disc"]),
        _ => document(to, 404, &json!({ "error": { "message": "model 'ears' not found" } })),
    });
    let cancel = Default::default();
    let trial = ServerTrial::run(&endpoint(&server), &cancel).unwrap();
    assert_eq!(trial.models, [MODEL]);
    let line = trial.seen.unwrap();
    assert!(line.starts_with("eyes answers in ") && line.ends_with("an orange disc"), "{line}");
    let trial = ServerTrial::run(&ServerEndpoint { model: "ears".into(), ..endpoint(&server) }, &cancel).unwrap();
    assert!(trial.seen.unwrap_err().details.contains("model 'ears' not found"));
    cancel.cancel();
    assert_eq!(ServerTrial::run(&endpoint(&server), &cancel), None);
}

fn job(server: &ChatServer) -> Job {
    Job {
        source: Arc::new(photo(128, 128)).into(),
        regions: vec![Region::square(32, 32, 16), Region::square(16, 16, 16)],
        size: (64, 64),
        prompt: "a fox".into(),
        extracted_prompt: None,
        prompt_source: source(server),
        request: CaptionRequest { include_parent: true, ..CaptionRequest::default() },
        full_image: None,
        seed: 1,
        preview: false,
        restorer: Restorer {
            backbone: (&BUILT_IN).into(),
            device: DeviceChoice::Cpu,
            memory: MemoryPlan::Auto,
            align: AlignMethod::NoFix,
        },
    }
}

#[test]
fn no_server_is_asked_ahead_of_the_user() {
    let server = ChatServer::start(|number, _, to| stream(to, &["word", &number.to_string()]));
    let mut engine = Engine::start(Arc::new(|| ())).unwrap();
    let ahead = engine.prepare(job(&server));
    let wait = |engine: &Engine, until: &dyn Fn(&Event) -> bool| {
        let mut events = Vec::new();
        while !events.last().is_some_and(until) {
            events.push(engine.events().recv_timeout(Duration::from_secs(60)).unwrap());
        }
        events
    };
    wait(&engine, &|event| matches!(event, Event::Prepared { job } if *job == ahead));
    assert!(server.asked().is_empty(), "the box is only being placed");
    let id = engine.run(job(&server));
    let events = wait(&engine, &|event| matches!(event, Event::Finished { .. }));
    let outcome = events.last();
    assert!(
        matches!(outcome, Some(Event::Finished { job, outcome: JobOutcome::Completed }) if *job == id),
        "{outcome:?}"
    );
    let prompts: Vec<&str> = events
        .iter()
        .filter_map(|event| match event {
            Event::StepDone { output, .. } => Some(output.record.prompt.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(prompts, ["word0, a fox,", "word1, a fox,"]);
    assert_eq!(server.questions().len(), 2);
}

/// Every file below a folder that holds this text.
fn holding(folder: &Path, text: &str) -> Vec<String> {
    let has = |bytes: &[u8]| bytes.windows(text.len()).any(|part| part == text.as_bytes());
    let files = walkdir::WalkDir::new(folder).into_iter().flatten().filter(|entry| entry.file_type().is_file());
    let read = |entry: walkdir::DirEntry| (entry.path().display().to_string(), std::fs::read(entry.path()).unwrap());
    files.map(read).filter(|(_, bytes)| has(bytes)).map(|(name, _)| name).collect()
}

#[test]
fn the_command_line_asks_a_server_and_its_key_is_in_no_file() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 96, 96);
    let server = ChatServer::start(|number, _, to| stream(to, &["fur", &format!(" {number}")]));
    // Whoever stands between this machine and the net hears nothing of what stays here.
    let (proxied, heard) = (TcpListener::bind("127.0.0.1:0").unwrap(), Arc::new(AtomicUsize::new(0)));
    let (proxy, counted) = (format!("http://{}", proxied.local_addr().unwrap()), heard.clone());
    std::thread::spawn(move || proxied.incoming().flatten().for_each(|_| _ = counted.fetch_add(1, Ordering::Relaxed)));
    let zoom = |out: &str| {
        let mut command = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path(out).to_str().unwrap()]);
        command.args(["--backbone", "builtin", "--device", "cpu", "--process_size", "64", "--rec_num", "2"]);
        command.args(["--prompt_type", "server", "--save_prompts", "--prompt", "a fox"]);
        command.env("HTTP_PROXY", &proxy).env("http_proxy", &proxy).env("ALL_PROXY", &proxy);
        command.env("XDG_CONFIG_HOME", folder.path("config")).env("XDG_DATA_HOME", folder.path("data"));
        command
    };
    let authorization = || server.questions().last().unwrap().header("authorization").map(str::to_owned);
    let bearer = Some(format!("Bearer {KEY}"));

    // By option, with a model of one's own choice and the key of the environment.
    let mut named = zoom("named");
    named.args(["--prompt_server", &server.address, "--prompt_server_model", MODEL]);
    named.args(["--rec_type", "recursive_multiscale"]).env("OPENAI_API_KEY", KEY);
    let run = named.output().unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && !said.contains("canary"), "{said}");
    assert!(!said.contains("sent to"), "nothing leaves this machine: {said}");
    for (step, expected) in ["fur 0, a fox,", "fur 1, a fox,"].into_iter().enumerate() {
        let text = std::fs::read_to_string(folder.path(&format!("named/per-sample/photo/txt/{step}.txt"))).unwrap();
        assert_eq!(text, expected);
    }
    assert_eq!(authorization(), bearer);
    assert_eq!(server.questions().last().unwrap().images().len(), 2);
    assert_eq!(server.asked().len(), 2, "no list is asked for where a model is named");

    // By the environment.
    let run = zoom("environment").env("OPENAI_BASE_URL", &server.address).env("OPENAI_API_KEY", KEY).output().unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(authorization(), bearer);

    // For the tiles of a full image, to a model that follows them.
    let model = folder.path("model");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    let run = coz(["full", "-i", photo.to_str().unwrap(), "-o", folder.path("full").to_str().unwrap()])
        .args(["--backbone", "sd3", "--pretrained_model_name_or_path", model.to_str().unwrap()])
        .args(["--mixed_precision", "fp32", "--device", "cpu", "--save-prompts", "--prompt-type", "server"])
        .args(["--prompt-server", &server.address])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!((server.questions().len(), authorization()), (5, None));
    assert_eq!(server.questions()[4].body["max_tokens"], 16);
    let text = std::fs::read_to_string(folder.path("full/per-sample/photo/txt/0_0.txt")).unwrap();
    assert_eq!(text, "fur 4");

    assert_eq!(holding(folder.root(), "canary"), [""; 0], "results, their records and the log");
    assert_eq!(holding(folder.root(), &server.address), [""; 0], "where it stands is nobody's business");

    // By the settings, with the key that was entered for this address.
    let config = folder.path("config/chain-of-zoom");
    std::fs::create_dir_all(&config).unwrap();
    let settings = format!("[server]\naddress = \"{}\"\nmodel = \"ears\"\n", server.address);
    std::fs::write(config.join("settings.toml"), settings).unwrap();
    let stored = |address: &str| format!("address = \"{address}\"\nkey = \"{KEY}\"\n");
    std::fs::write(config.join("server-key.toml"), stored(&server.address)).unwrap();
    assert!(zoom("settings").output().unwrap().status.success());
    assert_eq!((authorization(), &server.questions().last().unwrap().body["model"]), (bearer, &json!("ears")));
    // One for another address stays where it is, as does one of the environment that is for nobody in particular.
    std::fs::write(config.join("server-key.toml"), stored("http://127.0.0.1:1/v1")).unwrap();
    assert!(zoom("other").env("OPENAI_API_KEY", KEY).output().unwrap().status.success());
    assert_eq!(authorization(), None);
    assert_eq!(heard.load(Ordering::Relaxed), 0);
}

#[test]
fn the_command_line_says_where_pictures_go() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 64, 64);
    let run = |server: &str| {
        let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path("out").to_str().unwrap()])
            .args(["--backbone", "builtin", "--device", "cpu", "--process-size", "64", "--rec-num", "1"])
            .args(["--prompt-type", "server", "--prompt-server", server, "--prompt-server-model", MODEL])
            .output()
            .unwrap();
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    // No such name can exist.
    let (code, said) = run("http://nowhere.invalid/v1");
    assert_eq!(code, Some(1));
    assert_eq!(said.matches("The box and its question are sent to nowhere.invalid.").count(), 1, "{said}");
    assert!(said.contains("not encrypted") && said.contains("http://nowhere.invalid/v1: "), "{said}");
    for wrong in ["localhost:11434", "http://me:sk-canary@example.org/v1"] {
        let (code, said) = run(wrong);
        assert!(code == Some(1) && said.contains("--prompt-server") && !said.contains("canary"), "{said}");
    }
}
