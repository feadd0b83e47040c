//! Whole pictures on the real path: words for each tile in every memory plan, cancelling, replaying, many at a time.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chain_of_zoom::engine::{Done, Engine, Event, Job, Made, Restorer};
use chain_of_zoom::image::{AlignMethod, Picture, codec};
use chain_of_zoom::prompt::vlm::VlmFiles;
use chain_of_zoom::prompt::{Asking, Extractor};
use chain_of_zoom::random::{self, Size};
use chain_of_zoom::region::Region;
use chain_of_zoom::step::{Backbone, DeviceChoice, MemoryPlan, Precision, Sd3Files, Seen, Stage, Tiling, Whole};

use crate::samples::{Folder, coz};

const TILING: Tiling = Tiling { latent: 8, overlap: 2, encoder: 64, decoder: 8, exact: false };

fn job(model: &Path, memory: MemoryPlan) -> Job {
    let source = Arc::new(Picture::from_fn(45, 30, |x, y| [(x * 5) as u8, (y * 8) as u8, ((x ^ y) * 4) as u8]));
    Job {
        regions: vec![Region { x: 0, y: 0, width: 45, height: 30 }],
        size: (180, 120),
        source,
        prompt: "fur".into(),
        found: None,
        extractor: Extractor::Vlm(VlmFiles { model: model.join("vlm"), adapter: None, precision: Precision::Fp32 }),
        asking: Asking { both: true, max_new_tokens: 16, ..Asking::default() },
        whole: Some(Whole { tiling: TILING, prompts: vec![] }),
        seed: 1,
        preview: false,
        restorer: Restorer {
            backbone: Backbone::Sd3(Sd3Files { precision: Precision::Fp32, ..Sd3Files::in_folder(model) }),
            device: DeviceChoice::Cpu,
            memory,
            align: AlignMethod::NoFix,
        },
    }
}

/// How it ended, what it made and what was seen; `stop_at`: cancelled when that many tiles of the stage are done.
fn run(job: Job, stop_at: Option<(Stage, usize)>) -> (Done, Vec<Made>, Vec<Seen>) {
    let mut engine = Engine::start(Arc::new(|| ())).unwrap();
    let id = engine.run(job);
    let (mut made, mut all, mut at) = (Vec::new(), Vec::new(), Stage::Loading);
    loop {
        match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
            Event::Made { made: one, .. } => made.push(*one),
            Event::Progress { stage, .. } => at = stage,
            Event::Seen { seen, .. } => {
                if let (Seen::Tiles { done, .. }, Some((stage, count))) = (&seen, stop_at)
                    && at == stage
                    && *done >= count
                {
                    engine.cancel();
                }
                all.push(seen);
            }
            Event::Finished { job, done } if job == id => return (done, made, all),
            _ => {}
        }
    }
}

#[test]
fn each_tile_has_its_words_whatever_stays_in_memory() {
    let folder = Folder::new();
    random::write(&folder.path("model"), Size::Tiny, &mut |_| {}).unwrap();
    let model = folder.path("model");
    let mut all = Vec::new();
    for plan in [MemoryPlan::Resident, MemoryPlan::Staged, MemoryPlan::Streamed] {
        let (done, made, seen) = run(job(&model, plan), None);
        assert_eq!(done, Done::Completed);
        let made = made.into_iter().next().unwrap();
        assert_eq!((made.picture.width(), made.picture.height()), (180, 120));
        let prompts = &made.making.whole.as_ref().unwrap().prompts;
        // A latent of 24 x 16 (the width padded), tiles of 8 that begin at 0, 6, 12, .. each.
        assert_eq!(prompts.len(), 4 * 3);
        assert!(prompts.iter().all(|words| words.ends_with(", fur,")));
        let different: std::collections::BTreeSet<_> = prompts.iter().collect();
        assert!(different.len() > 3, "{prompts:?}");
        assert!(seen.iter().any(|seen| matches!(seen, Seen::Tiles { done: 12, of: 12 })));
        assert!(seen.iter().filter(|seen| matches!(seen, Seen::Piece { .. })).count() > 0);
        all.push(made);
    }
    assert!(all.iter().all(|made| made.making.whole == all[0].making.whole), "the words");
    // Streamed, more tiles are restored at a time, and sums of more rows round otherwise.
    assert_eq!(all[0].picture, all[1].picture);
    let off = all[0].picture.rgb().iter().zip(all[2].picture.rgb()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(off <= Some(2), "{off:?}");

    // The same words told: the same picture without a model that finds them.
    let told =
        Job { extractor: Extractor::Own, whole: all[0].making.whole.clone(), ..job(&model, MemoryPlan::Resident) };
    assert_eq!(run(told, None).1[0].picture, all[0].picture);
    // One for all is another picture.
    let one = Job { extractor: Extractor::Own, ..job(&model, MemoryPlan::Resident) };
    assert_ne!(run(one, None).1[0].picture, all[0].picture);

    for stage in [Stage::Prompting, Stage::Denoising] {
        let (done, made, seen) = run(job(&model, MemoryPlan::Staged), Some((stage, 2)));
        assert_eq!((done, made.len()), (Done::Cancelled, 0), "{stage:?}");
        assert!(!seen.iter().any(|seen| matches!(seen, Seen::Piece { .. })));
    }
    let vast = Job { size: (180_000, 120_000), ..job(&model, MemoryPlan::Staged) };
    let Done::Failed(problem) = run(vast, None).0 else { panic!() };
    assert!(problem.details.contains("180000 x 120000"), "{problem}");
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
    let (code, told) = command(&["--jobs", "2"]);
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("2.png") && told.contains("bomb.png") && told.contains("5 of 7 pictures done"), "{told}");
    for i in [0, 1, 3, 4, 5] {
        let made = codec::open(&out.join(format!("per-sample/{i}/1.png"))).unwrap();
        assert_eq!((made.width(), made.height()), ((200 + i * 30) * 4, 600));
    }
    assert!(!out.join("per-sample/bomb/1.png").exists());
    let (code, told) = command(&["--resume", "--jobs", "3"]);
    assert!(code == Some(1) && told.contains("5 of 7 pictures were finished before"), "{told}");
    // It says itself how it was made.
    let sample = out.join("per-sample/3");
    let replayed = coz(["replay", sample.to_str().unwrap()]).output().unwrap();
    let told = String::from_utf8_lossy(&replayed.stdout).into_owned();
    assert!(
        replayed.status.success() && told.contains("1 of 1 states match"),
        "{told}{}",
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
    let told = String::from_utf8_lossy(&run.stderr).into_owned();
    assert_eq!(run.status.code(), Some(1), "{told}");
    assert!(told.contains("0500.png") && told.contains("1001 of 1002 pictures done"), "{told}");
    let made = std::fs::read_dir(out.join("per-scale/scale1")).unwrap().count();
    assert_eq!(made, 1001);
}
