//! How large pictures are cut into tiles, by what a network sees of them, and put together again.

use crate::imaging::Picture;
use crate::networks::single_image::Context;

/// Up to this side a picture is one tile: the cut of a step, but for the largest sizes of states.
const ONE_TILE: u32 = 512;
/// About the side of what one forward pass makes new of a larger one, in input pixels.
const TILE: u32 = 160;
/// Around tiles of networks that compute in windows: a few of them, as an effect fades with every window it has to cross.
const WINDOWS_MARGIN: u32 = 32;
/// Sides of tiles for networks that see all of what they are given, the largest that fits.
const LADDER: [u32; 7] = [1024, 768, 512, 384, 256, 192, 128];
/// Over so many pixels one such tile fades into the next.
const FADED: u32 = 32;

/// How both axes of a picture are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tiling {
    /// Of what a tile makes new.
    side: u32,
    /// Around that, as far as the picture goes.
    margin: u32,
    /// Whether neighbours fade into each other where both are, or end at a line.
    is_faded: bool,
}

/// One axis of a tile: what is fed in, and which part of it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    pub from: u32,
    pub length: u32,
    pub skipped: u32,
    pub kept: u32,
    /// Of what is kept, at its beginning: what the tile before has too.
    pub faded: u32,
}

impl Tiling {
    /// One tile, whatever the size.
    pub(super) const WHOLE: Self = Self { side: u32::MAX, margin: 0, is_faded: false };

    /// For a picture whose longer side is this. `fits`: whether memory suffices for a tile of a side.
    pub(super) fn of(context: Context, longest: u32, fits: impl Fn(u32) -> bool) -> Self {
        let up = |length: u32, multiple: u32| length.div_ceil(multiple) * multiple;
        match context {
            Context::Local(_) | Context::Windows(_) if longest <= ONE_TILE => Self::WHOLE,
            Context::Local(margin) => Self { side: TILE, margin, is_faded: false },
            Context::Windows(window) => {
                let window = u32::try_from(window).unwrap_or(1).max(1);
                Self { side: up(TILE, window), margin: up(WINDOWS_MARGIN, window), is_faded: false }
            }
            Context::Global => {
                let fits = |&side: &u32| fits(side.min(longest) + if side < longest { FADED } else { 0 });
                let side = LADDER.into_iter().find(fits).unwrap_or(LADDER[LADDER.len() - 1]);
                Self { side, margin: FADED / 2, is_faded: true }
            }
        }
    }

    /// Whether neighbours fade into each other.
    pub(super) fn is_faded(self) -> bool {
        self.is_faded
    }

    /// The tiles of an axis of `end` pixels.
    pub(super) fn spans(self, end: u32) -> impl Iterator<Item = Span> {
        let count = end.div_ceil(self.side);
        // Those that fade are of about the same size, that none sees little.
        let side = if self.is_faded { end.div_ceil(count.max(1)) } else { self.side };
        (0..count).map(move |index| {
            let start = index * side;
            let from = start.saturating_sub(self.margin);
            let kept = side.min(end - start);
            let length = (start + kept + self.margin).min(end) - from;
            match self.is_faded {
                false => Span { from, length, skipped: start - from, kept, faded: 0 },
                true if index == 0 => Span { from, length, skipped: 0, kept: length, faded: 0 },
                // The tile before ends a margin behind this one's start.
                true => Span { from, length, skipped: 0, kept: length, faded: (start + self.margin).min(end) - from },
            }
        })
    }
}

/// Puts `part` on `whole`, its first columns and rows faded into what is there.
pub(super) fn paste_faded(whole: &mut Picture, part: &Picture, [left, top]: [u32; 2], faded: [u32; 2]) {
    if faded == [0, 0] {
        return whole.paste(part, left, top);
    }
    let weight = |at: u32, faded: u32| if at < faded { (at as f32 + 0.5) / faded as f32 } else { 1.0 };
    let mixed = Picture::from_fn(part.width(), part.height(), |x, y| {
        let share = weight(x, faded[0]) * weight(y, faded[1]);
        let (new, old) = (part.pixel(x, y), whole.pixel(left + x, top + y));
        std::array::from_fn(|c| (f32::from(new[c]) * share + f32::from(old[c]) * (1.0 - share)).round() as u8)
    });
    whole.paste(&mixed, left, top);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covered(tiling: Tiling, end: u32) {
        let mut next = 0;
        for span in tiling.spans(end) {
            assert_eq!(span.from + span.skipped + span.faded, next, "{tiling:?} of {end}");
            assert!(span.from + span.length <= end && span.skipped + span.kept <= span.length);
            next = span.from + span.skipped + span.kept;
        }
        assert_eq!(next, end, "{tiling:?} of {end}");
    }

    #[test]
    fn tiles_cover_a_picture_once_but_for_what_fades() {
        let contexts = [Context::Local(21), Context::Windows(7), Context::Windows(16), Context::Global];
        for context in contexts {
            for end in [1, 17, 160, 321, 512, 513, 1000, 1025, 5001] {
                covered(Tiling::of(context, end, |side| side <= 256), end);
                covered(Tiling::of(context, 5001, |_| false), end);
            }
        }
    }

    #[test]
    fn cuts_are_one_tile_and_windows_begin_on_multiples_of_theirs() {
        assert_eq!(Tiling::WHOLE.spans(5000).count(), 1);
        for context in [Context::Local(21), Context::Windows(8)] {
            assert_eq!(Tiling::of(context, 512, |_| false).spans(512).count(), 1);
        }
        for window in [7, 8, 16, 24] {
            let tiling = Tiling::of(Context::Windows(window), 2000, |_| true);
            assert!(tiling.spans(2000).all(|span| i64::from(span.from) % window == 0));
        }
        let tiling = Tiling::of(Context::Global, 1500, |side| side <= 800);
        assert_eq!(tiling.spans(1500).map(|span| span.length).max(), Some(766));
        // The shorter axis has tiles of its own size: no sliver of it.
        assert_eq!(
            Tiling::of(Context::Global, 1100, |side| side <= 800).spans(600).map(|span| span.length).min(),
            Some(600)
        );
        assert_eq!(
            Tiling::of(Context::Global, 400, |side| side <= 300).spans(400).count(),
            2,
            "what does not fit is cut"
        );
    }

    #[test]
    fn tiles_of_different_tone_fade_evenly() {
        let tiling = Tiling::of(Context::Global, 600, |side| side <= 256);
        let mut row = Picture::from_fn(600, 1, |_, _| [0; 3]);
        for (number, span) in tiling.spans(600).enumerate() {
            let tone = 100 + 40 * number as u8;
            paste_faded(&mut row, &Picture::from_fn(span.kept, 1, |_, _| [tone; 3]), [span.from, 0], [span.faded, 0]);
        }
        let levels: Vec<u8> = (0..600).map(|x| row.pixel(x, 0)[0]).collect();
        assert!(levels.windows(2).all(|pair| pair[0] <= pair[1] && pair[1] - pair[0] <= 2));
        assert_eq!((levels[0], levels[599]), (100, 220));
    }
}
