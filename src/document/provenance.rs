//! What an exported file says of itself, as XMP: the prompt, seed, box and model of its state, the whole chain as JSON,
//! and, where a model made pixels, IPTC's digital source type for that; with what the photo's camera wrote. Image programs
//! show and search it. Nothing in it tells of this machine's folders.

use quick_xml::Writer;
use quick_xml::escape::partial_escape;
use quick_xml::events::{BytesPI, BytesText, Event};

use crate::base::{Recipe, magnification_label};
use crate::imaging::exif::{AUTHOR, COPYRIGHT, properties as camera_properties};
use crate::imaging::{Metadata, Xmp};

/// IPTC's term for a picture in which some pixels are a trained model's.
const SOURCE_TYPE: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
/// The name of our own properties.
const NAMESPACE: &str = "https://arxiv.org/abs/2505.18600#";

/// The names of cameras' properties.
const OF_CAMERAS: [(&str, &str); 3] = [
    ("xmlns:tiff", "http://ns.adobe.com/tiff/1.0/"),
    ("xmlns:exif", "http://ns.adobe.com/exif/1.0/"),
    ("xmlns:exifEX", "http://cipa.jp/exif/1.0/"),
];

/// Of prompts and names where a format holds but little, in characters.
const SHORT: usize = 2000;

/// The XMP packet of the last state of a chain.
pub fn packet(recipe: &Recipe) -> String {
    packet_with(recipe, &serde_json::to_string(&shareable(recipe)).unwrap_or_default())
}

/// What files say of the last state of a chain.
pub fn metadata(recipe: &Recipe) -> Metadata {
    Metadata { xmp: Some(xmp(recipe)), exif: recipe.photo.exif.clone() }
}

/// What may be told to others: names and hashes instead of places. The camera's words stand by themselves.
fn shareable(recipe: &Recipe) -> Recipe {
    let mut shareable = recipe.clone();
    (shareable.photo.file, shareable.photo.exif) = (None, None);
    for model in shareable.steps.iter_mut().filter_map(|step| step.record.model.as_mut()) {
        model.backbone = model.backbone.without_places();
    }
    shareable
}

/// For picture files. Where a format holds less, first what was extracted for tiles is left out, then the chain: what the last
/// state is always stays.
fn xmp(recipe: &Recipe) -> Xmp {
    let mut shorter = shareable(recipe);
    shorter.photo.exif = recipe.photo.exif.clone();
    for full_image in shorter.steps.iter_mut().filter_map(|step| step.record.full_image.as_mut()) {
        full_image.prompts.clear();
    }
    let without_tiles = packet(&shorter);
    shorter.photo.name = shorter.photo.name.chars().take(SHORT).collect();
    if let Some(last) = shorter.steps.last_mut() {
        last.record.prompt = last.record.prompt.chars().take(SHORT).collect();
    }
    Xmp::from(packet(recipe)).with_shorter([without_tiles, packet_with(&shorter, "")])
}

fn packet_with(recipe: &Recipe, chain: &str) -> String {
    // Writing into memory does not fail.
    written(recipe, chain).unwrap_or_default()
}

