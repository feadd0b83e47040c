//! What cameras write into their files (EXIF 3.0), as far as it holds for what is made of a photo: camera, lens, exposure,
//! dates, author, copyright and place. Pixels are upright and sRGB here, so the orientation and the colour space are set;
//! thumbnails, the maker's notes and what describes the original file stay behind.

use std::io::Cursor;

use exif::experimental::Writer;
use exif::{Context, Error, Field, In, Reader, Tag, Value};

use crate::base::Exif;

/// Of one field, in bytes: comments may be long.
const LONGEST_FIELD: usize = 8 << 10;
/// Of all that is looked at.
const MOST_READ: usize = 4 << 20;
const MOST_FIELDS: usize = 1000;
/// Of all that is kept.
const LONGEST_KEPT: usize = 60 << 10;

/// Of the picture's own directory, which describes the file for the most part.
const KEPT: [Tag; 7] = [
    Tag::ImageDescription,
    Tag::Make,
    Tag::Model,
    Tag::DateTime,
    Tag::Artist,
    Tag::Copyright,
    Tag(Context::Tiff, 0x4746), // Rating
];

/// Of the camera's directory: these describe the file.
const LEFT: [Tag; 5] =
    [Tag::MakerNote, Tag::PixelXDimension, Tag::PixelYDimension, Tag::ColorSpace, Tag::InteropIFDPointer];

/// What is kept of a file's EXIF, with or without where the photo was taken; `author` and `copyright` from elsewhere in the file stand in where it has none. `None` where
/// nothing is left, or where it cannot be read: nobody misses a picture for that.
pub(super) fn kept(raw: Vec<u8>, with_location: bool, author: Option<&str>, copyright: Option<&str>) -> Option<Exif> {
    let is_wanted = |field: &Field| with_location || field.tag.context() != Context::Gps;
    let mut kept: Vec<Field> = fields(raw).into_iter().filter(|field| is_kept(field) && is_wanted(field)).collect();
    for (tag, text) in [(Tag::Artist, author), (Tag::Copyright, copyright)] {
        if let Some(text) = text.filter(|text| text.len() < LONGEST_FIELD)
            && !kept.iter().any(|field| field.tag == tag)
        {
            kept.push(Field { tag, ifd_num: In::PRIMARY, value: Value::Ascii(vec![text.as_bytes().to_vec()]) });
        }
    }
    if kept.is_empty() {
        return None;
    }
    let number = |tag, value| Field { tag, ifd_num: In::PRIMARY, value: Value::Short(vec![value]) };
    kept.push(number(Tag::Orientation, 1));
    kept.push(number(Tag::ColorSpace, 1));
    written(&kept)
}

/// What a file of ours says of a camera, as far as it can be believed.
pub fn checked(exif: &Exif) -> Option<Exif> {
    kept(exif.0.clone(), true, None, None)
}

/// What XMP has properties for too, by their names there.
pub fn properties(exif: &Exif) -> Vec<(&'static str, String)> {
    let of_date = |text: String| match text.as_bytes() {
        // 2024:05:06 07:08:09 is 2024-05-06T07:08:09 there.
        [_, _, _, _, b':', _, _, b':', _, _, b' ', ..] if text.is_ascii() => {
            format!("{}-{}-{}T{}", &text[..4], &text[5..7], &text[8..10], &text[11..])
        }
        _ => text,
    };
    let names = [
        (Tag::Make, "tiff:Make"),
        (Tag::Model, "tiff:Model"),
        (Tag::LensModel, "exifEX:LensModel"),
        (Tag::DateTimeOriginal, "exif:DateTimeOriginal"),
        (Tag::Artist, AUTHOR),
        (Tag::Copyright, COPYRIGHT),
    ];
    let fields = fields(exif.0.clone());
    let found = names.into_iter().filter_map(|(tag, name)| {
        let text = text(&fields.iter().find(|field| field.tag == tag)?.value)?;
        Some((name, if tag == Tag::DateTimeOriginal { of_date(text) } else { text }))
    });
    found.collect()
}

/// The author's name among [`properties`].
pub const AUTHOR: &str = "dc:creator";
/// Whose it is.
pub const COPYRIGHT: &str = "dc:rights";

