//! What is written is read again, whatever it is: recipes as JSON and in pictures, sessions as `.coz` files.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::{Index, select};

use crate::samples::{Folder, photo};
use chain_of_zoom::base::{
    AlignMethod, BICUBIC, Backbone, BackboneSpec, Exif, FullImage, ModelUsed, NEAREST, Precision, Recipe, RecipeStep,
    Region, Source, StepRecord, Tiling, VaeMode,
};
use chain_of_zoom::document::session::{Choices, Session};
use chain_of_zoom::document::{History, StateId, provenance, session, thumbnail};

fn align() -> impl Strategy<Value = AlignMethod> {
    select(vec![AlignMethod::NoFix, AlignMethod::Adain, AlignMethod::Wavelet])
}

fn backbone() -> impl Strategy<Value = Backbone> {
    let precision = select(vec![Precision::Auto, Precision::Fp32, Precision::Fp16, Precision::Bf16]);
    let path = || "/\\PC{1,12}";
    let sd3 = (path(), prop::option::of(path()), prop::option::of(path()), precision);
    let sd3 = sd3.prop_map(|(model, lora, vae, precision)| {
        let mut backbone = Backbone::from(BackboneSpec::named("sd3").unwrap()).with("model", model);
        for (role, path) in [("lora", lora), ("vae", vae)] {
            if let Some(path) = path {
                backbone = backbone.with(role, path);
            }
        }
        Backbone { precision, ..backbone }
    });
    let plain = select(vec![Backbone::default(), Backbone::from(&BICUBIC), Backbone::from(&NEAREST)]);
    prop_oneof![plain, path().prop_map(Backbone::file), sd3]
}

fn full_image() -> impl Strategy<Value = FullImage> {
    let tiling =
        (1u32..200, 0u32..50, 1u32..4096, 1u32..400, select(vec![VaeMode::Fast, VaeMode::Averaged, VaeMode::Exact]));
    let tiling = tiling.prop_map(|(latent_tile, overlap, encoder_tile, decoder_tile, vae_mode)| Tiling {
        latent_tile,
        overlap,
        encoder_tile,
        decoder_tile,
        vae_mode,
    });
    (tiling, prop::collection::vec(any::<String>(), 0..3)).prop_map(|(tiling, prompts)| FullImage { tiling, prompts })
}

/// How a state was made, but for its region. Where no model ran there is no consistency; its eighths of a dB are exact.
fn record() -> impl Strategy<Value = StepRecord> {
    let sha256 = prop::option::of("[0-9a-f]{64}");
    let model =
        (backbone(), align(), sha256).prop_map(|(backbone, align, sha256)| ModelUsed { backbone, align, sha256 });
    let made = prop::option::of((model, (0u32..800).prop_map(|eighths| f64::from(eighths) / 8.0)));
    let rest = (any::<String>(), any::<u64>(), prop::option::of(full_image()), 0u64..10_000_000);
    (made, rest).prop_map(|(made, (prompt, seed, full_image, millis))| StepRecord {
        region: Region::square(0, 0, 1),
        prompt,
        consistency: made.as_ref().map(|(_, consistency)| *consistency),
        model: made.map(|(model, _)| model),
        seed,
        full_image,
        elapsed: Duration::from_millis(millis),
    })
}

/// A box in a picture of this size, from four numbers.
fn region(numbers: [Index; 4], width: u32, height: u32) -> Region {
    let index = |i: usize, end: u32| numbers[i].index(end as usize) as u32;
    let (x, y) = (index(0, width), index(1, height));
    Region { x, y, width: 1 + index(2, width - x), height: 1 + index(3, height - y) }
}

fn numbers() -> impl Strategy<Value = [Index; 4]> {
    prop::array::uniform4(any::<Index>())
}

fn recipe() -> impl Strategy<Value = Recipe> {
    let source = ("\\PC{0,20}", prop::option::of("/\\PC{1,12}"), prop::option::of("[0-9a-f]{64}"));
    let exif = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
    let source = (source, exif).prop_map(|((name, file, sha256), exif)| Source {
        name,
        file: file.map(Into::into),
        sha256,
        exif: exif.map(Exif),
    });
    let steps = prop::collection::vec((record(), numbers(), 1u32..=16384, 1u32..=16384), 0..5);
    (source, 1u32.., 1u32.., steps).prop_map(|(photo, width, height, steps)| {
        let mut size = (width, height);
        let steps = steps.into_iter().map(|(record, numbers, width, height)| {
            let record = StepRecord { region: region(numbers, size.0, size.1), ..record };
            size = (width, height);
            RecipeStep { record, width, height }
        });
        Recipe { program: "Chain-of-Zoom test".into(), photo, width, height, steps: steps.collect() }
    })
}

