//! Full images on the real path: a prompt for each tile in every memory plan, cancelling, replaying, many at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::samples::{Folder, coz, sd3, vlm};
use chain_of_zoom::base::{
    AlignMethod, CaptionRequest, DeviceChoice, FullImage, MemoryPlan, Precision, PromptSource, Region, Stage,
    TileProgress, Tiling, VaeMode,
};
use chain_of_zoom::engine::{Engine, Event, Job, JobOutcome, Restorer, StepOutput};
use chain_of_zoom::imaging::{Picture, codec};
use chain_of_zoom::synthetic;
use chain_of_zoom::synthetic::Size;

const TILING: Tiling =
    Tiling { latent_tile: 8, overlap: 2, encoder_tile: 64, decoder_tile: 8, vae_mode: VaeMode::Fast };

fn job(model: &Path, memory: MemoryPlan) -> Job {
    let source = Arc::new(Picture::from_fn(45, 30, |x, y| [(x * 5) as u8, (y * 8) as u8, ((x ^ y) * 4) as u8]));
    Job {
        regions: vec![Region { x: 0, y: 0, width: 45, height: 30 }],
        size: (180, 120),
        source: source.into(),
        prompt: "fur".into(),
        extracted_prompt: None,
        prompt_source: vlm(&model.join("vlm"), None, Precision::Fp32),
        request: CaptionRequest { include_parent: true, max_new_tokens: 16, ..CaptionRequest::default() },
        full_image: Some(FullImage { tiling: TILING, prompts: vec![] }),
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

/// What was reported on the way.
#[derive(Default)]
struct Reports {
    tiles: Vec<TileProgress>,
    partial_results: usize,
}

/// How it ended, what came of it and what was reported; `stop_at`: cancelled when that many tiles of the stage are done.
fn run(job: Job, stop_at: Option<(Stage, usize)>) -> (JobOutcome, Vec<StepOutput>, Reports) {
    let mut engine = Engine::start(Arc::new(|| ())).unwrap();
    let id = engine.run(job);
    let (mut outputs, mut reports, mut at) = (Vec::new(), Reports::default(), Stage::Loading);
    loop {
        match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
            Event::StepDone { output, .. } => outputs.push(*output),
            Event::Progress { stage, .. } => at = stage,
            Event::Tiles { tiles, .. } => {
                if stop_at.is_some_and(|(stage, count)| at == stage && tiles.done >= count) {
                    engine.cancel();
                }
                reports.tiles.push(tiles);
            }
            Event::Partial { .. } => reports.partial_results += 1,
            Event::Finished { job, outcome } if job == id => return (outcome, outputs, reports),
            _ => {}
        }
    }
}

#[test]
fn each_tile_has_its_prompt_whatever_stays_in_memory() {
    let folder = Folder::new();
    synthetic::write(&folder.path("model"), Size::Tiny, &mut |_| {}).unwrap();
    let model = folder.path("model");
    let mut all = Vec::new();
    for plan in [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed] {
        let (outcome, outputs, reports) = run(job(&model, plan), None);
        assert_eq!(outcome, JobOutcome::Completed);
        let output = outputs.into_iter().next().unwrap();
        assert_eq!((output.picture.width(), output.picture.height()), (180, 120));
        let prompts = &output.record.full_image.as_ref().unwrap().prompts;
        // A latent of 24 x 16 (the width padded), tiles of 8 that begin at 0, 6, 12, .. each.
        assert_eq!(prompts.len(), 4 * 3);
        assert!(prompts.iter().all(|prompt| prompt.ends_with(", fur,")));
        let different: std::collections::BTreeSet<_> = prompts.iter().collect();
        assert!(different.len() > 3, "{prompts:?}");
        assert!(reports.tiles.contains(&TileProgress { done: 12, total: 12 }));
        assert!(reports.partial_results > 0);
        all.push(output);
    }
    assert!(all.iter().all(|output| output.record.full_image == all[0].record.full_image), "the prompts");
    // Streamed, more tiles are restored at a time, and sums of more rows round otherwise.
    assert_eq!(all[0].picture, all[1].picture);
    let off = all[0].picture.rgb().iter().zip(all[2].picture.rgb()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(off <= Some(2), "{off:?}");

    // The same prompts given: the same picture without a captioner.
    let given = Job {
        prompt_source: PromptSource::default(),
        full_image: all[0].record.full_image.clone(),
        ..job(&model, MemoryPlan::Resident)
    };
    assert_eq!(run(given, None).1[0].picture, all[0].picture);
    // One for all is another picture.
    let one = Job { prompt_source: PromptSource::default(), ..job(&model, MemoryPlan::Resident) };
    assert_ne!(run(one, None).1[0].picture, all[0].picture);

    for stage in [Stage::Prompting, Stage::Denoising] {
        let (outcome, outputs, reports) = run(job(&model, MemoryPlan::Staged), Some((stage, 2)));
        assert_eq!((outcome, outputs.len()), (JobOutcome::Cancelled, 0), "{stage:?}");
        assert_eq!(reports.partial_results, 0);
    }
    let vast = Job { size: (180_000, 120_000), ..job(&model, MemoryPlan::Staged) };
    let JobOutcome::Failed(error) = run(vast, None).0 else { panic!() };
    assert!(error.details.contains("180000 x 120000"), "{error}");
}

#[test]
fn a_folder_is_enlarged_several_at_a_time_and_one_bad_picture_ends_nothing() {
    let folder = Folder::new();
    for i in 0..6 {
        folder.photo(&format!("in/{i}.png"), 200 + i * 30, 150);
    }
    std::fs::write(folder.path("in/2.png"), b"no picture").unwrap();
    // A picture of 60000 x 60000 by its header, and nothing behind it.
    let mut bomb = std::fs::read(folder.path("in/1.png")).unwrap();
    bomb[16..24].copy_from_slice(&[0, 0, 0xea, 0x60, 0, 0, 0xea, 0x60]);
    std::fs::write(folder.path("in/bomb.png"), &bomb[..200]).unwrap();
    let (input, out) = (folder.path("in"), folder.path("out"));
    let command = |more: &[&str]| {
        let run = coz(["full", "-i", input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--device", "cpu"])
            .args(more)
            .output()
            .unwrap();
        (run.status.code(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    let (code, said) = command(&["--jobs", "2"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("2.png") && said.contains("bomb.png") && said.contains("5 of 7 pictures done"), "{said}");
    for i in [0, 1, 3, 4, 5] {
        let result = codec::open(&out.join(format!("per-sample/{i}/1.png"))).unwrap();
        assert_eq!((result.width(), result.height()), ((200 + i * 30) * 4, 600));
    }
    assert!(!out.join("per-sample/bomb/1.png").exists());
    let (code, said) = command(&["--resume", "--jobs", "3"]);
    assert!(code == Some(1) && said.contains("5 of 7 pictures were finished before"), "{said}");
    // It says itself how it was made.
    let sample = out.join("per-sample/3");
    let replayed = coz(["replay", sample.to_str().unwrap()]).output().unwrap();
    let said = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(
        replayed.status.success() && said.contains("1 of 1 states match"),
        "{said}{}",
        String::from_utf8_lossy(&replayed.stderr)
    );
}

#[test]
fn a_thousand_pictures_with_a_bomb_among_them() {
    let folder = Folder::new();
    let small = Picture::from_fn(6, 5, |x, y| [(x * 40) as u8, (y * 50) as u8, 99]);
    for i in 0..1000 {
        codec::save(&small, &folder.path(&format!("in/{i:04}.png"))).unwrap();
    }
    let mut bomb = std::fs::read(folder.path("in/0500.png")).unwrap();
    bomb[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
    std::fs::write(folder.path("in/0500.png"), &bomb).unwrap();
    // As long as a name may be, and what people call their pictures.
    for name in ["x".repeat(251), "Größe 狐 🦊 'a' \"b\" $(c)".to_owned()] {
        codec::save(&small, &folder.path(&format!("in/{name}.png"))).unwrap();
    }
    let (input, out) = (folder.path("in"), folder.path("out"));
    let run = coz(["full", "-i", input.to_str().unwrap(), "-o", out.to_str().unwrap(), "--rec_type", "bicubic"])
        .args(["--jobs", "2"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(1), "{said}");
    assert!(said.contains("0500.png") && said.contains("1001 of 1002 pictures done"), "{said}");
    let count = std::fs::read_dir(out.join("per-scale/scale1")).unwrap().count();
    assert_eq!(count, 1001);
}
