//! Critics that compute, and those behind an address.

use serde_json::json;
use tch::{Device, Kind, Tensor};

use super::{checkpoint, column, model, photos, said, train};
use crate::chat_server::{ChatServer, message, respond};
use crate::samples::{Folder, photo};
use chain_of_zoom::base::{Precision, ServerKey};
use chain_of_zoom::imaging::Picture;
use chain_of_zoom::networks::qwen::Qwen;
use chain_of_zoom::networks::qwen::adapter::Adapter;
use chain_of_zoom::pipelines::PipelineError;
use chain_of_zoom::pipelines::caption::vlm::processor::Processor;
use chain_of_zoom::runtime::compute_alone;
use chain_of_zoom::runtime::weights::{Loader, Weights};
use chain_of_zoom::train::vlm::rewards::critic::{self, CriticOptions};

fn pictures() -> [Picture; 2] {
    [photo(64, 64), photo(60, 50)]
}

fn options(is_expected: bool) -> CriticOptions {
    let name = model().display().to_string();
    CriticOptions {
        name,
        is_expected,
        model: None,
        key: ServerKey::default(),
        device: Device::Cpu,
        precision: Precision::Fp32,
    }
}

/// The mean of 0 to 100 by brute force: each prefix read from its beginning.
fn expected(description: &str) -> f64 {
    let processor = Processor::open(&model()).unwrap();
    let weights = Weights::open_folder(&model(), "model").unwrap();
    let mut loader = Loader::new(&weights, "", Device::Cpu, Kind::Float);
    let networks = Qwen::load(&mut loader, &processor.config, &Adapter::default()).unwrap();
    let images = pictures()
        .map(|picture| processor.encode_image(&networks.vision, &picture, Device::Cpu, &mut |_| Ok(())).unwrap());
    let text = |text: &str| json!({ "type": "text", "text": text });
    let image = json!({ "type": "image" });
    let rest = format!(
        "\nThe second image is a zoom-in of the first image. Please rate the quality of the following description on how well \
         it describes the second image. Output only a single score between 0 and 100.\nDescription: {description}\nRating \
         (0-100):"
    );
    let content = json!([text("First Image: "), image, text("\nSecond Image: "), image, text(&rest)]);
    let chat = json!([{ "role": "user", "content": content }]);
    let prompt = processor.encode_chat(&networks.language, &chat, &images.each_ref()).unwrap();
    let digits: Vec<i64> = (0..10).map(|digit| processor.token(&digit.to_string()).unwrap()).collect();
    let shares = |behind: &[i64]| -> Vec<f64> {
        let embedded = match behind {
            [] => prompt.embedded.shallow_clone(),
            _ => Tensor::cat(&[&prompt.embedded, &networks.language.embed(&Tensor::from_slice(behind)).unwrap()], 1),
        };
        let more = prompt.positions_behind(0, behind.len() as i64).unwrap();
        let positions = Tensor::cat(&[&prompt.positions, &more], 1);
        let mut cache = networks.language.cache(embedded.size()[1]).unwrap();
        let logits =
            networks.language.forward::<PipelineError>(&embedded, &positions, &mut cache, &mut |_| Ok(())).unwrap();
        let all = logits.get(0).softmax(-1, Kind::Double);
        digits.iter().map(|&digit| all.double_value(&[digit])).collect()
    };
    let (first, mut sum) = (shares(&[]), 0.0);
    for (tens, share) in first.iter().enumerate() {
        let second = shares(&[digits[tens]]);
        sum += share * (1.0 - second.iter().sum::<f64>()) * tens as f64;
        for (ones, other) in second.iter().enumerate() {
            let number = (10 * tens + ones) as f64;
            let hundred = if number == 10.0 && tens == 1 { shares(&[digits[1], digits[0]])[0] } else { 0.0 };
            sum += share * other * (hundred * 100.0 + (1.0 - hundred) * number);
        }
    }
    sum / first.iter().sum::<f64>() / 100.0
}

#[test]
fn the_expected_rating_is_the_mean_of_all_answers() {
    let _no_grad = tch::no_grad_guard();
    compute_alone();
    let mut critic = critic::open(&options(true)).unwrap();
    // A model that knows nothing begins with a digit more often than once in a hundred answers.
    let texts = ["fur, whiskers", "a stone", "fur, whiskers and eyes", "fur"].map(String::from);
    let together = critic::ratings(&mut *critic, &pictures(), &texts, &mut || true).unwrap();
    for (text, rating) in texts.iter().zip(&together) {
        let alone = critic::ratings(&mut *critic, &pictures(), std::slice::from_ref(text), &mut || true).unwrap()[0];
        let (rating, alone, expected) = (rating.unwrap(), alone.unwrap(), expected(text));
        assert!(
            (rating - expected).abs() < 1e-5 && (alone - expected).abs() < 1e-5,
            "{text}: {rating} {alone} {expected}"
        );
    }
    critic.unload();
    assert_eq!(critic::ratings(&mut *critic, &pictures(), &texts, &mut || true).unwrap(), together, "it is read again");
}