/// XMP leaves out what XML should not hold and JSON does not escape.
fn in_xmp(text: &str) -> String {
    text.replace(|c: char| ('\u{7f}'..='\u{9f}').contains(&c) || matches!(c, '\u{fffe}' | '\u{ffff}'), "")
}

proptest! {
    #[test]
    fn recipes_come_back(recipe in recipe()) {
        prop_assert!(recipe.is_valid());
        let json = serde_json::to_string(&recipe).unwrap();
        prop_assert_eq!(&serde_json::from_str::<Recipe>(&json).unwrap(), &recipe);

        let read = provenance::recipe(&provenance::packet(&recipe)).expect("it is there");
        let mut expected: Recipe = serde_json::from_str(&in_xmp(&json)).unwrap();
        // What may be told to others.
        (expected.photo.file, expected.photo.exif) = (None, None);
        for model in expected.steps.iter_mut().filter_map(|step| step.record.model.as_mut()) {
            model.backbone = model.backbone.without_places();
        }
        prop_assert_eq!(read, expected);
    }
}

/// What is done to a session: a state cut from an earlier one, or one deleted with all below it.
#[derive(Clone, Debug)]
enum Change {
    Add { parent: Index, record: Box<StepRecord>, numbers: [Index; 4], size: (u32, u32) },
    Delete(Index),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let add = (any::<Index>(), record(), numbers(), (1u32..=24, 1u32..=24));
    let add =
        add.prop_map(|(parent, record, numbers, size)| Change::Add { parent, record: Box::new(record), numbers, size });
    prop::collection::vec(prop_oneof![4 => add, 1 => any::<Index>().prop_map(Change::Delete)], 0..8)
}

fn history(changes: Vec<Change>, (width, height): (u32, u32)) -> History {
    let picture = Arc::new(photo(width, height));
    let source = Source { name: "photo.png".into(), ..Source::default() };
    let mut history = History::new(source, picture.clone(), picture);
    for change in changes {
        let ids: Vec<StateId> = history.outline().iter().map(|(_, state)| state.id).collect();
        match change {
            Change::Add { parent, record, numbers, size } => {
                let parent = *parent.get(&ids);
                let from = &history.get(parent).unwrap().picture;
                let record = StepRecord { region: region(numbers, from.width(), from.height()), ..*record };
                let picture = Arc::new(photo(size.0, size.1));
                history.add(parent, record, picture.clone(), Arc::new(thumbnail(&picture))).unwrap();
            }
            Change::Delete(state) => history.delete(*state.get(&ids)),
        }
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn sessions_come_back(
        changes in changes(),
        size in (1u32..=40, 1u32..=40),
        current in any::<Index>(),
        pinned in prop::collection::btree_map(0usize..8, any::<String>(), 0..4),
        choices in (64u32..=2048, backbone(), align(), any::<u64>(), any::<String>()),
    ) {
        let mut history = history(changes, size);
        let ids: Vec<StateId> = history.outline().iter().map(|(_, state)| state.id).collect();
        history.go(*current.get(&ids));
        let (process_size, backbone, align, seed, draft) = choices;
        let choices = Choices { process_size, backbone, align, seed, draft };
        for (id, prompt) in &pinned {
            history.pin(StateId(*id), prompt.clone());
        }
        let written = Session { history, choices, lost_photo: None };
        let folder = Folder::new();
        let file = folder.path("session.coz");
        session::save(&written, &file, false, &mut |_| true).unwrap();
        let read = session::open(Path::new(&file)).unwrap();

        let (before, after) = (written.history.outline(), read.history.outline());
        prop_assert_eq!(before.len(), after.len());
        for ((depth, state), (depth_read, state_read)) in before.iter().zip(&after) {
            let mut record = state.record.clone();
            // Who gets the file need not know where models lie.
            if let Some(model) = record.as_mut().and_then(|record| record.model.as_mut()) {
                model.backbone = model.backbone.without_places();
            }
            prop_assert_eq!((depth, &record), (depth_read, &state_read.record));
            prop_assert!(state.picture.load().unwrap() == state_read.picture.load().unwrap());
        }
        let at = |history: &History| history.outline().iter().position(|(_, state)| state.id == history.current().id);
        prop_assert_eq!(at(&read.history), at(&written.history));
        // States are numbered anew; what was pinned to one that is gone is gone.
        let pinned: BTreeMap<usize, String> = pinned
            .into_iter()
            .filter(|(_, prompt)| !prompt.is_empty())
            .filter_map(|(id, prompt)| Some((ids.iter().position(|&other| other == StateId(id))?, prompt)))
            .collect();
        let pinned_read = read.history.all_pinned().map(|(id, prompt)| (id.0, prompt.to_owned()));
        prop_assert_eq!(pinned_read.collect::<BTreeMap<_, _>>(), pinned);
        let backbone = written.choices.backbone.without_places();
        prop_assert_eq!(read.choices, Choices { backbone, ..written.choices });
        prop_assert_eq!(read.lost_photo, None);
    }
}
