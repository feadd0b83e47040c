//! `.coz` files: everything comes back; nothing in them is trusted; `coz replay` tells the truth.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zip::write::SimpleFileOptions;

use crate::samples::{Folder, coz, photo};
use chain_of_zoom::base::{AlignMethod, BICUBIC, Backbone, ModelUsed, Region, Source, StepRecord};
use chain_of_zoom::document::session::{Choices, Session, SessionError, autosave};
use chain_of_zoom::document::{History, StateId, session, thumbnail};
use chain_of_zoom::imaging::{Content, Format, Metadata, Picture, codec};

fn add(history: &mut History, parent: StateId, region: Region, picture: Picture) -> StateId {
    let record = StepRecord {
        region,
        prompt: "Ünï \"words\"\n".into(),
        model: Some(ModelUsed { backbone: Backbone::from(&BICUBIC), align: AlignMethod::Wavelet, sha256: None }),
        seed: u64::MAX - 1,
        consistency: Some(f64::INFINITY),
        full_image: None,
        elapsed: Duration::from_millis(1250),
    };
    let thumbnail = Arc::new(thumbnail(&picture));
    history.add(parent, record, Arc::new(picture), thumbnail).unwrap()
}

/// Three states on two branches, one of them deleted, of a photo on the disk.
fn session(folder: &Folder) -> Session {
    let file = folder.photo("photo.png", 200, 150);
    let picture = Arc::new(photo(200, 150));
    let source = Source {
        name: "photo.png".into(),
        sha256: chain_of_zoom::base::sha256(&file).ok(),
        file: Some(file),
        exif: None,
    };
    let mut history = History::new(source, picture.clone(), Arc::new(thumbnail(&picture)));
    let root = history.photo().id;
    let a = add(&mut history, root, Region::square(10, 20, 32), photo(96, 64));
    let gone = add(&mut history, root, Region::square(0, 0, 32), photo(64, 64));
    let b = add(&mut history, a, Region::square(60, 30, 30), photo(64, 72));
    history.delete(gone);
    history.go(a);
    history.go(b);
    history.pin(b, "cat".into());
    let choices = Choices { seed: 9, draft: "next".into(), ..Choices::default() };
    Session { history, choices, lost_photo: None }
}

fn save(session: &Session, file: &Path, link: bool) {
    session::save(session, file, link, &mut |_| true).unwrap();
}

#[test]
fn everything_comes_back() {
    let folder = Folder::new();
    let session = session(&folder);
    let file = folder.path("ünï code.coz");
    save(&session, &file, false);
    let read = session::open(&file).unwrap();
    let flat = |session: &Session| {
        let outline = session.history.outline();
        outline.iter().map(|(depth, s)| (*depth, s.record.clone(), s.picture.load().unwrap())).collect::<Vec<_>>()
    };
    assert!(flat(&session) == flat(&read), "states, branches, words, seeds, boxes, models and pixels");
    assert_eq!(read.history.outline().len(), 3, "what was deleted is gone");
    assert_eq!(read.history.current().magnification, session.history.current().magnification);
    assert_eq!(
        *read.history.source(),
        session.history.source().without_place(),
        "the photo is inside: where it lay is untold"
    );
    // The pinned words moved with their state to its new number.
    assert_eq!(read.history.all_pinned().collect::<Vec<_>>(), [(read.history.current().id, "cat")]);
    assert_eq!((read.choices.seed, read.choices.draft.as_str()), (9, "next"));
    // It is a zip of PNGs and one readable text.
    let mut zip = zip::ZipArchive::new(std::fs::File::open(&file).unwrap()).unwrap();
    let comment = String::from_utf8_lossy(zip.comment()).into_owned();
    assert!(comment.contains("compositeWithTrainedAlgorithmicMedia"), "the file as a whole says what it is: {comment}");
    let names: Vec<String> = zip.file_names().map(|name| name.unwrap().into_owned()).collect();
    assert!(names.contains(&"photo.png".into()) && names.contains(&"states/1.png".into()), "{names:?}");
    let json: serde_json::Value = serde_json::from_reader(zip.by_name("chain.json").unwrap()).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["states"][0]["prompt"], "Ünï \"words\"\n");
}