#[test]
fn the_model_itself_rates_with_no_more_memory_and_the_phases_change_nothing() {
    let folder = Folder::new();
    photos(&folder, 2);
    let more = ["--critic", model().to_str().unwrap(), "--critic_score", "expected", "--max_train_steps", "2"]
        .map(str::to_owned);
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let out = folder.path("itself");
    let output = train(&folder, &out, &more);
    assert!(output.status.success() && said(&output).contains("memory plan: resident"), "{}", said(&output));
    assert!(column(&out, "critic").iter().all(|rating| (0.0..=1.0).contains(rating)));
    assert!(column(&out, "critic_std").iter().any(|&std| std > 0.0));
    // The same weights from another place are another model, which may take turns with the policy.
    let copy = folder.path("copy");
    std::fs::create_dir_all(&copy).unwrap();
    for file in std::fs::read_dir(model()).unwrap().flatten() {
        std::fs::copy(file.path(), copy.join(file.file_name())).unwrap();
    }
    for plan in ["resident", "staged"] {
        let other = folder.path(plan);
        let critic = ["--critic", copy.to_str().unwrap(), "--memory", plan, "--steps_per_generation", "1"];
        let output = train(&folder, &other, &[&more[..], &critic].concat());
        assert!(said(&output).contains(&format!("memory plan: {plan}")), "{}", said(&output));
        super::assert_same(&out, &other, 2);
    }
}

#[test]
fn servers_are_asked_with_both_pictures_and_patience() {
    let server = ChatServer::start(|number, _, stream| match number {
        0 => respond(stream, 503, "", b"busy"),
        _ => message(stream, "Score: 80"),
    });
    let options = CriticOptions { name: server.address.clone(), ..options(false) };
    let mut critic = critic::open(&options).unwrap();
    let ratings = critic::ratings(&mut *critic, &pictures(), &["fur".to_owned()], &mut || true).unwrap();
    assert_eq!(ratings, [Some(0.8)]);
    let questions = server.questions();
    let asked = &questions.last().unwrap().body;
    assert_eq!((asked["model"].as_str(), asked["max_tokens"].as_u64()), (Some("eyes"), Some(8)));
    let content = asked["messages"][0]["content"].as_array().unwrap();
    let images = content.iter().filter_map(|part| part["image_url"]["url"].as_str());
    assert!(images.clone().all(|url| url.starts_with("data:image/png;base64,iVBOR")) && images.count() == 2);
    assert!(content[4]["text"].as_str().unwrap().contains("Description: fur\n"));
    assert!(critic::open(&CriticOptions { is_expected: true, ..options }).is_err());
}

#[test]
fn who_is_not_rated_leaves_its_group() {
    let folder = Folder::new();
    photos(&folder, 2);
    // It has no opinion of texts of an odd number of letters, and never changes its mind.
    let server = ChatServer::start(|_, asked, stream| {
        let text = asked.body["messages"][0]["content"][4]["text"].as_str().unwrap_or_default();
        message(stream, if text.chars().count() % 2 == 0 { "70" } else { "no idea" });
    });
    let out = folder.path("out");
    let output = train(&folder, &out, &["--critic", &server.address, "--max_train_steps", "2"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(column(&out, "unrated").iter().sum::<f64>() > 0.0);
    assert!(column(&out, "loss").iter().all(|loss| loss.is_finite()));

    // One that has only thought has rated nothing either.
    let silent = ChatServer::start(|_, _, stream| message(stream, "<think>Which number?"));
    let out = folder.path("silent");
    let options = ["--critic", &silent.address, "--max_train_steps", "100", "--gradient_accumulation_steps", "1"];
    let output = train(&folder, &out, &options);
    assert!(!output.status.success() && said(&output).contains("The critic gives no ratings"), "{}", said(&output));
    assert!(column(&out, "skipped_groups").iter().all(|&groups| groups == 1.0));
    assert!(checkpoint(&out, 20).is_dir(), "nothing is lost");

    let gone = ["--critic", "http://127.0.0.1:9/v1", "--critic_model", "eyes", "--max_train_steps", "1"];
    let output = train(&folder, &folder.path("gone"), &gone);
    assert!(!output.status.success() && said(&output).contains("http://127.0.0.1:9/v1"), "{}", said(&output));
}
