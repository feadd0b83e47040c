//! The engine's thread: jobs, cancellation, the latest job wins, failures that do not end it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::samples::{Folder, photo};
use chain_of_zoom::base::{
    AlignMethod, BICUBIC, Backbone, CaptionRequest, DeviceChoice, MemoryPlan, NEAREST, PromptSource, Region, plan,
};
use chain_of_zoom::engine::{Engine, Event, Job, JobId, JobOutcome, Restorer, StepOutput};
use chain_of_zoom::imaging::{Filter, resize};

fn engine() -> Engine {
    Engine::start(Arc::new(|| ())).unwrap()
}

fn job(regions: Vec<Region>, size: u32, backbone: Backbone) -> Job {
    Job {
        source: Arc::new(photo(300, 200)).into(),
        regions,
        size: (size, size),
        prompt: "old fur".into(),
        extracted_prompt: None,
        prompt_source: PromptSource::default(),
        request: CaptionRequest::default(),
        full_image: None,
        seed: 7,
        preview: false,
        restorer: Restorer { backbone, device: DeviceChoice::Cpu, memory: MemoryPlan::Auto, align: AlignMethod::NoFix },
    }
}

fn until_finished(engine: &Engine, id: JobId) -> (Vec<StepOutput>, JobOutcome) {
    let mut states = Vec::new();
    loop {
        match engine.events().recv_timeout(Duration::from_secs(120)).expect("the engine answers") {
            Event::StepDone { job, output, .. } if job == id => states.push(*output),
            Event::Finished { job, outcome } if job == id => return (states, outcome),
            _ => {}
        }
    }
}

#[test]
fn a_planned_chain_arrives_state_by_state() {
    let woken = Arc::new(AtomicUsize::new(0));
    let counter = woken.clone();
    let mut engine = Engine::start(Arc::new(move || _ = counter.fetch_add(1, Ordering::Relaxed))).unwrap();
    let plan = plan(300, 200, Region::square(140, 90, 20), 128);
    assert_eq!(plan.regions.len(), 2);
    let id = engine.run(job(plan.regions.clone(), 128, Backbone::default()));
    let (states, outcome) = until_finished(&engine, id);
    assert_eq!(outcome, JobOutcome::Completed);
    assert_eq!(states.iter().map(|output| output.record.region).collect::<Vec<_>>(), plan.regions);
    for output in &states {
        assert_eq!((output.picture.width(), output.picture.height()), (128, 128));
        assert_ne!(output.picture, output.enlarged, "the network did something");
        assert_eq!((output.record.prompt.as_str(), output.record.seed), ("old fur", 7));
        let consistency = output.record.consistency.expect("a model ran");
        assert!(consistency > 25.0, "reduced again, it is what it was made from: {consistency} dB");
        let model = output.record.model.as_ref().expect("a model ran");
        assert!(!model.backbone.takes_prompt(), "the built-in model takes no prompt and says so");
    }
    assert!(woken.load(Ordering::Relaxed) >= 5, "every event wakes the receiver");
}

#[test]
fn a_large_box_is_reduced_without_a_model() {
    let mut engine = engine();
    let id = engine.run(job(vec![Region::square(50, 0, 200)], 64, Backbone::file("/no/such/model.pth")));
    let (states, outcome) = until_finished(&engine, id);
    assert_eq!(outcome, JobOutcome::Completed, "the missing model is not needed");
    assert_eq!((&states[0].record.model, states[0].record.consistency), (&None, None));
    assert_eq!(*states[0].picture, resize(&photo(300, 200).crop(50, 0, 200, 200), 64, 64, Filter::Bicubic));
}

#[test]
fn interpolation_is_exactly_pillows() {
    let mut engine = engine();
    for (backbone, filter) in [(Backbone::from(&NEAREST), Filter::Nearest), (Backbone::from(&BICUBIC), Filter::Bicubic)]
    {
        let id = engine.run(job(vec![Region::square(10, 20, 40)], 160, backbone));
        let (states, _) = until_finished(&engine, id);
        assert_eq!(*states[0].picture, resize(&photo(300, 200).crop(10, 20, 40, 40), 160, 160, filter));
    }
}

#[test]
fn the_latest_job_wins() {
    let mut engine = engine();
    let long = vec![Region::square(64, 64, 128); 60];
    let mut first = job(long.clone(), 256, Backbone::default());
    first.regions[0] = Region::square(0, 0, 128);
    let first = engine.run(first);
    let second = engine.run(job(vec![Region::square(0, 0, 32)], 64, Backbone::from(&BICUBIC)));
    let (mut first_outcome, mut steps_of_first) = (None, 0);
    loop {
        match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
            Event::StepDone { job, .. } if job == first => steps_of_first += 1,
            Event::Finished { job, outcome } if job == first => first_outcome = Some(outcome),
            Event::Finished { job, outcome } if job == second => {
                assert_eq!(outcome, JobOutcome::Completed);
                break;
            }
            _ => {}
        }
    }
    assert_eq!(first_outcome, Some(JobOutcome::Cancelled));
    assert!(steps_of_first < 5, "{steps_of_first} of 60 steps were done before the first job gave way");
}

