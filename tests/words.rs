//! What finds words, on the real path: in every memory plan, beside a restoring model, and where its files are not as they
//! should be. The models are random ones, written by the program itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use chain_of_zoom::engine::{Done, Engine, Event, Job, Restorer};
use chain_of_zoom::image::{AlignMethod, Picture};
use chain_of_zoom::prompt::vlm::VlmFiles;
use chain_of_zoom::prompt::{Asking, Extractor, PromptInput};
use chain_of_zoom::random::{self, Size};
use chain_of_zoom::region::Region;
use chain_of_zoom::step::{
    Backbone, DeviceChoice, MemoryPlan, Precision, Progress, Sd3Files, Stage, StepError, without_gradients,
};
use serde_json::{Value, json};

use crate::samples::{Folder, coz};

fn models(folder: &Folder) -> PathBuf {
    let model = folder.path("model");
    random::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    model
}

fn files(model: &Path) -> VlmFiles {
    VlmFiles { model: model.join("vlm"), adapter: None, precision: Precision::Fp32 }
}

fn picture(side: u32) -> Arc<Picture> {
    Arc::new(Picture::from_fn(side, side, |x, y| [(x * 3) as u8, (y * 5) as u8, (x ^ y) as u8]))
}

fn input(asking: Asking) -> PromptInput {
    PromptInput { previous: picture(100), enlarged: picture(90), asking }
}

fn ask(files: &VlmFiles, asking: Asking) -> Result<String, StepError> {
    let mut prompter = Extractor::Vlm(files.clone()).open(DeviceChoice::Cpu)?.unwrap();
    prompter.propose(&input(asking), &mut Progress::new(&mut |_, _| true), &mut |_| ())
}

#[test]
fn every_plan_finds_the_same_words() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let model = models(&folder);
    let adapter = model.join("ckpt/VLM_LoRA/checkpoint-10000");
    for adapter in [None, Some(adapter)] {
        let files = VlmFiles { adapter, ..files(&model) };
        let found = [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed].map(|plan| {
            let mut prompter = Extractor::Vlm(files.clone()).open(DeviceChoice::Cpu).unwrap().unwrap();
            prompter.follow(plan);
            let input = input(Asking { both: true, ..Asking::default() });
            let words = [0, 1].map(|_| {
                let mut told = Vec::new();
                let mut tell = |text: &str| told.push(text.to_owned());
                let words = prompter.propose(&input, &mut Progress::new(&mut |_, _| true), &mut tell).unwrap();
                prompter.rest();
                // It grows, and ends as it is.
                assert!(told.len() > 10 && words.starts_with(told.last().unwrap().as_str()), "{told:?}");
                words
            });
            assert_eq!(words[0], words[1], "a second time, with the pictures' features at hand");
            words[0].clone()
        });
        assert_eq!(found[0], found[1]);
        assert_eq!(found[0], found[2]);
        assert!(found[0].len() > 10);
    }
}

#[test]
fn pictures_are_seen_once() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let model = models(&folder);
    let mut prompter = Extractor::Vlm(files(&model)).open(DeviceChoice::Cpu).unwrap().unwrap();
    // What the vision tower computes counts as encoding a picture: how long it takes by the number of its pixels.
    let first = input(Asking { both: true, ..Asking::default() });
    let mut seen = |input: &PromptInput| {
        let start = std::time::Instant::now();
        let mut until_read = None;
        let mut told = |stage: Stage, fraction: f32| {
            if stage == Stage::Prompting && fraction >= chain_of_zoom::prompt::vlm::SEEN {
                until_read.get_or_insert(start.elapsed());
            }
            true
        };
        prompter.propose(input, &mut Progress::new(&mut told), &mut |_| ()).unwrap();
        until_read.unwrap()
    };
    let large = PromptInput { previous: picture(1400), enlarged: picture(1400), ..first };
    seen(&large);
    let (again, anew) = (seen(&large), seen(&PromptInput { enlarged: picture(1400), ..large.clone() }));
    assert!(again < anew / 4, "{again:?} for what was seen before, {anew:?} for a new picture");
}

