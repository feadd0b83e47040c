//! The directories of a TIFF, classic or BigTIFF, and changes to them: what the library does not read is shown to it as
//! something that it reads. Palettes are shown as grey, L*a*b* as RGB, LZMA as not packed; the page that people mean comes
//! first (TIFF 6.0, sections 2 and 8; TIFF Technical Note 1 for the pages below a page).

use std::io::{self, Cursor, Read, Seek, SeekFrom};

use tiff::tags::Tag;

use crate::imaging::codec::MAX_PIXELS;

/// More are no picture.
const MOST_PAGES: usize = 256;
const MOST_ENTRIES: u64 = 4096;

/// Names of values, as in the specification.
pub(super) const PALETTE: u64 = 3;
pub(super) const CIE_LAB: u64 = 8;
pub(super) const ICC_LAB: u64 = 9;
const GREY: u64 = 1;
const RGB: u64 = 2;
/// Of a sensor, not of a picture.
const RAW: [u64; 2] = [32803, 34892];
const NOT_PACKED: u64 = 1;
pub(super) const LZMA: u64 = 34925;
const IS_REDUCED: u64 = 1;
const IS_PAGE: u64 = 2;
const IS_MASK: u64 = 4;

const XMP: Tag = Tag::Unknown(700);

const LONG: u16 = 4;
const LONG8: u16 = 16;

/// How numbers are written.
#[derive(Clone, Copy)]
struct Layout {
    is_big_endian: bool,
    /// BigTIFF: counts and offsets of 8 bytes.
    is_big: bool,
}

impl Layout {
    fn number(self, bytes: &[u8]) -> u64 {
        let digit = |number: u64, &byte: &u8| number << 8 | u64::from(byte);
        if self.is_big_endian { bytes.iter().fold(0, digit) } else { bytes.iter().rev().fold(0, digit) }
    }

    fn bytes(self, number: u64, count: usize) -> Vec<u8> {
        match self.is_big_endian {
            true => number.to_be_bytes()[8 - count..].to_vec(),
            false => number.to_le_bytes()[..count].to_vec(),
        }
    }

    /// Bytes of an offset, and of a count of values.
    fn offset(self) -> usize {
        if self.is_big { 8 } else { 4 }
    }

    /// Where the offset of the first directory stands.
    fn first(self) -> u64 {
        if self.is_big { 8 } else { 4 }
    }
}

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    kind: u16,
    count: u64,
    /// Of the entry itself.
    at: u64,
}

/// One of them: a page.
#[derive(Clone)]
struct Directory {
    at: u64,
    entries: Vec<Entry>,
    next: u64,
}

/// A file that the library reads.
pub(super) enum Rewritten<R> {
    Unchanged(R),
    Changed(Cursor<Vec<u8>>),
}

/// A TIFF with the entries of the page that is looked at.
pub(super) struct File<R> {
    source: R,
    layout: Layout,
    page: Directory,
}

impl<R: Read + Seek> File<R> {
    /// At the page that people mean: the first, unless it is but a small copy of another one.
    pub(super) fn open(source: R) -> io::Result<Self> {
        let layout = Layout { is_big_endian: false, is_big: false };
        let mut file = Self { source, layout, page: Directory { at: 0, entries: Vec::new(), next: 0 } };
        let start = file.read(0, 4)?;
        file.layout.is_big_endian = start[0] == b'M';
        file.layout.is_big = file.layout.number(&start[2..]) == 43;
        let pages = file.pages()?;
        let first = pages.first().cloned().ok_or(io::ErrorKind::InvalidData)?;
        file.page = first;
        if let Some(meant) = file.meant(pages) {
            file.page = meant;
        }
        Ok(file)
    }

    /// What stands behind a tag, as far as that is whole numbers; empty where there is none.
    pub(super) fn numbers(&mut self, tag: Tag) -> io::Result<Vec<u64>> {
        let page = self.page.clone();
        self.numbers_of(&page, tag)
    }

    /// Whether it says more than how it is stored.
    pub(super) fn is_of_a_camera(&self) -> bool {
        const OF_A_CAMERA: [Tag; 6] =
            [Tag::Make, Tag::Model, Tag::Artist, Tag::Copyright, Tag::ExifDirectory, Tag::GpsDirectory];
        self.page.entries.iter().any(|entry| OF_A_CAMERA.iter().any(|tag| tag.to_u16() == entry.tag))
    }

    pub(super) fn xmp(&mut self) -> Option<String> {
        let bytes = self.numbers(XMP).ok()?.into_iter().map(|byte| byte as u8).collect();
        String::from_utf8(bytes).ok().filter(|xmp| !xmp.is_empty())
    }