#[test]
fn cancel_stops_between_steps_and_keeps_what_is_done() {
    let mut engine = engine();
    let id = engine.run(job(vec![Region::square(36, 36, 128); 200], 200, Backbone::default()));
    let mut count = 0;
    let outcome = loop {
        match engine.events().recv_timeout(Duration::from_secs(120)).unwrap() {
            Event::StepDone { .. } => {
                count += 1;
                engine.cancel();
            }
            Event::Finished { job, outcome } if job == id => break outcome,
            _ => {}
        }
    };
    assert_eq!(outcome, JobOutcome::Cancelled);
    assert!((1..5).contains(&count), "{count} states were made after the cancel");
}

#[test]
fn failures_are_events_and_the_engine_goes_on() {
    let folder = Folder::new();
    let text = folder.path("text.pth");
    std::fs::write(&text, "this is no model").unwrap();
    let mut engine = engine();
    for (backbone, title) in [
        (Backbone::file("/no/such/model.pth"), "The model file cannot be opened"),
        (Backbone::file(text), "This is no model file"),
    ] {
        let id = engine.run(job(vec![Region::square(0, 0, 32)], 64, backbone));
        let (states, JobOutcome::Failed(error)) = until_finished(&engine, id) else { panic!("it should fail") };
        assert!(states.is_empty());
        assert_eq!(error.title, title);
        assert!(!error.hint.is_empty());
    }
    let outside = engine.run(job(vec![Region::square(290, 0, 32)], 64, Backbone::from(&BICUBIC)));
    assert!(
        matches!(until_finished(&engine, outside).1, JobOutcome::Failed(error) if error.details.contains("300 x 200"))
    );
    let id = engine.run(job(vec![Region::square(0, 0, 32)], 64, Backbone::default()));
    assert_eq!(until_finished(&engine, id).1, JobOutcome::Completed);
}

#[test]
fn large_cuts_are_tiled_without_seams() {
    // 400 pixels are more than one tile: tiled and whole must agree wherever a tile ends.
    let mut engine = engine();
    let mut full = job(vec![Region::square(0, 0, 190)], 760, Backbone::default());
    full.source = Arc::new(photo(190, 190)).into();
    let id = engine.run(full);
    let (states, _) = until_finished(&engine, id);
    let tiled = &states[0].picture;
    // The same place in one piece: the tile's border at 160 lies in the middle of this cut.
    let mut piece = job(vec![Region::square(100, 100, 90)], 360, Backbone::default());
    piece.source = Arc::new(photo(190, 190)).into();
    let id = engine.run(piece);
    let (states, _) = until_finished(&engine, id);
    let inner = 160; // 40 pixels of the cut away from its own border, which sees less context
    let ours = tiled.crop((400 + inner) as i64, (400 + inner) as i64, 160, 160);
    let theirs = states[0].picture.crop(inner as i64, inner as i64, 160, 160);
    let worst = ours.rgb().iter().zip(theirs.rgb()).map(|(a, b)| a.abs_diff(*b)).max().unwrap();
    assert!(worst <= 3, "a seam of {worst} levels");
}

#[test]
fn a_users_own_prompt_is_not_captioned() {
    let mut engine = engine();
    let id = engine.caption(job(vec![Region::square(0, 0, 32)], 64, Backbone::default()));
    let mut texts = Vec::new();
    loop {
        match engine.events().recv_timeout(Duration::from_secs(60)).unwrap() {
            Event::Captioned { job, text } if job == id => texts.push(text),
            Event::Finished { job, outcome } if job == id => {
                assert_eq!(outcome, JobOutcome::Completed);
                break;
            }
            event @ (Event::StepDone { .. } | Event::Captioning { .. }) => {
                panic!("nothing is written or made: {event:?}")
            }
            _ => {}
        }
    }
    assert_eq!(texts, [""], "one answer: the user's own need not be extracted");
}

