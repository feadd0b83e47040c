//! Where to zoom: boxes in a picture's pixels, and the plan of nested steps that reaches a box.
//!
//! A chain never enlarges by more than x4 at once (what the super-resolution models were trained for); a box that asks
//! for more is reached through boxes around it, each cut from the result of the one before.

use serde::{Deserialize, Serialize};

/// The most one step enlarges.
pub const MAX_FACTOR: u32 = 4;

/// A box of whole pixels; (`x`, `y`) is its top left corner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Region {
    /// From the left.
    pub x: u32,
    /// From the top.
    pub y: u32,
    /// Across.
    pub width: u32,
    /// Down.
    pub height: u32,
}

impl Region {
    /// A square box.
    pub fn square(x: u32, y: u32, side: u32) -> Self {
        Self { x, y, width: side, height: side }
    }

    /// The reference's region: the central 1/`divisor` of a picture (integer division).
    pub fn central(width: u32, height: u32, divisor: u32) -> Self {
        let (w, h) = ((width / divisor.max(1)).max(1), (height / divisor.max(1)).max(1));
        Self { x: (width - w) / 2, y: (height - h) / 2, width: w, height: h }
    }

    /// Whether it is not empty and lies inside a picture of this size.
    pub fn fits(&self, width: u32, height: u32) -> bool {
        let inside =
            |from: u32, length: u32, end: u32| length > 0 && from.checked_add(length).is_some_and(|to| to <= end);
        inside(self.x, self.width, width) && inside(self.y, self.height, height)
    }
}

/// The square of side `side` around (`center_x`, `center_y`) as whole pixels, moved and shrunk to lie in the picture.
pub fn square_around(center_x: f64, center_y: f64, side: f64, width: u32, height: u32) -> Region {
    let side = (side.round() as u32).clamp(1, width.min(height).max(1));
    let corner = |center: f64, end: u32| {
        let free = f64::from(end.saturating_sub(side));
        (center - f64::from(side) / 2.0).round().clamp(0.0, free) as u32
    };
    Region::square(corner(center_x, width), corner(center_y, height), side)
}

/// The steps that lead to a box: region `i` is cut from what step `i - 1` made (the first from the picture itself).
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// One region a step, each in the pixels of the state it is cut from.
    pub regions: Vec<Region>,
    /// The same boxes in the pixels of the first picture: left, top, side. For drawing.
    pub nested: Vec<[f64; 3]>,
    /// Enlargement of all steps together, in pixels; at most 1 where no model is needed.
    pub factor: f64,
}