    pub(super) fn number(&mut self, tag: Tag) -> io::Result<Option<u64>> {
        Ok(self.numbers(tag)?.first().copied())
    }

    /// So that the library reads it.
    pub(super) fn rewritten(mut self) -> io::Result<Rewritten<R>> {
        let photometric = self.number(Tag::PhotometricInterpretation)?.unwrap_or(GREY);
        let is_lab = matches!(photometric, CIE_LAB | ICC_LAB);
        let is_packed = self.number(Tag::Compression)? == Some(LZMA);
        let start = self.layout.first();
        let first = self.read(start, self.layout.offset())?;
        let is_first = self.layout.number(&first) == self.page.at;
        if photometric != PALETTE && !is_lab && !is_packed && is_first {
            return Ok(Rewritten::Unchanged(self.source));
        }
        let mut bytes = Vec::new();
        self.source.rewind()?;
        self.source.read_to_end(&mut bytes)?;
        let Self { layout, page, .. } = self;
        let mut file = File { source: Cursor::new(bytes), layout, page };
        if !is_first {
            let at = layout.bytes(file.page.at, layout.offset());
            file.put(start, &at)?;
        }
        if photometric == PALETTE {
            file.set(Tag::PhotometricInterpretation, &[GREY])?;
        }
        if is_lab {
            file.set(Tag::PhotometricInterpretation, &[RGB])?;
            let samples = file.numbers(Tag::SampleFormat)?.len();
            file.set(Tag::SampleFormat, &vec![1; samples])?;
        }
        if is_packed {
            file.unpack()?;
        }
        file.source.rewind()?;
        Ok(Rewritten::Changed(file.source))
    }