#[test]
fn a_linked_photo_is_found_checked_and_missed() {
    let folder = Folder::new();
    let session = session(&folder);
    let (linked, whole) = (folder.path("linked.coz"), folder.path("whole.coz"));
    save(&session, &linked, true);
    save(&session, &whole, false);
    let size = |file: &Path| file.metadata().unwrap().len();
    assert!(size(&linked) < size(&whole));
    assert_eq!(
        session::open(&linked).unwrap().history.photo().picture.load().unwrap(),
        session.history.photo().picture.load().unwrap()
    );

    // Both moved to another folder: the photo beside the session is found.
    std::fs::create_dir(folder.path("there")).unwrap();
    let moved = folder.path("there/linked.coz");
    std::fs::rename(&linked, &moved).unwrap();
    std::fs::rename(folder.path("photo.png"), folder.path("there/photo.png")).unwrap();
    assert!(session::open(&moved).is_ok());
    // Changed, it is refused; gone, it is missed. Both are named.
    codec::save(&photo(200, 151), &folder.path("there/photo.png")).unwrap();
    let error = session::open(&moved).unwrap_err();
    assert!(matches!(error, SessionError::OtherPhoto { .. }), "{error}");
    std::fs::remove_file(folder.path("there/photo.png")).unwrap();
    let error = session::open(&moved).unwrap_err();
    assert!(matches!(error, SessionError::PhotoMissing { .. }) && error.to_string().contains("photo.png"), "{error}");
}

#[test]
fn damage_is_an_error_and_never_a_panic() {
    let folder = Folder::new();
    let file = folder.path("good.coz");
    save(&session(&folder), &file, false);
    let good = std::fs::read(&file).unwrap();
    let bad = folder.path("bad.coz");
    let mut rng = fastrand::Rng::with_seed(3);
    for i in 0..400 {
        let mut bytes = good.clone();
        if i % 2 == 0 {
            bytes.truncate(rng.usize(..bytes.len()));
        } else {
            for _ in 0..rng.usize(1..20) {
                let at = rng.usize(..bytes.len());
                bytes[at] = rng.u8(..);
            }
        }
        std::fs::write(&bad, &bytes).unwrap();
        if let Err(error) = session::open(&bad) {
            assert!(error.to_string().contains("bad.coz"), "{error}");
        } else {
            assert!(i % 2 == 1, "half a file is no session");
        }
    }
    for (name, bytes) in [("empty.coz", &b""[..]), ("words.coz", b"words"), ("png.coz", b"\x89PNG\r\n\x1a\n")] {
        std::fs::write(folder.path(name), bytes).unwrap();
        assert!(matches!(session::open(&folder.path(name)), Err(SessionError::Damaged { .. })), "{name}");
    }
    assert!(matches!(session::open(&folder.path("none.coz")), Err(SessionError::Open { .. })));
}