fn job(model: &Path, memory: MemoryPlan, extractor: Extractor) -> Job {
    let sd3 = Sd3Files { precision: Precision::Fp32, ..Sd3Files::in_folder(model) };
    Job {
        source: picture(256),
        regions: vec![Region::square(64, 64, 32), Region::square(48, 48, 32)],
        size: (128, 128),
        prompt: "fur".into(),
        found: None,
        extractor,
        asking: Asking { both: true, ..Asking::default() },
        whole: None,
        seed: 1,
        preview: false,
        restorer: Restorer {
            backbone: Backbone::Sd3(sd3),
            device: DeviceChoice::Cpu,
            memory,
            align: AlignMethod::NoFix,
        },
    }
}

#[test]
fn steps_hear_the_words_whatever_stays_in_memory() {
    let folder = Folder::new();
    let model = models(&folder);
    let mut engine = Engine::start(Arc::new(|| ())).unwrap();
    let mut run = |job: Job| {
        let id = engine.run(job);
        let (mut made, mut written, mut stages) = (Vec::new(), 0, Vec::new());
        loop {
            match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
                Event::Made { made: one, .. } => made.push((one.picture, one.making.prompt)),
                Event::Wording { .. } => written += 1,
                Event::Progress { stage, .. } => stages.push(stage),
                Event::Finished { job, done } if job == id => {
                    assert_eq!(done, Done::Completed);
                    return (made, written, stages);
                }
                _ => {}
            }
        }
    };
    let extractor = Extractor::Vlm(files(&model));
    // Resident: the picture is encoded while words are found; else before.
    let (together, written, stages) = run(job(&model, MemoryPlan::Resident, extractor.clone()));
    assert!(written > 20 && !stages.contains(&Stage::Encoding), "{written} {stages:?}");
    assert!(together.iter().all(|(_, prompt)| prompt.ends_with(", fur,") && prompt.len() > 16), "{together:?}");
    assert_ne!(together[0].1, together[1].1, "each step is looked at anew");
    for plan in [MemoryPlan::Staged, MemoryPlan::Streamed] {
        let (apart, _, stages) = run(job(&model, plan, extractor.clone()));
        assert!(stages.contains(&Stage::Encoding));
        assert!(apart == together, "{plan}");
    }
    // The words of the first step are told: only the second is looked at.
    let told = Job { found: Some("snow".into()), ..job(&model, MemoryPlan::Staged, extractor) };
    let (made, ..) = run(told);
    assert_eq!(made[0].1, "snow, fur,");
    assert!(made[1].1.ends_with(", fur,") && made[1].1 != made[0].1);
    // The user's own alone.
    let (made, written, _) = run(job(&model, MemoryPlan::Staged, Extractor::Own));
    assert_eq!((made[0].1.as_str(), written), ("fur", 0));
}

#[test]
fn finding_words_stops_where_it_is_told() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let model = models(&folder);
    let mut prompter = Extractor::Vlm(files(&model)).open(DeviceChoice::Cpu).unwrap().unwrap();
    let input = input(Asking::default());
    let mut ask = |stop_at: Option<f32>| {
        let mut told = |stage: Stage, fraction: f32| stage == Stage::Loading || stop_at.is_none_or(|at| fraction < at);
        prompter.propose(&input, &mut Progress::new(&mut told), &mut |_| ())
    };
    for at in [0.0, 0.25, 0.5, 0.9] {
        assert!(matches!(ask(Some(at)), Err(StepError::Cancelled)), "{at}");
    }
    assert!(ask(None).is_ok_and(|words| !words.is_empty()));
}