    fn read(&mut self, at: u64, count: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.source.seek(SeekFrom::Start(at))?;
        (&mut self.source).take(count as u64).read_to_end(&mut bytes)?;
        if bytes.len() < count { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
    }

    fn directory(&mut self, at: u64) -> io::Result<Directory> {
        let layout = self.layout;
        let (head, size) = if layout.is_big { (8, 20) } else { (2, 12) };
        let count = layout.number(&self.read(at, head)?);
        if count > MOST_ENTRIES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let bytes = self.read(at + head as u64, count as usize * size)?;
        let entries = bytes.chunks_exact(size).enumerate().map(|(i, entry)| Entry {
            tag: layout.number(&entry[..2]) as u16,
            kind: layout.number(&entry[2..4]) as u16,
            count: layout.number(&entry[4..4 + layout.offset()]),
            at: at + (head + i * size) as u64,
        });
        let entries = entries.collect();
        // Missing in some files, as if it were 0.
        let next = self.read(at + head as u64 + bytes.len() as u64, layout.offset()).unwrap_or_default();
        Ok(Directory { at, entries, next: layout.number(&next) })
    }

    /// All pages, with those below a page.
    fn pages(&mut self) -> io::Result<Vec<Directory>> {
        let start = self.layout.first();
        let start = self.read(start, self.layout.offset())?;
        let mut pages = vec![self.directory(self.layout.number(&start))?];
        let mut i = 0;
        while i < pages.len() {
            let mut further = self.numbers_of(&pages[i], Tag::SubIfd).unwrap_or_default();
            further.truncate(MOST_PAGES);
            further.push(pages[i].next);
            for at in further {
                if at == 0 || pages.len() >= MOST_PAGES || pages.iter().any(|page| page.at == at) {
                    continue;
                }
                // What is broken behind a page is none of its business.
                if let Ok(page) = self.directory(at) {
                    pages.push(page);
                }
            }
            i += 1;
        }
        Ok(pages)
    }

    fn meant(&mut self, pages: Vec<Directory>) -> Option<Directory> {
        let mut known = Vec::new();
        for page in pages {
            let mut of = |tag| self.numbers_of(&page, tag).ok()?.first().copied();
            let size = of(Tag::ImageWidth).zip(of(Tag::ImageLength));
            let kind = of(Tag::NewSubfileType).unwrap_or(0);
            let is_raw = of(Tag::PhotometricInterpretation).is_some_and(|value| RAW.contains(&value));
            if let Some((width, height)) = size
                && (known.is_empty() || (kind & (IS_REDUCED | IS_MASK) == 0 && !is_raw))
            {
                known.push((page, width as f64, height as f64, kind));
            }
        }
        let (width, height, is_reduced) =
            known.first().map(|(_, width, height, kind)| (*width, *height, kind & IS_REDUCED != 0))?;
        let is_copy_of =
            |w: f64, h: f64| w >= 2.0 * width && h >= 2.0 * height && (w * height / (h * width) - 1.0).abs() < 0.03;
        let larger = known
            .into_iter()
            .skip(1)
            .filter(|(_, w, h, kind)| is_reduced || (kind & IS_PAGE == 0 && is_copy_of(*w, *h)));
        larger.max_by(|(_, w, h, _), (_, other_w, other_h, _)| (w * h).total_cmp(&(other_w * other_h))).map(|it| it.0)
    }

    fn numbers_of(&mut self, page: &Directory, tag: Tag) -> io::Result<Vec<u64>> {
        let Some(entry) = page.entries.iter().find(|entry| entry.tag == tag.to_u16()).copied() else {
            return Ok(vec![]);
        };
        let size = match entry.kind {
            1 | 2 | 6 | 7 => 1,
            3 => 2,
            4 | 13 => 4,
            16 | 18 => 8,
            _ => return Ok(vec![]),
        };
        let layout = self.layout;
        let mut at = entry.at + 4 + layout.offset() as u64;
        let bytes = usize::try_from(entry.count)
            .ok()
            .and_then(|count| count.checked_mul(size))
            .ok_or(io::ErrorKind::InvalidData)?;
        if bytes > layout.offset() {
            at = layout.number(&self.read(at, layout.offset())?);
        }
        Ok(self.read(at, bytes)?.chunks_exact(size).map(|bytes| layout.number(bytes)).collect())
    }
}

impl File<Cursor<Vec<u8>>> {
    fn put(&mut self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let from = usize::try_from(at).ok().ok_or(io::ErrorKind::InvalidData)?;
        let to = self.source.get_mut().get_mut(from..from + bytes.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        to.copy_from_slice(bytes);
        Ok(())
    }

    /// Puts numbers behind a tag, where it is there.
    fn set(&mut self, tag: Tag, numbers: &[u64]) -> io::Result<()> {
        let Some(entry) = self.page.entries.iter_mut().find(|entry| entry.tag == tag.to_u16()) else { return Ok(()) };
        let layout = self.layout;
        let (kind, size) = if layout.is_big { (LONG8, 8) } else { (LONG, 4) };
        (entry.kind, entry.count) = (kind, numbers.len() as u64);
        let Entry { at, count, .. } = *entry;
        let mut bytes: Vec<u8> = numbers.iter().flat_map(|&number| layout.bytes(number, size)).collect();
        if bytes.len() > layout.offset() {
            let end = self.append(&bytes);
            bytes = layout.bytes(end, layout.offset());
        }
        let head = [layout.bytes(kind.into(), 2), layout.bytes(count, layout.offset()), bytes].concat();
        self.put(at + 2, &head)
    }

    /// Where it was put.
    fn append(&mut self, bytes: &[u8]) -> u64 {
        let file = self.source.get_mut();
        let end = file.len() as u64;
        file.extend(bytes);
        end
    }

    /// Behind the end of the file, strips or tiles follow as they are without LZMA.
    fn unpack(&mut self) -> io::Result<()> {
        let mut strips = (Tag::StripOffsets, Tag::StripByteCounts);
        if self.numbers(strips.0)?.is_empty() {
            strips = (Tag::TileOffsets, Tag::TileByteCounts);
        }
        let (offsets, counts) = (self.numbers(strips.0)?, self.numbers(strips.1)?);
        let (mut new_offsets, mut new_counts) = (Vec::new(), Vec::new());
        let mut of = |tag| Ok::<_, io::Error>(self.number(tag)?.unwrap_or(1));
        let pixels = of(Tag::ImageWidth)?.saturating_mul(of(Tag::ImageLength)?).min(MAX_PIXELS);
        // Tiles reach beyond the picture's edges; nothing else is to be more than the picture.
        let mut room = (pixels * of(Tag::SamplesPerPixel)?.min(8) * 8).max(1 << 20) * 2;
        for (at, count) in offsets.into_iter().zip(counts) {
            let packed = self.read(at, usize::try_from(count).unwrap_or(usize::MAX))?;
            let mut bytes = Vec::new();
            liblzma::read::XzDecoder::new(packed.as_slice()).take(room).read_to_end(&mut bytes)?;
            room -= bytes.len() as u64;
            new_offsets.push(self.append(&bytes));
            new_counts.push(bytes.len() as u64);
        }
        self.set(strips.0, &new_offsets)?;
        self.set(strips.1, &new_counts)?;
        self.set(Tag::Compression, &[NOT_PACKED])
    }
}
