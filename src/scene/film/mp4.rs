//! H.264 in MP4: 4:2:0, constant frame rate, the index in front of the pictures, so that it plays while it loads.

use std::io::{Seek, SeekFrom, Write};
use std::num::NonZeroU32;
use std::time::{SystemTime, UNIX_EPOCH};

use openh264::OpenH264API;
use openh264::encoder::{
    Complexity, Encoder, EncoderConfig, FrameRate, FrameType, IntraFramePeriod, RateControlMode, UsageType, VuiConfig,
};
use openh264::formats::{RgbSliceU8, YUVBuffer};
use shiguredo_mp4::TrackKind;
use shiguredo_mp4::boxes::{Avc1Box, AvccBox, SampleEntry, VisualSampleEntryFields};
use shiguredo_mp4::mux::{Mp4FileMuxer, Mp4FileMuxerOptions, Sample, estimate_maximum_moov_box_size};

use super::{FilmError, Sink};

/// Who writes XMP into MP4, by its specification.
const XMP_BOX: [u8; 16] =
    [0xbe, 0x7a, 0xcf, 0xcb, 0x97, 0xa9, 0x42, 0xe8, 0x9c, 0x71, 0x99, 0x94, 0x91, 0xe3, 0xaf, 0xac];

pub(super) struct Mp4<W: Write + Seek> {
    out: W,
    encoder: Encoder,
    muxer: Mp4FileMuxer,
    /// Bytes written.
    position: u64,
    yuv: YUVBuffer,
    width: u32,
    height: u32,
    timescale: NonZeroU32,
    /// Told with the first frame.
    entry_pending: bool,
}

fn failed(error: impl std::fmt::Display) -> FilmError {
    FilmError::Encode(error.to_string())
}

impl<W: Write + Seek> Mp4<W> {
    /// For `frames` frames of an even size.
    pub(super) fn new(mut out: W, width: u32, height: u32, fps: u32, frames: u32) -> Result<Self, FilmError> {
        let threads = std::thread::available_parallelism().map_or(1, |count| count.get().min(8)) as u16;
        let config = EncoderConfig::new()
            .usage_type(UsageType::CameraVideoRealTime)
            // One quality throughout, whatever it takes.
            .rate_control_mode(RateControlMode::Off)
            .max_frame_rate(FrameRate::from_hz(fps as f32))
            .skip_frames(false)
            .scene_change_detect(false)
            .complexity(Complexity::Low)
            .num_threads(threads)
            .intra_frame_period(IntraFramePeriod::from_num_frames(fps * 2))
            .vui(VuiConfig::bt601());
        let encoder = Encoder::with_api_config(OpenH264API::from_source(), config).map_err(failed)?;
        let options = Mp4FileMuxerOptions {
            reserved_moov_box_size: estimate_maximum_moov_box_size(&[frames as usize]),
            creation_timestamp: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            ..Default::default()
        };
        let muxer = Mp4FileMuxer::with_options(options).map_err(failed)?;
        out.write_all(muxer.initial_boxes_bytes()).map_err(failed)?;
        let position = muxer.initial_boxes_bytes().len() as u64;
        let yuv = YUVBuffer::new(width as usize, height as usize);
        let timescale = NonZeroU32::new(fps).unwrap_or(NonZeroU32::MIN);
        Ok(Self { out, encoder, muxer, position, yuv, width, height, timescale, entry_pending: true })
    }

    /// Writes the index, and the XMP packet behind all.
    pub(super) fn finish(mut self, xmp: &str) -> Result<(), FilmError> {
        let finished = self.muxer.finalize().map_err(failed)?;
        for (offset, bytes) in finished.offset_and_bytes_pairs() {
            self.out.seek(SeekFrom::Start(offset)).map_err(failed)?;
            self.out.write_all(bytes).map_err(failed)?;
        }
        self.out.seek(SeekFrom::End(0)).map_err(failed)?;
        let size = u32::try_from(8 + XMP_BOX.len() + xmp.len()).map_err(failed)?;
        for part in [&size.to_be_bytes()[..], b"uuid", &XMP_BOX, xmp.as_bytes()] {
            self.out.write_all(part).map_err(failed)?;
        }
        Ok(())
    }
}