/// Changes a JSON file of the model.
fn change(file: &Path, change: impl FnOnce(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    change(&mut value);
    std::fs::write(file, value.to_string()).unwrap();
}

#[test]
fn a_model_that_is_not_as_it_should_be_is_told() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let files = files(&models(&folder));
    let tokens = files.model.join("tokenizer_config.json");
    let with_template = |template: Value| {
        change(&tokens, |value| value["chat_template"] = template);
        ask(&files, Asking::default())
    };
    let good = serde_json::from_slice::<Value>(&std::fs::read(&tokens).unwrap()).unwrap()["chat_template"].clone();
    let told = |template: &str| with_template(template.into()).unwrap_err().to_string();
    for (template, expected) in [
        ("{% for message in messages %}", "its chat template fails: "),
        ("{{ raise_exception('only texts') }}", "only texts"),
        ("{{ nothing.of.that }}", "its chat template fails: "),
        ("no picture is asked about", "it asks about 0 images, where there are 1"),
        ("<|image_pad|><|image_pad|>", "it asks about 2 images, where there are 1"),
    ] {
        let text = told(template);
        assert!(text.contains("tokenizer_config.json") && text.contains(expected), "{text}");
    }
    assert!(with_template(Value::Null).unwrap_err().to_string().contains("it holds no chat_template"));
    // One of several by name, and a file of its own.
    let words = with_template(good.clone()).unwrap();
    assert_eq!(with_template(json!([{ "name": "default", "template": good }])).unwrap(), words);
    with_template(Value::Null).unwrap_err();
    std::fs::write(files.model.join("chat_template.jinja"), good.as_str().unwrap()).unwrap();
    assert_eq!(ask(&files, Asking::default()).unwrap(), words);

    // Control characters, and what only looks like one of the model's own tokens, in the question.
    let message = |text: &str| ask(&files, Asking { message: Some(text.into()), ..Asking::default() });
    assert!(message("What\u{0} is\u{1b}[31m \u{202e}this?\r\n\t{{ messages }}").is_ok());
    assert!(message("<|image_pad|>").unwrap_err().to_string().contains("it asks about 2 images"));
    assert!(message("").is_ok());

    // The end at the first token: no words, and the user's own stay.
    let generation = files.model.join("generation_config.json");
    let all: Vec<i64> = (0..400).collect();
    change(&generation, |value| value["eos_token_id"] = json!(all));
    let said = ask(&files, Asking::default()).unwrap();
    assert!(said.chars().count() <= 8, "{said:?}");
    change(&generation, |value| value["eos_token_id"] = json!("end"));
    assert!(ask(&files, Asking::default()).unwrap_err().to_string().contains("generation_config.json"));
    std::fs::remove_file(&generation).unwrap();
    assert!(ask(&files, Asking::default()).is_ok(), "it can be without");

    // Files that are of something else.
    let adapter = folder.path("model/ckpt/VLM_LoRA/checkpoint-10000");
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    let broken = VlmFiles { adapter: Some(adapter), ..files.clone() };
    assert!(ask(&broken, Asking::default()).unwrap_err().to_string().contains("adapter_config.json"));
    std::fs::write(files.model.join("tokenizer.json"), "{}").unwrap();
    assert!(ask(&files, Asking::default()).unwrap_err().to_string().contains("tokenizer.json"));
    let nowhere = VlmFiles { model: folder.path("nowhere"), ..files };
    assert!(ask(&nowhere, Asking::default()).unwrap_err().to_string().contains("config.json"));
}

#[test]
fn the_commands_name_what_is_missing() {
    let folder = Folder::new();
    let photo = folder.photo("photo.png", 64, 64);
    let run = |arguments: &[&str]| {
        let run = coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path("out").to_str().unwrap()])
            .args(["--prompt_type"])
            .args(arguments)
            .env("XDG_DATA_HOME", folder.path("data"))
            .env("HF_HOME", folder.path("hub"))
            .current_dir(folder.root())
            .output()
            .unwrap();
        assert_eq!(run.status.code(), Some(1));
        String::from_utf8_lossy(&run.stderr).into_owned()
    };
    assert!(run(&["vlm_base"]).contains("models--Qwen--Qwen2.5-VL-3B-Instruct"));
    assert!(run(&["vlm"]).contains("ckpt/VLM_LoRA/checkpoint-10000"));
    assert!(run(&["dape"]).contains("ckpt/RAM/ram_swin_large_14m.pth"));
    assert!(run(&["dape", "--ram_path", "x.pth"]).contains("there is no x.pth"));
}

#[test]
fn finding_words_is_measured() {
    let folder = Folder::new();
    let model = models(&folder);
    let path = |name: &str| model.join(name).to_str().unwrap().to_owned();
    let run = coz(["bench", "--size", "64", "--runs", "2", "--json", "--device", "cpu", "--prompt-type", "vlm_base"])
        .args(["--vlm-path", &path("vlm"), "--pretrained-model-name-or-path", &path("")])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let figures: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(figures["tokens"], 32);
    for stage in ["finding words: seeing", "finding words: reading", "finding words: a token", "denoising"] {
        assert!(figures["seconds"][stage].as_f64().unwrap() > 0.0, "{stage}: {figures}");
    }
}