/// All that can be read.
pub(super) fn fields(raw: Vec<u8>) -> Vec<Field> {
    if raw.is_empty() {
        return Vec::new();
    }
    let read = Reader::new().continue_on_error(true).read_raw(raw);
    let read = read.or_else(|error: Error| error.distill_partial_result(|_| ()));
    match read {
        Ok(exif) => {
            // Values may lie over each other in the file, and be much more than it.
            let mut room = MOST_READ;
            let within = exif.fields().take(MOST_FIELDS).take_while(|field| {
                room = room.saturating_sub(bytes_of(&field.value));
                room > 0
            });
            let kept = within.filter(|field| bytes_of(&field.value) < LONGEST_FIELD);
            kept.map(|field| Field { value: field.value.clone(), ..*field }).collect()
        }
        Err(error) => {
            tracing::info!("EXIF that cannot be read: {error}");
            Vec::new()
        }
    }
}

fn bytes_of(value: &Value) -> usize {
    match value {
        Value::Byte(bytes) => bytes.len(),
        Value::Undefined(bytes, _) => bytes.len(),
        Value::Ascii(texts) => texts.iter().map(|text| text.len() + 1).sum(),
        Value::Short(numbers) => numbers.len() * 2,
        Value::Long(numbers) => numbers.len() * 4,
        Value::Rational(numbers) => numbers.len() * 8,
        Value::SRational(numbers) => numbers.len() * 8,
        _ => LONGEST_FIELD,
    }
}

fn is_kept(field: &Field) -> bool {
    let is_named = match field.tag.context() {
        Context::Tiff => KEPT.contains(&field.tag),
        Context::Exif => !LEFT.contains(&field.tag),
        Context::Gps => true,
        _ => false,
    };
    let bytes = bytes_of(&field.value);
    is_named && field.ifd_num == In::PRIMARY && (1..LONGEST_FIELD).contains(&bytes)
}

fn written(fields: &[Field]) -> Option<Exif> {
    let mut writer = Writer::new();
    let mut seen = std::collections::HashSet::new();
    fields.iter().filter(|field| seen.insert(field.tag)).for_each(|field| writer.push_field(field));
    let mut out = Cursor::new(Vec::new());
    match writer.write(&mut out, false) {
        Ok(()) => Some(out.into_inner()).filter(|bytes| bytes.len() <= LONGEST_KEPT).map(Exif),
        Err(error) => {
            tracing::info!("EXIF that cannot be written: {error}");
            None
        }
    }
}

fn text(value: &Value) -> Option<String> {
    let Value::Ascii(texts) = value else { return None };
    let text = String::from_utf8_lossy(texts.first()?).trim().to_owned();
    Some(text).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascii(tag: Tag, text: &str) -> Field {
        Field { tag, ifd_num: In::PRIMARY, value: Value::Ascii(vec![text.into()]) }
    }

    #[test]
    fn what_holds_for_results_is_kept() {
        let degrees = Value::Rational(vec![exif::Rational { num: 50, denom: 1 }; 3]);
        let Exif(raw) = written(&[
            ascii(Tag::Make, "Acme"),
            ascii(Tag::Software, "Firmware 1"),
            ascii(Tag::DateTimeOriginal, "2024:05:06 07:08:09"),
            Field { tag: Tag::Orientation, ifd_num: In::PRIMARY, value: Value::Short(vec![6]) },
            Field { tag: Tag::MakerNote, ifd_num: In::PRIMARY, value: Value::Undefined(vec![1; 40], 0) },
            Field { tag: Tag::GPSLatitude, ifd_num: In::PRIMARY, value: degrees },
        ])
        .unwrap();
        let kept = |with_location| kept(raw.clone(), with_location, None, Some("(c) Somebody")).unwrap();
        let tags = |exif: &Exif| -> Vec<Tag> { fields(exif.0.clone()).iter().map(|field| field.tag).collect() };
        let [with, without] = [true, false].map(kept);
        assert!(!tags(&with).contains(&Tag::MakerNote) && !tags(&with).contains(&Tag::Software));
        assert!(tags(&with).contains(&Tag::GPSLatitude) && !tags(&without).contains(&Tag::GPSLatitude));
        let fields = fields(without.0.clone());
        let orientation = fields.iter().find(|field| field.tag == Tag::Orientation).and_then(|it| it.value.get_uint(0));
        assert_eq!(orientation, Some(1));
        let expected = [
            ("tiff:Make", "Acme".to_owned()),
            ("exif:DateTimeOriginal", "2024-05-06T07:08:09".into()),
            (COPYRIGHT, "(c) Somebody".into()),
        ];
        assert_eq!(properties(&with), expected);
        assert_eq!(properties(&without), expected);
        assert_eq!(super::kept(b"no EXIF".to_vec(), true, None, None), None);
        assert_eq!(
            super::kept(raw[..40].to_vec(), true, None, None).map(|kept| properties(&kept).len()).unwrap_or(0),
            0
        );
    }
}
