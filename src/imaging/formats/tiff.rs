//! TIFF, packed without loss.

use std::io::Cursor;

use exif::{Context, Field, Value};
use tiff::TiffResult;
use tiff::encoder::colortype::{ColorType, RGB8, RGBA8};
use tiff::encoder::{Compression, DirectoryEncoder, Rational, SRational, TiffEncoder, TiffKindStandard};
use tiff::tags::{ExtraSamples, Predictor, Tag, Type};

use super::{Content, FormatSpec};
use crate::imaging::colour_profile::srgb;
use crate::imaging::exif::fields;

pub(super) static TIFF: FormatSpec = FormatSpec {
    id: "tiff",
    label: "TIFF",
    extensions: &["tif", "tiff"],
    encode: Some(|content, out| {
        // It is written to and fro.
        let mut bytes = Cursor::new(Vec::new());
        encode(content, &mut bytes).map_err(|error| error.to_string())?;
        out.write_all(bytes.get_ref()).map_err(|error| error.to_string())
    }),
    longest_xmp: 1 << 30,
    has_alpha: true,
};

type Directory<'a, 'b> = DirectoryEncoder<'a, &'b mut Cursor<Vec<u8>>, TiffKindStandard>;

const XMP: Tag = Tag::Unknown(700);

fn encode(content: &Content, out: &mut Cursor<Vec<u8>>) -> TiffResult<()> {
    let fields = content.exif().map(|exif| fields(exif.to_vec())).unwrap_or_default();
    let mut encoder = TiffEncoder::new(out)?.with_compression(Compression::Lzw).with_predictor(Predictor::Horizontal);
    let mut offsets = Vec::new();
    for (context, tag) in [(Context::Exif, Tag::ExifDirectory), (Context::Gps, Tag::GpsDirectory)] {
        let of_it: Vec<&Field> = fields.iter().filter(|field| field.tag.context() == context).collect();
        if !of_it.is_empty() {
            let mut directory = encoder.extra_directory()?;
            of_it.iter().try_for_each(|field| write(&mut directory, field))?;
            offsets.push((tag, directory.finish_with_offsets()?.offset));
        }
    }
    match content.alpha {
        None => write_image::<RGB8>(&mut encoder, content, &fields, offsets),
        Some(_) => write_image::<RGBA8>(&mut encoder, content, &fields, offsets),
    }
}

fn write_image<C: ColorType<Inner = u8>>(
    encoder: &mut TiffEncoder<&mut Cursor<Vec<u8>>>,
    content: &Content,
    fields: &[Field],
    offsets: Vec<(Tag, u32)>,
) -> TiffResult<()> {
    let mut image = encoder.new_image::<C>(content.picture.width(), content.picture.height())?;
    let directory = image.encoder();
    if content.alpha.is_some() {
        directory.write_tag(Tag::ExtraSamples, &[ExtraSamples::UnassociatedAlpha][..])?;
    }
    fields.iter().filter(|field| field.tag.context() == Context::Tiff).try_for_each(|field| write(directory, field))?;
    for (tag, offset) in offsets {
        directory.write_tag(tag, offset)?;
    }
    directory.write_tag(Tag::IccProfile, srgb())?;
    if let Some(xmp) = content.xmp(&TIFF) {
        directory.write_tag(XMP, xmp.as_bytes())?;
    }
    image.write_data(&content.samples())
}

fn write(directory: &mut Directory<'_, '_>, field: &Field) -> TiffResult<()> {
    let tag = Tag::from_u16_exhaustive(field.tag.number());
    match &field.value {
        // Cameras write UTF-8 too.
        Value::Ascii(texts) => write_bytes(directory, tag, Type::ASCII, &[&texts.join(&b' ')[..], &[0]].concat()),
        Value::Byte(bytes) => directory.write_tag(tag, bytes.as_slice()),
        Value::Short(numbers) => directory.write_tag(tag, numbers.as_slice()),
        Value::Long(numbers) => directory.write_tag(tag, numbers.as_slice()),
        Value::Rational(numbers) => {
            let numbers: Vec<Rational> = numbers.iter().map(|it| Rational { n: it.num, d: it.denom }).collect();
            directory.write_tag(tag, numbers.as_slice())
        }
        Value::SRational(numbers) => {
            let numbers: Vec<SRational> = numbers.iter().map(|it| SRational { n: it.num, d: it.denom }).collect();
            directory.write_tag(tag, numbers.as_slice())
        }
        Value::Undefined(bytes, _) => write_bytes(directory, tag, Type::UNDEFINED, bytes),
        _ => Ok(()),
    }
}

fn write_bytes(directory: &mut Directory<'_, '_>, tag: Tag, kind: Type, bytes: &[u8]) -> TiffResult<()> {
    let entry = directory.write_entry_bytes(kind, bytes)?;
    directory.extend_from(&[(tag, entry)].into_iter().collect());
    Ok(())
}
