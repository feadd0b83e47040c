//! Captioners on the real path: in every memory plan, beside a restoring model, and where their files are not as they
//! should be. The models are random ones, written by the program itself.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::samples::{Folder, coz, sd3, vlm};
use chain_of_zoom::base::{
    AlignMethod, CaptionRequest, DeviceChoice, ENCODED, MemoryPlan, Precision, Progress, PromptSource, Region, Stage,
};
use chain_of_zoom::engine::{Engine, Event, Job, JobOutcome, Restorer};
use chain_of_zoom::imaging::Picture;
use chain_of_zoom::pipelines::caption::{CaptionInput, Captioner};
use chain_of_zoom::pipelines::{PipelineError, caption};
use chain_of_zoom::runtime::without_gradients;
use chain_of_zoom::synthetic;
use chain_of_zoom::synthetic::Size;

fn models(folder: &Folder) -> PathBuf {
    let model = folder.path("model");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    model
}

/// The model in its folder `vlm`, as published.
fn published(model: &Path) -> PromptSource {
    vlm(&model.join("vlm"), None, Precision::Fp32)
}

fn opened(source: &PromptSource) -> Box<dyn Captioner> {
    caption::open(source, DeviceChoice::Cpu).unwrap().unwrap()
}

fn picture(side: u32) -> Arc<Picture> {
    Arc::new(Picture::from_fn(side, side, |x, y| [(x * 3) as u8, (y * 5) as u8, (x ^ y) as u8]))
}

fn input(request: CaptionRequest) -> CaptionInput {
    CaptionInput { parent: picture(100), enlarged: picture(90), request }
}

fn ask(source: &PromptSource, request: CaptionRequest) -> Result<String, PipelineError> {
    let mut captioner = caption::open(source, DeviceChoice::Cpu)?.unwrap();
    captioner.caption(&input(request), &mut Progress::new(&mut |_, _| true), &mut |_| ())
}

#[test]
fn every_plan_writes_the_same_prompt() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let model = models(&folder);
    let adapter = model.join("ckpt/VLM_LoRA/checkpoint-10000");
    for adapter in [None, Some(adapter.as_path())] {
        let source = vlm(&model.join("vlm"), adapter, Precision::Fp32);
        let prompts = [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed].map(|plan| {
            let mut captioner = opened(&source);
            captioner.set_plan(plan);
            let input = input(CaptionRequest { include_parent: true, ..CaptionRequest::default() });
            let twice = [0, 1].map(|_| {
                let mut texts = Vec::new();
                let mut on_text = |text: &str| texts.push(text.to_owned());
                let prompt = captioner.caption(&input, &mut Progress::new(&mut |_, _| true), &mut on_text).unwrap();
                captioner.offload(u64::MAX);
                // It grows, and ends as it is.
                assert!(texts.len() > 10 && prompt.starts_with(texts.last().unwrap().as_str()), "{texts:?}");
                prompt
            });
            assert_eq!(twice[0], twice[1], "a second time, with the pictures' features at hand");
            twice[0].clone()
        });
        assert_eq!(prompts[0], prompts[1]);
        assert_eq!(prompts[0], prompts[2]);
        assert!(prompts[0].len() > 10);
    }
}

#[test]
fn pictures_are_encoded_once() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let model = models(&folder);
    let mut captioner = opened(&published(&model));
    // Each block of the vision tower reports before anything is read.
    let mut blocks = |input: &CaptionInput| {
        let mut count = 0;
        let mut on_progress = |stage: Stage, fraction: f32| {
            count += usize::from(stage == Stage::Prompting && fraction < ENCODED);
            true
        };
        captioner.caption(input, &mut Progress::new(&mut on_progress), &mut |_| ()).unwrap();
        // The first report is that it begins.
        count - 1
    };
    let first = input(CaptionRequest { include_parent: true, ..CaptionRequest::default() });
    let of_two = blocks(&first);
    assert!(of_two > 0 && of_two.is_multiple_of(2), "{of_two}");
    assert_eq!(blocks(&first), 0, "both are known");
    assert_eq!(blocks(&CaptionInput { enlarged: picture(90), ..first.clone() }), of_two / 2, "one is new");
    assert_eq!(blocks(&CaptionInput { request: CaptionRequest::default(), ..first }), 0, "it is known still");
}

fn job(model: &Path, memory: MemoryPlan, prompt_source: PromptSource) -> Job {
    Job {
        source: picture(256).into(),
        regions: vec![Region::square(64, 64, 32), Region::square(48, 48, 32)],
        size: (128, 128),
        prompt: "fur".into(),
        extracted_prompt: None,
        prompt_source,
        request: CaptionRequest { include_parent: true, ..CaptionRequest::default() },
        full_image: None,
        seed: 1,
        preview: false,
        restorer: Restorer {
            backbone: sd3(model, Precision::Fp32),
            device: DeviceChoice::Cpu,
            memory,
            align: AlignMethod::NoFix,
        },
    }
}