/// `chain` is left out where it is empty.
fn written(recipe: &Recipe, chain: &str) -> std::io::Result<String> {
    let mut properties: Vec<(&str, String)> = vec![("xmp:CreatorTool", recipe.program.clone())];
    if recipe.is_generated() {
        properties.push(("Iptc4xmpExt:DigitalSourceType", SOURCE_TYPE.into()));
    }
    if let Some(step) = recipe.steps.last() {
        let (record, region) = (&step.record, step.record.region);
        let model = record.model.as_ref().map_or("none, only reduced".into(), |model| model.backbone.name());
        properties.extend([
            ("coz:Magnification", magnification_label(magnification(recipe))),
            ("coz:Prompt", record.prompt.clone()),
            ("coz:Seed", record.seed.to_string()),
            ("coz:Region", format!("{},{},{},{}", region.x, region.y, region.width, region.height)),
            ("coz:Model", model),
        ]);
    }
    properties.push(("coz:Photo", recipe.photo.name.clone()));
    if !chain.is_empty() {
        properties.push(("coz:Chain", chain.to_owned()));
    }
    let mut lists = Vec::new();
    for (name, text) in recipe.photo.exif.as_ref().map(camera_properties).unwrap_or_default() {
        match name {
            AUTHOR => lists.push((name, "rdf:Seq", text)),
            COPYRIGHT => lists.push((name, "rdf:Alt", text)),
            _ => properties.push((name, text)),
        }
    }
    // Image programs look there for a picture's description.
    let prompt = recipe.steps.last().map_or("", |step| step.record.prompt.trim());
    lists.extend((!prompt.is_empty()).then(|| ("dc:description", "rdf:Alt", prompt.to_owned())));

    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 1);
    writer.write_event(Event::PI(BytesPI::new("xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"")))?;
    let root = writer.create_element("x:xmpmeta").with_attribute(("xmlns:x", "adobe:ns:meta/"));
    root.write_inner_content(|writer| {
        let rdf = ("xmlns:rdf", "http://www.w3.org/1999/02/22-rdf-syntax-ns#");
        writer.create_element("rdf:RDF").with_attribute(rdf).write_inner_content(|writer| {
            let description = writer.create_element("rdf:Description").with_attributes([
                ("rdf:about", ""),
                ("xmlns:xmp", "http://ns.adobe.com/xap/1.0/"),
                ("xmlns:dc", "http://purl.org/dc/elements/1.1/"),
                ("xmlns:Iptc4xmpExt", "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"),
                ("xmlns:coz", NAMESPACE),
            ]);
            let description =
                if recipe.photo.exif.is_none() { description } else { description.with_attributes(OF_CAMERAS) };
            description.write_inner_content(|writer| {
                for (name, value) in &properties {
                    writer.create_element(*name).write_text_content(text(value))?;
                }
                lists.iter().try_for_each(|(name, kind, text)| list(writer, name, kind, text))
            })?;
            Ok(())
        })?;
        Ok(())
    })?;
    writer.write_event(Event::PI(BytesPI::new("xpacket end=\"r\"")))?;
    String::from_utf8(writer.into_inner()).map_err(std::io::Error::other)
}

/// A property that is a list, here of one.
fn list(writer: &mut Writer<Vec<u8>>, name: &str, kind: &str, value: &str) -> std::io::Result<()> {
    writer.create_element(name).write_inner_content(|writer| {
        writer.create_element(kind).write_inner_content(|writer| {
            let item = writer.create_element("rdf:li");
            // Texts in several languages, of which this is the one where nothing else is said.
            let item = if kind == "rdf:Alt" { item.with_attribute(("xml:lang", "x-default")) } else { item };
            item.write_text_content(text(value))?;
            Ok(())
        })?;
        Ok(())
    })?;
    Ok(())
}

fn magnification(recipe: &Recipe) -> f64 {
    recipe.steps.iter().map(|step| f64::from(step.width) / f64::from(step.record.region.width)).product()
}

/// The chain that a packet tells of; `None` where it tells of none, or of one that cannot be.
pub fn recipe(xmp: &str) -> Option<Recipe> {
    let document = roxmltree::Document::parse(xmp.trim_start_matches('\u{feff}')).ok()?;
    let chain = document.descendants().find(|node| node.has_tag_name((NAMESPACE, "Chain")))?;
    let recipe: Recipe = serde_json::from_str(chain.text()?).ok()?;
    recipe.is_valid().then_some(recipe)
}

/// As XML has it, which knows no control characters.
fn text(value: &str) -> BytesText<'static> {
    let is_allowed = |c: &char| matches!(c, '\n' | '\t') || !(c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}'));
    let allowed: String = value.chars().filter(is_allowed).collect();
    BytesText::from_escaped(partial_escape(allowed).into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{AlignMethod, Backbone, FullImage, ModelUsed, RecipeStep, Region, Source, StepRecord};
    use crate::imaging::{Format, Picture, codec};

    fn written(prompt: &str) -> Recipe {
        let record = StepRecord {
            region: Region::square(3, 4, 16),
            prompt: prompt.into(),
            model: Some(ModelUsed { backbone: Backbone::default(), align: AlignMethod::Wavelet, sha256: None }),
            seed: u64::MAX,
            consistency: Some(31.5),
            full_image: None,
            elapsed: Duration::from_millis(1250),
        };
        Recipe {
            program: "test".into(),
            photo: Source { name: "a & b.png".into(), ..Source::default() },
            width: 40,
            height: 30,
            steps: vec![RecipeStep { record, width: 64, height: 64 }],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = written("fur & <ears>\n\"Ünïcode\" \u{1}🦊");
        let packet = packet(&written);
        assert!(packet.contains(SOURCE_TYPE) && packet.contains("<coz:Magnification>4x<"));
        assert_eq!(recipe(&packet), Some(written.clone()));
        let outside = Recipe { width: 10, ..written };
        assert_eq!(recipe(&super::packet(&outside)), None, "boxes that do not fit are not believed");
        assert_eq!(recipe("<x/>"), None);
        assert_eq!(recipe("words"), None);
    }

    #[test]
    fn every_format_says_that_a_model_made_it() {
        let folder = tempfile::tempdir().expect("there is room");
        let short = written("fur");
        let mut with_tiles = short.clone();
        let prompts = vec!["a <tile> of fur".repeat(100); 400];
        with_tiles.steps[0].record.full_image = Some(FullImage { prompts, ..FullImage::default() });
        let mut without_tiles = with_tiles.clone();
        without_tiles.steps[0].record.full_image = Some(FullImage::default());
        let long = written(&"&<>\u{10ffff}".repeat(50_000));
        for format in Format::all() {
            let read_back = |written: &Recipe| {
                let file = folder.path().join(format!("x.{}", format.extension()));
                let picture = Picture::from_fn(8, 8, |_, _| [0; 3]);
                codec::save_with(&picture, &file, &metadata(written)).expect("there is room");
                let packet = codec::xmp(&file).expect("it carries a packet");
                assert!(packet.contains(SOURCE_TYPE) && packet.contains("<coz:Model>Built-in x4<"), "{format:?}");
                recipe(&packet)
            };
            let is_jpeg = format == Format::JPEG;
            assert_eq!(read_back(&short), Some(short.clone()));
            assert_eq!(read_back(&with_tiles), Some(if is_jpeg { without_tiles.clone() } else { with_tiles.clone() }));
            assert_eq!(read_back(&long), (!is_jpeg).then(|| long.clone()));
        }
    }
}