/// A session with this description and these files.
fn forged(folder: &Folder, json: &str, files: &[(&str, &[u8])], compression: zip::CompressionMethod) -> PathBuf {
    let file = folder.path("forged.coz");
    let mut zip = zip::ZipWriter::new(std::fs::File::create(&file).unwrap());
    let options = SimpleFileOptions::default().compression_method(compression);
    for (name, bytes) in [("chain.json", json.as_bytes())].iter().chain(files) {
        zip.start_file(*name, options).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap();
    file
}

fn png(width: u32, height: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    Format::PNG.encode(&Content::of(&photo(width, height), &Metadata::default()), &mut bytes).unwrap();
    bytes
}

#[test]
fn hostile_sessions_are_refused_in_words() {
    let folder = Folder::new();
    let stored = zip::CompressionMethod::Stored;
    let state = |parent: usize, picture: &str, size: u64, region: &str| {
        format!(
            r#"{{"parent":{parent},"picture":{picture},"width":{size},"height":{size},"region":{region},
                "prompt":"","model":null,"seed":0,"seconds":1.0}}"#
        )
    };
    let manifest = |size: u64, states: &[String], current: usize| {
        format!(
            r#"{{"format":1,"program":"x","photo":{{"name":"../../etc/passwd"}},"width":{size},"height":{size},
                "photo_inside":true,"states":[{}],"current":{current}}}"#,
            states.join(",")
        )
    };
    let inside = r#"{"x":0,"y":0,"width":4,"height":4}"#;
    let photo = png(16, 16);
    let one = [("photo.png", &photo[..]), ("states/1.png", &photo[..]), ("../evil.png", &photo[..])];
    let found = |json: &str, files: &[(&str, &[u8])]| {
        session::open(&forged(&folder, json, files, stored)).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(found(&manifest(16, &[state(0, "1", 16, inside)], 1), &one), Ok(()), "the honest one is read");
    assert!(!folder.path("evil.png").exists() && !folder.root().join("../evil.png").exists());

    // A header that promises a gigabyte: refused before a pixel is decoded.
    let mut bomb = Vec::new();
    let mut header = png::Encoder::new(&mut bomb, 65535, 65535);
    header.set_color(png::ColorType::Rgb);
    header.write_header().unwrap().write_chunk(png::chunk::IDAT, b"little").unwrap();
    for (what, json, files) in [
        ("expected 16 x 16", manifest(16, &[], 0), vec![("photo.png", bomb.as_slice())]),
        ("claims 65535 x 65535", manifest(65535, &[], 0), vec![("photo.png", bomb.as_slice())]),
        ("claims 0 x 0", manifest(0, &[], 0), vec![("photo.png", photo.as_slice())]),
        ("expected 15 x 15", manifest(15, &[], 0), one.to_vec()),
        ("comes later", manifest(16, &[state(1, "1", 16, inside)], 0), one.to_vec()),
        ("megapixels", manifest(16, &vec![state(0, "1", 16384, inside); 40], 0), one.to_vec()),
        (
            "does not lie in",
            manifest(16, &[state(0, "1", 16, r#"{"x":4294967295,"y":0,"width":4,"height":4}"#)], 0),
            one.to_vec(),
        ),
        ("states/7.png", manifest(16, &[state(0, "7", 16, inside)], 0), one.to_vec()),
        ("chain.json", manifest(16, &[state(0, "\"../../x\"", 16, inside)], 0), one.to_vec()),
        ("is at hand", manifest(16, &[], 9), one.to_vec()),
        ("photo.png", manifest(16, &[], 0), vec![]),
        ("chain.json", "{\"format\":1".into(), one.to_vec()),
        ("chain.json", "[]".into(), one.to_vec()),
    ] {
        let output = found(&json, &files).unwrap_err();
        assert!(output.contains(what) && output.contains("forged.coz"), "{what}: {output}");
    }
    let newer = found(r#"{"format":2,"program":"Chain-of-Zoom 9","states":"another shape"}"#, &one).unwrap_err();
    assert!(newer.contains("Chain-of-Zoom 9") && newer.contains("format 2"), "{newer}");

    // A photo that is linked by a path that climbs out is only ever read, and only as a picture.
    let climbing = manifest(16, &[], 0).replace("\"photo_inside\":true", "\"photo_inside\":false");
    let climbing = climbing.replace("\"name\":", "\"file\":\"/etc/passwd\",\"name\":");
    let output = found(&climbing, &one).unwrap_err();
    assert!(output.contains("not a picture"), "{output}");
}

#[test]
fn replay_says_what_matches() {
    let folder = Folder::new();
    let input = folder.photo("photo.png", 128, 96);
    let out = folder.path("out");
    let run = coz(["zoom", "-i", input.to_str().unwrap(), "-o", out.to_str().unwrap()])
        .args(["--process-size", "64", "--rec-num", "2", "--prompt", "a & <b>"])
        .output()
        .unwrap();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    let sample = out.join("per-sample/photo");
    let replay = |path: &Path, more: &[&str]| {
        let output = coz(["replay", path.to_str().unwrap()]).args(more).output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let (code, output) = replay(&sample, &[]);
    assert_eq!(code, Some(0), "{output}");
    assert_eq!(output.matches("the same to the bit").count(), 2, "{output}");

    // One pixel changed by hand in the last state: only that one differs.
    let last = sample.join("2.png");
    let xmp = codec::xmp(&last).unwrap();
    let mut picture = codec::open(&last).unwrap();
    let old = picture.pixel(5, 5);
    picture.paste(&Picture::from_fn(1, 1, |_, _| old.map(|c| c ^ 0x80)), 5, 5);
    codec::save_with(&picture, &last, &Metadata { xmp: Some(xmp.into()), exif: None }).unwrap();
    let (code, output) = replay(&sample, &["--json"]);
    let lines: serde_json::Value = serde_json::from_str(&output).unwrap();
    assert_eq!(code, Some(1));
    assert_eq!((lines[0]["outcome"].as_str(), lines[1]["outcome"].as_str()), (Some("same"), Some("different")));
    assert_eq!(lines[1]["largest_difference"], 128);

    // A model that is gone fails that state in words, not the rest.
    let mut session = session(&folder);
    let root = session.history.photo().id;
    let region = Region::square(0, 0, 16);
    let id = add(&mut session.history, root, region, photo(64, 64));
    let file = folder.path("work.coz");
    save(&session, &file, false);
    let before = std::fs::read(&file).unwrap();
    let (code, output) = replay(&file, &[]);
    assert_eq!(code, Some(1));
    assert_eq!((output.lines().count(), output.contains("DIFFERENT")), (4, true), "{output}");
    assert_eq!(std::fs::read(&file).unwrap(), before, "a replay changes nothing");
    let record = session.history.get(id).unwrap().record.clone().unwrap();
    let missing = ModelUsed { backbone: Backbone::file(folder.path("gone.pth")), ..record.model.clone().unwrap() };
    let picture = session.history.get(id).unwrap().picture.clone();
    let missing = StepRecord { model: Some(missing), ..record };
    session.history.add(root, missing, picture.clone(), picture.load().unwrap()).unwrap();
    save(&session, &file, false);
    let (_, output) = replay(&file, &[]);
    assert!(output.contains("FAILED: The model is not known here") && output.contains("gone.pth"), "{output}");
}

/// Set in the process whose user has a data folder of its own.
const OF_ITS_OWN: &str = "COZ_TEST_OF_ITS_OWN";

#[test]
fn a_session_larger_than_memory_is_saved_and_opened() {
    if std::env::var_os(OF_ITS_OWN).is_none() {
        let folder = Folder::new();
        let run = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "session::a_session_larger_than_memory_is_saved_and_opened"])
            .env(OF_ITS_OWN, "1")
            .env("XDG_DATA_HOME", folder.path("data"))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&run.stdout);
        assert!(run.status.success() && said.contains("1 passed"), "{said}");
        let left = std::fs::read_dir(folder.path("data/chain-of-zoom/autosave")).unwrap();
        assert_eq!(left.count(), 0, "what was put there goes with the session");
        return;
    }
    // 1,200 megapixels, more than a session could once have: one picture, many times.
    const STATES: usize = 1200;
    let folder = Folder::new();
    let mut session = session(&folder);
    let root = session.history.photo().id;
    let record = session.history.current().record.clone().unwrap();
    let record = StepRecord { region: Region::square(0, 0, 16), ..record };
    let picture = Arc::new(Picture::from_fn(1024, 1024, |x, _| [(x / 512) as u8 * 200, 9, 90]));
    let thumbnail = Arc::new(photo(16, 16));
    for _ in 0..STATES {
        session.history.add(root, record.clone(), picture.clone(), thumbnail.clone()).unwrap();
    }
    let file = folder.path("large.coz");
    save(&session, &file, false);
    let opened = session::open(&file).unwrap();
    let states: Vec<_> = opened.history.with_deleted().filter(|state| state.picture.width() == 1024).collect();
    assert_eq!(states.len(), STATES);
    let bytes: u64 = states.iter().map(|state| state.picture.bytes()).sum();
    assert!(bytes < 600 << 20, "{bytes}");
    assert_eq!(*states[STATES - 1].picture.load().unwrap(), *picture);
    assert_eq!(states[STATES - 1].picture.bytes(), 0, "what is read once does not stay");
}

#[test]
fn a_model_that_a_file_names_is_found_by_name_and_weights() {
    let folder = Folder::new();
    let network = |name: &str| Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/parity/networks").join(name);
    let put = |name: &str, to: &str| {
        let to = folder.path(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::copy(network(name), &to).unwrap();
    };
    put("rrdb_x4.pth", "elsewhere/4x.pth");
    folder.photo("photo.png", 200, 150);
    let run = |options: &[&str]| {
        let mut run = coz(options.iter().copied());
        let run = run.env("XDG_DATA_HOME", folder.path("data")).current_dir(folder.root()).output().unwrap();
        let said = [run.stdout, run.stderr].map(|text| String::from_utf8(text).unwrap()).concat();
        (run.status.code(), said)
    };
    let zoom = ["zoom", "-i", "photo.png", "-o", "out", "--process-size", "64", "--rec-num", "1"];
    let (code, said) = run(&[&zoom[..], &["--backbone", "elsewhere/4x.pth", "--device", "cpu"]].concat());
    assert_eq!(code, Some(0), "{said}");
    let replay = ["replay", "out/per-sample/photo", "--device", "cpu"];
    // It is where the file says, but nobody here knows it.
    let (code, said) = run(&replay);
    assert!(code == Some(1) && said.contains("The model is not known here"), "{said}");
    // Another one of the same name is not it.
    put("compact_x4.pth", "data/chain-of-zoom/models/4x.pth");
    let (code, said) = run(&replay);
    assert!(code == Some(1) && said.contains("The model is not known here"), "{said}");
    put("rrdb_x4.pth", "data/chain-of-zoom/models/4x.pth");
    let (code, said) = run(&replay);
    assert!(code == Some(0) && said.contains("the same to the bit"), "{said}");
    // Or the user says which.
    std::fs::remove_dir_all(folder.path("data/chain-of-zoom/models")).unwrap();
    let (code, said) = run(&[&replay[..], &["--backbone", "elsewhere/4x.pth"]].concat());
    assert!(code == Some(0) && said.contains("the same to the bit"), "{said}");
}

#[test]
fn two_programs_do_not_share_an_autosave() {
    let folder = Folder::new();
    let all = folder.path("autosave");
    let session = session(&folder);
    let mut first = autosave::Autosave::create(&all).unwrap();
    let mut second = autosave::Autosave::create(&all).unwrap();
    first.keep(&session).unwrap();
    second.keep(&session).unwrap();
    assert_ne!(first.folder(), second.folder());
    assert!(autosave::recoverable(&all).is_empty());
    autosave::discard(first.folder());
    assert!(first.folder().exists(), "what is in use cannot be thrown away");
    // A power cut while the description was being replaced: the old one is whole, a part lies beside it.
    std::fs::write(first.folder().join(".coz-x.part"), "{").unwrap();
    let one = first.folder().to_owned();
    drop(first);
    let left = autosave::recoverable(&all);
    assert_eq!(left.iter().map(|left| (&left.folder, left.states)).collect::<Vec<_>>(), [(&one, 2)]);
    let restored = session::open(&one).unwrap();
    assert_eq!(restored.history.current().picture.load().unwrap(), session.history.current().picture.load().unwrap());
    // Its photo gone with the crash, the states are still there, on grey.
    std::fs::remove_file(folder.path("photo.png")).unwrap();
    let restored = session::open(&one).unwrap();
    assert_eq!(restored.lost_photo, Some(folder.path("photo.png")));
    assert_eq!(restored.history.current().picture.load().unwrap(), session.history.current().picture.load().unwrap());
    let photo = restored.history.photo().picture.load().unwrap();
    assert_eq!((photo.width(), photo.height(), photo.pixel(190, 140)), (200, 150, [0x60; 3]));
    assert_ne!(photo.pixel(20, 30), [0x60; 3], "what is known of the photo is there");
    second.forget();
    drop(second);
    autosave::discard(&one);
    assert_eq!(std::fs::read_dir(&all).unwrap().count(), 0);
}