#[test]
fn steps_are_given_the_prompt_whatever_stays_in_memory() {
    let folder = Folder::new();
    let model = models(&folder);
    let mut engine = Engine::start(Arc::new(|| ())).unwrap();
    let mut run = |job: Job| {
        let id = engine.run(job);
        let (mut outputs, mut captionings, mut stages) = (Vec::new(), 0, Vec::new());
        loop {
            match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
                Event::StepDone { output, .. } => outputs.push((output.picture, output.record.prompt)),
                Event::Captioning { .. } => captionings += 1,
                Event::Progress { stage, .. } => stages.push(stage),
                Event::Finished { job, outcome } if job == id => {
                    assert_eq!(outcome, JobOutcome::Completed);
                    return (outputs, captionings, stages);
                }
                _ => {}
            }
        }
    };
    let prompt_source = published(&model);
    // Resident: the picture is encoded while the prompt is written; else before.
    let (together, captionings, stages) = run(job(&model, MemoryPlan::Resident, prompt_source.clone()));
    assert!(captionings > 20 && !stages.contains(&Stage::Encoding), "{captionings} {stages:?}");
    assert!(together.iter().all(|(_, prompt)| prompt.ends_with(", fur,") && prompt.len() > 16), "{together:?}");
    assert_ne!(together[0].1, together[1].1, "each step is looked at anew");
    for plan in [MemoryPlan::Staged, MemoryPlan::Streamed] {
        let (apart, _, stages) = run(job(&model, plan, prompt_source.clone()));
        assert!(stages.contains(&Stage::Encoding));
        assert!(apart == together, "{plan}");
    }
    // The prompt of the first step is given: only the second is looked at.
    let given = Job { extracted_prompt: Some("snow".into()), ..job(&model, MemoryPlan::Staged, prompt_source) };
    let (outputs, ..) = run(given);
    assert_eq!(outputs[0].1, "snow, fur,");
    assert!(outputs[1].1.ends_with(", fur,") && outputs[1].1 != outputs[0].1);
    // The user's own alone.
    let (outputs, captionings, _) = run(job(&model, MemoryPlan::Staged, PromptSource::default()));
    assert_eq!((outputs[0].1.as_str(), captionings), ("fur", 0));
}

#[test]
fn captioning_stops_where_it_is_told_to() {
    let _no_grad = without_gradients();
    let folder = Folder::new();
    let model = models(&folder);
    let mut captioner = opened(&published(&model));
    let input = input(CaptionRequest::default());
    let mut ask = |stop_at: Option<f32>| {
        let mut on_progress =
            |stage: Stage, fraction: f32| stage == Stage::Loading || stop_at.is_none_or(|at| fraction < at);
        captioner.caption(&input, &mut Progress::new(&mut on_progress), &mut |_| ())
    };
    for at in [0.0, 0.25, 0.5, 0.9] {
        assert!(matches!(ask(Some(at)), Err(PipelineError::Cancelled)), "{at}");
    }
    assert!(ask(None).is_ok_and(|prompt| !prompt.is_empty()));
}

