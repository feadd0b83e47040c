//! What an exported file says of itself, as XMP: the words, seed, box and model of its state, the whole chain as JSON,
//! and, where a model made pixels, IPTC's digital source type for that. Image programs show and search it.

use std::fmt::Write;

use crate::export::stills::magnification_label;
use crate::history::Recipe;

/// IPTC's term for a picture in which some pixels are a trained model's.
const SOURCE_TYPE: &str = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia";
/// The name of our own properties.
const NAMESPACE: &str = "https://arxiv.org/abs/2505.18600#";

/// The XMP packet of the last state of a chain.
pub fn packet(recipe: &Recipe) -> String {
    let mut properties = String::new();
    let mut property = |name: &str, value: &str| {
        // Writing to a String cannot fail.
        _ = writeln!(properties, "   <{name}>{}</{name}>", escaped(value));
    };
    property("xmp:CreatorTool", &recipe.program);
    if recipe.is_generated() {
        property("Iptc4xmpExt:DigitalSourceType", SOURCE_TYPE);
    }
    if let Some(step) = recipe.steps.last() {
        let making = &step.making;
        let region = making.region;
        property("coz:Magnification", &magnification_label(magnification(recipe)));
        property("coz:Prompt", &making.prompt);
        property("coz:Seed", &making.seed.to_string());
        property("coz:Region", &format!("{},{},{},{}", region.x, region.y, region.width, region.height));
        property("coz:Model", &making.model.as_ref().map_or("none, only reduced".into(), |model| model.name()));
    }
    property("coz:Photo", &recipe.photo.name);
    if let Ok(json) = serde_json::to_string(recipe) {
        property("coz:Chain", &json);
    }
    let prompt = recipe.steps.last().map_or("", |step| step.making.prompt.trim());
    if !prompt.is_empty() {
        let words = escaped(prompt);
        _ = writeln!(
            properties,
            "   <dc:description><rdf:Alt><rdf:li xml:lang=\"x-default\">{words}</rdf:li></rdf:Alt></dc:description>"
        );
    }
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\n\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\n \
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\n  \
         <rdf:Description rdf:about=\"\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" \
         xmlns:dc=\"http://purl.org/dc/elements/1.1/\" \
         xmlns:Iptc4xmpExt=\"http://iptc.org/std/Iptc4xmpExt/2008-02-29/\" xmlns:coz=\"{NAMESPACE}\">\n\
         {properties}  </rdf:Description>\n </rdf:RDF>\n</x:xmpmeta>\n<?xpacket end=\"r\"?>"
    )
}

fn magnification(recipe: &Recipe) -> f64 {
    recipe.steps.iter().map(|step| f64::from(step.width) / f64::from(step.making.region.width)).product()
}

/// The chain that a packet tells of; `None` where it tells of none, or of one that cannot be.
pub fn recipe(xmp: &str) -> Option<Recipe> {
    let document = roxmltree::Document::parse(xmp.trim_start_matches('\u{feff}')).ok()?;
    let chain = document.descendants().find(|node| node.has_tag_name((NAMESPACE, "Chain")))?;
    let recipe: Recipe = serde_json::from_str(chain.text()?).ok()?;
    recipe.is_sane().then_some(recipe)
}

/// For XML, which also knows no control characters.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\n' | '\t' => escaped.push(letter),
            c if c.is_control() || c == '\u{fffe}' || c == '\u{ffff}' => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::history::{Making, Source, recipe::Step};
    use crate::image::AlignMethod;
    use crate::region::Region;
    use crate::step::{Backbone, ModelUsed};

    #[test]
    fn what_is_written_is_read_again() {
        let making = Making {
            region: Region::square(3, 4, 16),
            prompt: "fur & <ears>\n\"Ünïcode\" \u{1}🦊".into(),
            model: Some(ModelUsed { backbone: Backbone::BuiltIn, align: AlignMethod::Wavelet, sha256: None }),
            seed: u64::MAX,
            agreement: Some(31.5),
            whole: None,
            elapsed: Duration::from_millis(1250),
        };
        let written = Recipe {
            program: "test".into(),
            photo: Source { name: "a & b.png".into(), ..Source::default() },
            width: 40,
            height: 30,
            steps: vec![Step { making, width: 64, height: 64 }],
        };
        let packet = packet(&written);
        assert!(packet.contains(SOURCE_TYPE) && packet.contains("<coz:Magnification>4x<"));
        assert_eq!(recipe(&packet), Some(written.clone()));
        let outside = Recipe { width: 10, ..written };
        assert_eq!(recipe(&super::packet(&outside)), None, "boxes that do not fit are not believed");
        assert_eq!(recipe("<x/>"), None);
        assert_eq!(recipe("words"), None);
    }
}