impl<W: Write + Seek> Sink for Mp4<W> {
    fn frame(&mut self, rgb: &[u8]) -> Result<(), FilmError> {
        self.yuv.read_rgb8(RgbSliceU8::new(rgb, (self.width as usize, self.height as usize)));
        let encoded = self.encoder.encode(&self.yuv).map_err(failed)?;
        let keyframe = matches!(encoded.frame_type(), FrameType::IDR | FrameType::I);
        let (mut data, mut sps, mut pps) = (Vec::new(), Vec::new(), Vec::new());
        let nals = (0..encoded.num_layers())
            .filter_map(|i| encoded.layer(i))
            .flat_map(|layer| (0..layer.nal_count()).filter_map(move |i| layer.nal_unit(i).map(<[u8]>::to_vec)));
        for nal in nals {
            // Annex B's start code makes way for a length.
            let start = if nal.starts_with(&[0, 0, 0, 1]) { 4 } else { 3 };
            let unit = nal.get(start..).unwrap_or_default();
            match unit.first().map(|byte| byte & 0x1f) {
                Some(7) => sps = unit.to_vec(),
                Some(8) => pps = unit.to_vec(),
                Some(_) => {
                    data.extend(u32::try_from(unit.len()).map_err(failed)?.to_be_bytes());
                    data.extend(unit);
                }
                None => {}
            }
        }
        let sample_entry =
            if std::mem::take(&mut self.entry_pending) { Some(self.sample_entry(sps, pps)?) } else { None };
        self.out.write_all(&data).map_err(failed)?;
        let sample = Sample {
            track_kind: TrackKind::Video,
            sample_entry,
            keyframe,
            timescale: self.timescale,
            duration: 1,
            composition_time_offset: None,
            data_offset: self.position,
            data_size: data.len(),
        };
        self.position += data.len() as u64;
        self.muxer.append_sample(&sample).map_err(failed)
    }
}

impl<W: Write + Seek> Mp4<W> {
    fn sample_entry(&self, sps: Vec<u8>, pps: Vec<u8>) -> Result<SampleEntry, FilmError> {
        let &[_, profile, compatibility, level, ..] = sps.as_slice() else {
            return Err(failed("the encoder gave no parameters"));
        };
        let side = |length: u32| u16::try_from(length).map_err(failed);
        Ok(SampleEntry::Avc1(Avc1Box {
            visual: VisualSampleEntryFields {
                data_reference_index: VisualSampleEntryFields::DEFAULT_DATA_REFERENCE_INDEX,
                width: side(self.width)?,
                height: side(self.height)?,
                horizresolution: VisualSampleEntryFields::DEFAULT_HORIZRESOLUTION,
                vertresolution: VisualSampleEntryFields::DEFAULT_VERTRESOLUTION,
                frame_count: VisualSampleEntryFields::DEFAULT_FRAME_COUNT,
                compressorname: VisualSampleEntryFields::NULL_COMPRESSORNAME,
                depth: VisualSampleEntryFields::DEFAULT_DEPTH,
            },
            avcc_box: AvccBox {
                avc_profile_indication: profile,
                profile_compatibility: compatibility,
                avc_level_indication: level,
                length_size_minus_one: shiguredo_mp4::Uint::new(3),
                sps_list: vec![sps.clone()],
                pps_list: vec![pps],
                chroma_format: None,
                bit_depth_luma_minus8: None,
                bit_depth_chroma_minus8: None,
                sps_ext_list: Vec::new(),
            },
            unknown_boxes: Vec::new(),
        }))
    }
}