#[test]
fn stopping_stops_prefetched_work_that_a_job_has_taken_over() {
    let folder = Folder::new();
    let model = models(&folder);
    // It never says that it has said all.
    change(&model.join("vlm/generation_config.json"), |config| config["eos_token_id"] = 1_000_000.into());
    let mut engine = Engine::start(Arc::new(|| ())).unwrap();
    let job = job(&model, MemoryPlan::Streamed, published(&model));
    let request = CaptionRequest { max_new_tokens: 1_000_000, ..job.request.clone() };
    let job = Job { request, ..job };
    engine.prepare(job.clone());
    std::thread::sleep(Duration::from_millis(500));
    let start = std::time::Instant::now();
    let id = engine.run(job);
    engine.cancel();
    loop {
        match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
            Event::Prepared { .. } => panic!("it had ended before it was stopped"),
            Event::Finished { job, outcome } if job == id => {
                assert_eq!(outcome, JobOutcome::Cancelled);
                assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
                break;
            }
            _ => {}
        }
    }
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
    let source = published(&models(&folder));
    let model = source.files.get("model").unwrap();
    let tokens = model.join("tokenizer_config.json");
    let with_template = |template: Value| {
        change(&tokens, |value| value["chat_template"] = template);
        ask(&source, CaptionRequest::default())
    };
    let good = serde_json::from_slice::<Value>(&std::fs::read(&tokens).unwrap()).unwrap()["chat_template"].clone();
    let error = |template: &str| with_template(template.into()).unwrap_err().to_string();
    for (template, expected) in [
        ("{% for message in messages %}", "its chat template fails: "),
        ("{{ raise_exception('only texts') }}", "only texts"),
        ("{{ nothing.of.that }}", "its chat template fails: "),
        ("no picture is asked about", "it asks about 0 images, where there are 1"),
        ("<|image_pad|><|image_pad|>", "it asks about 2 images, where there are 1"),
    ] {
        let text = error(template);
        assert!(text.contains("tokenizer_config.json") && text.contains(expected), "{text}");
    }
    assert!(with_template(Value::Null).unwrap_err().to_string().contains("it holds no chat_template"));
    // One of several by name, and a file of its own.
    let prompt = with_template(good.clone()).unwrap();
    assert_eq!(with_template(json!([{ "name": "default", "template": good }])).unwrap(), prompt);
    with_template(Value::Null).unwrap_err();
    std::fs::write(model.join("chat_template.jinja"), good.as_str().unwrap()).unwrap();
    assert_eq!(ask(&source, CaptionRequest::default()).unwrap(), prompt);

    // Control characters, and what only looks like one of the model's own tokens, in the question.
    let message = |text: &str| ask(&source, CaptionRequest { message: Some(text.into()), ..CaptionRequest::default() });
    assert!(message("What\u{0} is\u{1b}[31m \u{202e}this?\r\n\t{{ messages }}").is_ok());
    assert!(message("<|image_pad|>").unwrap_err().to_string().contains("it asks about 2 images"));
    assert!(message("").is_ok());

    // The end at the first token: no prompt, and the user's own stays.
    let generation = model.join("generation_config.json");
    let all: Vec<i64> = (0..400).collect();
    change(&generation, |value| value["eos_token_id"] = json!(all));
    let said = ask(&source, CaptionRequest::default()).unwrap();
    assert!(said.chars().count() <= 8, "{said:?}");
    change(&generation, |value| value["eos_token_id"] = json!("end"));
    assert!(ask(&source, CaptionRequest::default()).unwrap_err().to_string().contains("generation_config.json"));
    std::fs::remove_file(&generation).unwrap();
    assert!(ask(&source, CaptionRequest::default()).is_ok(), "it can be without");

    // Files that are of something else.
    let adapter = folder.path("model/ckpt/VLM_LoRA/checkpoint-10000");
    std::fs::write(adapter.join("adapter_config.json"), "{}").unwrap();
    let broken = vlm(model, Some(&adapter), Precision::Fp32);
    assert!(ask(&broken, CaptionRequest::default()).unwrap_err().to_string().contains("adapter_config.json"));
    std::fs::write(model.join("tokenizer.json"), "{}").unwrap();
    assert!(ask(&source, CaptionRequest::default()).unwrap_err().to_string().contains("tokenizer.json"));
    let nowhere = vlm(&folder.path("nowhere"), None, Precision::Fp32);
    assert!(ask(&nowhere, CaptionRequest::default()).unwrap_err().to_string().contains("config.json"));
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
fn captioning_is_measured() {
    let folder = Folder::new();
    let model = models(&folder);
    let path = |name: &str| model.join(name).to_str().unwrap().to_owned();
    let run = coz(["bench", "--size", "64", "--runs", "2", "--json", "--device", "cpu", "--prompt-type", "vlm_base"])
        .args(["--vlm-path", &path("vlm"), "--pretrained-model-name-or-path", &path("")])
        .args(["--trace", folder.path("trace.json").to_str().unwrap()])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    assert_eq!(String::from_utf8_lossy(&run.stderr), "", "the profiler is silent");
    let figures: Value = serde_json::from_slice(&run.stdout).unwrap();
    assert_eq!(figures["tokens"], 32);
    for stage in ["captioning: images", "captioning: prefill", "captioning: a token", "denoising"] {
        let spread = |at: &str| figures["spread"][stage][at].as_f64().unwrap();
        assert!(figures["seconds"][stage].as_f64().unwrap() > 0.0, "{stage}: {figures}");
        assert!(
            0.0 < spread("min") && spread("min") <= spread("median") && spread("p90") <= spread("max"),
            "{figures}"
        );
    }
    let trace: Value = serde_json::from_slice(&std::fs::read(folder.path("trace.json")).unwrap()).unwrap();
    let has = |name: &str| trace["traceEvents"].as_array().unwrap().iter().any(|event| event["name"] == name);
    for name in ["encoding", "captioning", "denoising", "decoding", "aten::scaled_dot_product_attention"] {
        assert!(has(name), "{name} is missing");
    }
}