#[test]
fn a_prefetch_is_used_and_never_in_the_way() {
    let mut engine = engine();
    let region = Region::square(40, 30, 16);
    let plain = job(vec![region], 64, Backbone::default());
    let prepared = |engine: &Engine, id: JobId, patience: Duration| {
        let end = Instant::now() + patience;
        while let Ok(event) = engine.events().recv_deadline(end) {
            if matches!(event, Event::Prepared { job } if job == id) {
                return true;
            }
        }
        false
    };
    let prefetch = engine.prepare(plain.clone());
    assert!(prepared(&engine, prefetch, Duration::from_secs(60)));
    // What is asked for then needs no loading, and comes out as ever.
    let id = engine.run(plain.clone());
    let mut stages = Vec::new();
    let output = loop {
        match engine.events().recv_timeout(Duration::from_secs(60)).expect("the engine answers") {
            Event::Progress { stage, .. } => stages.push(stage),
            Event::StepDone { output, .. } => break output,
            Event::Finished { job, outcome } if job == id => panic!("{outcome:?}"),
            _ => {}
        }
    };
    assert!(!stages.contains(&chain_of_zoom::base::Stage::Loading), "{stages:?}");
    let mut fresh = self::engine();
    let id = fresh.run(plain.clone());
    assert_eq!(until_finished(&fresh, id).0[0].picture, output.picture);

    // A hundred boxes in a moment, as a hand draws them: only the last is worked on.
    let mut last = JobId(0);
    for x in 0..100 {
        last = engine.prepare(job(vec![Region::square(x, 0, 16)], 64, Backbone::default()));
    }
    assert!(prepared(&engine, last, Duration::from_secs(60)));
    // Dropped, it is not worked on at all; what fails ahead is reported only when it is asked for.
    engine.prepare(job(vec![Region::square(1, 1, 16)], 64, Backbone::default()));
    engine.drop_prefetch();
    let bad = engine.prepare(job(vec![region], 64, Backbone::file("/no/such.pth")));
    let id = engine.run(plain);
    let mut events = Vec::new();
    while let Ok(event) = engine.events().recv_timeout(Duration::from_secs(60)) {
        let is_end = matches!(&event, Event::Finished { job, .. } if *job == id);
        events.push(event);
        if is_end {
            break;
        }
    }
    let is_prepared =
        |job: JobId| events.iter().any(|event| matches!(event, Event::Prepared { job: other } if *other == job));
    assert!(
        !is_prepared(bad) && !events.iter().any(|event| matches!(event, Event::Finished { job, .. } if *job == bad))
    );
    assert!(matches!(events.last(), Some(Event::Finished { outcome: JobOutcome::Completed, .. })));
}

#[test]
fn a_preview_comes_before_the_result_of_a_slower_model() {
    let mut engine = engine();
    let regions = vec![Region::square(100, 60, 32), Region::square(40, 40, 32)];
    let id = engine.run(job(regions.clone(), 128, Backbone::default()));
    let builtin = until_finished(&engine, id).0;

    let network = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/parity/networks/rrdb_x4.pth");
    for (backbone, expected) in [
        (Backbone::file(network), &["enlarged", "preview", "done", "enlarged", "preview", "done"][..]),
        (Backbone::default(), &["enlarged", "done", "enlarged", "done"]),
        (Backbone::from(&BICUBIC), &["enlarged", "done", "enlarged", "done"]),
    ] {
        let id = engine.run(Job { preview: true, ..job(regions.clone(), 128, backbone) });
        let (mut seen, mut previews) = (Vec::new(), Vec::new());
        loop {
            match engine.events().recv_timeout(Duration::from_secs(120)).expect("the engine answers") {
                Event::Enlarged { job, .. } if job == id => seen.push("enlarged"),
                Event::Preview { job, picture, .. } if job == id => {
                    seen.push("preview");
                    previews.push(picture);
                }
                Event::StepDone { job, .. } if job == id => seen.push("done"),
                Event::Finished { job, .. } if job == id => break,
                _ => {}
            }
        }
        assert_eq!(seen, expected);
        if let Some(first) = previews.first() {
            assert_eq!(*first, builtin[0].picture, "it is what the built-in network makes of the same region");
        }
    }
}

#[test]
fn steps_of_networks_are_estimated() {
    let engine = engine();
    let restorer = |backbone| job(vec![], 128, backbone).restorer;
    // What cannot be loaded is not estimated, and ends nothing.
    engine.estimate(restorer(Backbone::file("/no/such/model.pth")), (512, 512));
    engine.estimate(restorer(Backbone::from(&BICUBIC)), (512, 512));
    engine.estimate(restorer(Backbone::default()), (512, 512));
    loop {
        if let Event::Estimated { backbone, estimate } =
            engine.events().recv_timeout(Duration::from_secs(120)).expect("the engine answers")
        {
            assert_eq!(backbone, Backbone::default());
            assert!(estimate.secs > 0.0 && estimate.secs < 600.0, "{estimate}");
            assert!((5_000_000..500_000_000).contains(&estimate.bytes), "{estimate}");
            break;
        }
    }
}