/// Plans the way to the square `target` in a picture of `width` x `height`, with states of `size` x `size`.
///
/// With `m = size / target.side <= 1` it is one step that only reduces. Else `n = ceil(log4 m)` steps of about
/// `m^(1/n)` each; every box contains the target and lies inside the picture it is cut from. Sides are rounded outward to
/// whole pixels, so no step exceeds x4, unless the picture itself is smaller than a quarter of `size`.
pub fn plan(width: u32, height: u32, target: Region, size: u32) -> Plan {
    let size_f = f64::from(size);
    let factor = size_f / f64::from(target.width);
    if factor <= 1.0 {
        let nested = vec![[target.x.into(), target.y.into(), target.width.into()]];
        return Plan { regions: vec![target], nested, factor };
    }
    let steps = (factor.ln() / f64::from(MAX_FACTOR).ln() - 1e-9).ceil().max(1.0) as i32;
    let (mut width, mut height) = (width, height);
    // The target in the pixels of the state at hand.
    let (mut x, mut y, mut side) = (f64::from(target.x), f64::from(target.y), f64::from(target.width));
    // Where that state's pixels lie in the first picture.
    let (mut origin_x, mut origin_y, mut pixel) = (0.0, 0.0, 1.0);
    let mut plan = Plan { regions: Vec::new(), nested: Vec::new(), factor: 1.0 };
    for remaining in (1..=steps).rev() {
        let step_factor = (size_f / side).powf(1.0 / f64::from(remaining)).min(MAX_FACTOR.into());
        let least = (size_f / step_factor - 1e-6).ceil();
        let span = |from: f64| ((from + side - 1e-6).ceil() - (from + 1e-6).floor()) as u32;
        let cut = (least as u32).max(span(x)).max(span(y)).clamp(1, width.min(height));
        let corner = |from: f64, end: u32| {
            let lowest = ((from + side - 1e-6).ceil() as u32).saturating_sub(cut);
            let highest = ((from + 1e-6).floor() as u32).min(end - cut);
            let centred = (from + side / 2.0 - f64::from(cut) / 2.0).round().max(0.0) as u32;
            centred.max(lowest.min(highest)).min(highest)
        };
        let region = Region::square(corner(x, width), corner(y, height), cut);
        plan.nested.push([
            origin_x + f64::from(region.x) * pixel,
            origin_y + f64::from(region.y) * pixel,
            f64::from(cut) * pixel,
        ]);
        plan.regions.push(region);

        let enlarged = size_f / f64::from(cut);
        plan.factor *= enlarged;
        (x, y, side) = ((x - f64::from(region.x)) * enlarged, (y - f64::from(region.y)) * enlarged, side * enlarged);
        origin_x += f64::from(region.x) * pixel;
        origin_y += f64::from(region.y) * pixel;
        pixel /= enlarged;
        (width, height) = (size, size);
    }
    plan
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The size of states, a picture, and a square in it that asks for enlargement.
    fn targets() -> impl Strategy<Value = (u32, u32, u32, Region)> {
        let size = prop::sample::select(vec![64u32, 96, 512, 513]);
        let picture = size.prop_flat_map(|size| (Just(size), size.div_ceil(4)..5000, size.div_ceil(4)..5000));
        let side = picture
            .prop_flat_map(|(size, width, height)| (Just((size, width, height)), 1..=width.min(height).min(size)));
        side.prop_flat_map(|((size, width, height), side)| {
            let corner = (0..=width - side, 0..=height - side);
            corner.prop_map(move |(x, y)| (size, width, height, Region::square(x, y, side)))
        })
    }

    #[test]
    fn sixteen_times_is_two_exact_steps() {
        let plan = plan(512, 512, Region::square(240, 240, 32), 512);
        assert_eq!(plan.regions, [Region::square(192, 192, 128), Region::square(192, 192, 128)]);
        assert_eq!(plan.factor, 16.0);
    }

    #[test]
    fn a_large_box_is_only_reduced() {
        let target = Region::square(10, 20, 900);
        let plan = plan(2000, 1000, target, 512);
        assert_eq!(plan.regions, [target]);
        assert!(plan.factor < 1.0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]

        #[test]
        fn every_plan_holds_its_promises((size, width, height, target) in targets()) {
            let plan = plan(width, height, target, size);
            let side = target.width;
            let steps = (f64::from(size) / f64::from(side)).log(4.0);
            prop_assert_eq!(plan.regions.len(), (steps - 1e-9).ceil().max(1.0) as usize);
            prop_assert_eq!(plan.nested.len(), plan.regions.len());
            let (mut w, mut h) = (width, height);
            for region in &plan.regions {
                prop_assert!(region.fits(w, h), "{region:?} in {w} x {h}");
                prop_assert!(region.width * MAX_FACTOR >= size, "{region:?} asks for more than x4 of {size}");
                (w, h) = (size, size);
            }
            for [x, y, s] in plan.nested {
                let slack = 1e-3;
                prop_assert!(x <= f64::from(target.x) + slack && y <= f64::from(target.y) + slack);
                prop_assert!(x + s >= f64::from(target.x + side) - slack);
                prop_assert!(y + s >= f64::from(target.y + side) - slack);
            }
        }

        #[test]
        fn every_square_lies_in_its_picture(
            (width, height) in (1u32..100_000, 1u32..100_000),
            center in prop::array::uniform2(-1e6..1e6f64),
            side in 0.0..1e6f64,
        ) {
            let square = square_around(center[0], center[1], side, width, height);
            prop_assert!(square.fits(width, height), "{square:?}");
            prop_assert_eq!(square.width, square.height);
        }

        #[test]
        fn the_central_region_lies_in_its_picture(width in 1u32.., height in 1u32.., divisor in 0u32..100) {
            prop_assert!(Region::central(width, height, divisor).fits(width, height));
        }
    }

    #[test]
    fn tiny_pictures_have_plans_too() {
        for (width, height, side) in [(1, 1, 1), (1, 5000, 1), (30, 20, 3), (127, 127, 127)] {
            let target = Region::square(width - side, height - side, side);
            let plan = plan(width, height, target, 512);
            assert!(plan.regions[0].fits(width, height), "{plan:?}");
            assert!(plan.regions[1..].iter().all(|region| region.fits(512, 512)));
        }
    }

    #[test]
    fn squares_stay_inside() {
        assert_eq!(square_around(0.0, 99.0, 40.0, 200, 100), Region::square(0, 60, 40));
        assert_eq!(square_around(5.0, 5.0, 400.0, 20, 10), Region::square(0, 0, 10));
    }
}
