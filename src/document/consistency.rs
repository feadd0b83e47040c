//! How consistent a state is with its source: reduced again, against the pixels it was made from, and down the whole
//! chain against the photo's own.

use std::sync::Arc;

use super::ScaleState;
use crate::imaging::metrics::luma_psnr;
use crate::imaging::{Filter, ImageError, Picture, resize};

/// Levels of difference (of 255) shown as the hottest.
const HOTTEST: f64 = 48.0;
/// So few are rounding, not another story.
const ROUNDING: u8 = 2;

/// What a comparison has shown.
#[derive(Clone, Debug)]
pub struct Consistency {
    /// With the region it was made from: luma PSNR in dB.
    pub with_parent: f64,
    /// With the photo's own pixels, everything reduced step by step down the chain: luma PSNR in dB.
    pub with_photo: f64,
    /// Where it disagrees with its region: the region in grey, amber to red where the result tells something else. One
    /// pixel for each of the region's.
    pub heat: Arc<Picture>,
}

/// Compares the last state of a chain that begins with the photo. `None` for the photo itself, and where no model ran; an
/// error where a picture that had left memory cannot be reread.
pub fn examine(chain: &[&ScaleState]) -> Result<Option<Consistency>, ImageError> {
    let [.., parent, state] = chain else { return Ok(None) };
    let Some(record) = state.record.as_ref().filter(|record| record.model.is_some()) else { return Ok(None) };
    let region = record.region;
    let reduced = resize(&*state.picture.load()?, region.width, region.height, Filter::Bicubic);
    let cut = parent.picture.load()?.crop(region.x.into(), region.y.into(), region.width, region.height);
    let heat = Arc::new(heat(&reduced, &cut));
    let with_parent = luma_psnr(&reduced, &cut, 0);

    // Each picture with what lies below it put in its place, reduced into the one above.
    let (mut below, mut place) = (reduced, region);
    for between in chain[1..chain.len() - 1].iter().rev() {
        let Some(region) = region_of(between) else { return Ok(None) };
        let mut changed = Picture::clone(&*between.picture.load()?);
        changed.paste(&below, place.x, place.y);
        (below, place) = (resize(&changed, region.width, region.height, Filter::Bicubic), region);
    }
    let photo = chain[0].picture.load()?.crop(place.x.into(), place.y.into(), place.width, place.height);
    // Only where the state lies: elsewhere the chain's other pixels would be judged.
    let Some((corner, size)) = footprint(chain) else { return Ok(None) };
    let part = |picture: &Picture| picture.crop(corner[0], corner[1], size[0], size[1]);
    let with_photo = luma_psnr(&part(&below), &part(&photo), 0);
    Ok(Some(Consistency { with_parent, with_photo, heat }))
}

fn region_of(state: &ScaleState) -> Option<crate::base::Region> {
    state.record.as_ref().map(|record| record.region)
}

/// Where the last state lies in the first one's region of the photo, corner and size: whole pixels that it touches.
fn footprint(chain: &[&ScaleState]) -> Option<([i64; 2], [u32; 2])> {
    let (mut origin, mut pixel) = ([0.0, 0.0], 1.0);
    let first = region_of(chain.get(1)?)?;
    let mut side = [f64::from(first.width), f64::from(first.height)];
    for pair in chain[1..].windows(2) {
        let region = region_of(pair[1])?;
        pixel *= f64::from(region_of(pair[0])?.width) / f64::from(pair[0].picture.width());
        origin = [origin[0] + f64::from(region.x) * pixel, origin[1] + f64::from(region.y) * pixel];
        side = [f64::from(region.width) * pixel, f64::from(region.height) * pixel];
    }
    let axis = |i: usize| {
        let from = (origin[i] + 1e-6).floor();
        (from as i64, ((origin[i] + side[i] - 1e-6).ceil() - from).max(1.0) as u32)
    };
    let ((left, width), (top, height)) = (axis(0), axis(1));
    Some(([left, top], [width, height]))
}

fn heat(result: &Picture, original: &Picture) -> Picture {
    Picture::from_fn(original.width(), original.height(), |x, y| {
        let (a, b) = (result.pixel(x, y), original.pixel(x, y));
        let difference = (0..3).map(|c| a[c].abs_diff(b[c])).max().unwrap_or(0);
        let heat = (f64::from(difference.saturating_sub(ROUNDING)) / HOTTEST).min(1.0);
        let grey = b.iter().map(|&c| f64::from(c)).sum::<f64>() / 3.0 * 0.55;
        // Grey, amber, red.
        let hot = [255.0, 190.0 * (1.0 - heat), 40.0 * (1.0 - heat)];
        let share = heat.sqrt();
        std::array::from_fn(|c| (grey * (1.0 - share) + hot[c] * share).round() as u8)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::AlignMethod;
    use crate::base::Region;
    use crate::base::{Backbone, ModelUsed};
    use crate::base::{Source, StepRecord};
    use crate::document::History;

    fn wave(side: u32, period: f64) -> Arc<Picture> {
        Arc::new(Picture::from_fn(side, side, |x, y| {
            let value = (128.0 + 90.0 * (f64::from(x) / period).sin() * (f64::from(y) / period).cos()) as u8;
            [value, value, 255 - value]
        }))
    }

    fn grown(history: &mut History, region: Region, picture: Arc<Picture>) {
        let model = Some(ModelUsed { backbone: Backbone::default(), align: AlignMethod::NoFix, sha256: None });
        let record = StepRecord {
            region,
            prompt: String::new(),
            model,
            seed: 0,
            consistency: None,
            full_image: None,
            elapsed: Duration::ZERO,
        };
        let parent = history.current().id;
        let id = history.add(parent, record, picture.clone(), picture).expect("the parent is there");
        history.go(id);
    }

    #[test]
    fn honest_enlargements_agree_and_invented_ones_do_not() {
        let photo = wave(64, 6.0);
        let mut history = History::new(Source::default(), photo.clone(), photo.clone());
        let region = Region::square(10, 20, 16);
        let honest = resize(&photo.crop(10, 20, 16, 16), 64, 64, Filter::Bicubic);
        grown(&mut history, region, Arc::new(honest.clone()));
        let seen = |history: &History| {
            examine(&history.chain(history.current().id)).expect("all is in memory").expect("a model ran")
        };
        let first = seen(&history);
        assert!(first.with_parent > 35.0 && first.with_photo == first.with_parent, "{first:?}");

        // The second step invents: it is consistent neither with its parent nor with the photo.
        let mut twin = history.clone();
        let other = Picture::from_fn(64, 64, |x, _| if x < 32 { [250, 250, 20] } else { [5; 3] });
        grown(&mut history, Region::square(24, 24, 16), Arc::new(other));
        let invented = seen(&history);
        assert!(invented.with_parent < 15.0 && invented.with_photo < 20.0, "{invented:?}");
        let hot = invented.heat.rgb().as_chunks::<3>().0.iter().filter(|p| p[0] > p[2].saturating_add(60)).count();
        assert!(hot > 100, "{hot} of 256 pixels are hot");

        // An honest one keeps agreeing with the 4 x 4 pixels of the photo it rests on.
        let second = resize(&honest.crop(24, 24, 16, 16), 64, 64, Filter::Bicubic);
        grown(&mut twin, Region::square(24, 24, 16), Arc::new(second));
        assert!(seen(&twin).with_photo > 30.0, "{:?}", seen(&twin));
        assert_eq!(footprint(&twin.chain(twin.current().id)), Some(([6, 6], [4, 4])));
        assert!(examine(&history.chain(history.photo().id)).expect("all is in memory").is_none());
    }
}
