//! What is looked at. A camera is kept relative to a scale state, so its numbers stay small however deep the chain:
//! precision never runs out. "Screen" is physical pixels of the canvas, from its top left corner.

use crate::document::{History, ScaleState, StateId};

/// Where a state's pixels lie on the screen: `screen = origin + pixel * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Placement {
    /// Of the state's top left corner.
    pub origin: [f64; 2],
    /// Screen pixels for each of the state's.
    pub scale: f64,
}

impl Placement {
    /// From a state's pixels to the screen.
    pub fn screen_from_picture(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [self.origin[0] + x * self.scale, self.origin[1] + y * self.scale]
    }

    /// From the screen to a state's pixels.
    pub fn picture_from_screen(&self, [x, y]: [f64; 2]) -> [f64; 2] {
        [(x - self.origin[0]) / self.scale, (y - self.origin[1]) / self.scale]
    }

    /// Of the picture that a box in this one was enlarged to.
    pub fn of_child(&self, child: &ScaleState) -> Self {
        let Some(record) = &child.record else { return *self };
        let region = record.region;
        Self {
            origin: self.screen_from_picture([region.x.into(), region.y.into()]),
            scale: self.scale * f64::from(region.width) / f64::from(child.picture.width()),
        }
    }

    /// Of the picture that this one, `child`, was cut from.
    pub fn of_parent(&self, child: &ScaleState) -> Self {
        let Some(record) = &child.record else { return *self };
        let region = record.region;
        let scale = self.scale * f64::from(child.picture.width()) / f64::from(region.width);
        let corner = |axis: usize, from: u32| self.origin[axis] - f64::from(from) * scale;
        Self { origin: [corner(0, region.x), corner(1, region.y)], scale }
    }
}

/// A view: `center` of the screen, in the pixels of the state `anchor`, and `scale` screen pixels for each of those.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Camera {
    /// The state the other numbers are relative to.
    pub anchor: StateId,
    /// In the anchor's pixels.
    pub center: [f64; 2],
    /// Screen pixels for each of the anchor's.
    pub scale: f64,
}

/// A state counts as looked at when its shorter side takes this much of the screen's.
const LOOKED_AT: f64 = 0.55;
/// How much of the screen a fitted state takes.
const FITTED: f64 = 0.94;
/// The most a pixel of the deepest state is enlarged.
const LARGEST_PIXEL: f64 = 256.0;
/// The least of the screen's shorter side that the photo keeps.
const SMALLEST_PHOTO: f64 = 0.1;

impl Camera {
    /// All of a state, centred.
    pub fn fitted(state: &ScaleState, screen: [f64; 2]) -> Self {
        let (width, height) = (f64::from(state.picture.width()), f64::from(state.picture.height()));
        let scale = FITTED * (screen[0] / width).min(screen[1] / height);
        Self { anchor: state.id, center: [width / 2.0, height / 2.0], scale: scale.max(1e-6) }
    }

    /// Of the anchor.
    pub fn placement(&self, screen: [f64; 2]) -> Placement {
        let origin = |axis: usize| screen[axis] / 2.0 - self.center[axis] * self.scale;
        Placement { origin: [origin(0), origin(1)], scale: self.scale }
    }

    /// The same view, relative to another state; `None` where one of the two is gone.
    pub fn relative_to(&self, history: &History, anchor: StateId) -> Option<Self> {
        let ours: Vec<StateId> = history.chain(self.anchor).iter().map(|state| state.id).collect();
        let theirs = history.chain(anchor);
        let shared = ours.iter().zip(&theirs).take_while(|(a, b)| **a == b.id).count().checked_sub(1)?;
        // With a screen of no size, the centre is where the origin is.
        let mut placement = self.placement([0.0; 2]);
        for &id in ours[shared + 1..].iter().rev() {
            placement = placement.of_parent(history.get(id)?);
        }
        for state in &theirs[shared + 1..] {
            placement = placement.of_child(state);
        }
        let center = placement.picture_from_screen([0.0; 2]);
        Some(Self { anchor, center, scale: placement.scale })
    }

    /// Moves what is seen by so many screen pixels.
    pub fn pan(&mut self, by: [f64; 2]) {
        self.center = [self.center[0] - by[0] / self.scale, self.center[1] - by[1] / self.scale];
    }

    /// Enlarges by `factor`; the point under the pointer stays exactly there.
    pub fn zoom_at(&mut self, history: &History, pointer: [f64; 2], factor: f64, screen: [f64; 2]) {
        let wanted = self.clamped(history, self.scale * factor, screen) / self.scale;
        for axis in 0..2 {
            let from_center = pointer[axis] - screen[axis] / 2.0;
            self.center[axis] += from_center / self.scale * (1.0 - 1.0 / wanted);
        }
        self.scale *= wanted;
        self.settle(history, screen);
    }

    fn clamped(&self, history: &History, scale: f64, screen: [f64; 2]) -> f64 {
        let photo = history.photo();
        let Some(on_photo) = self.relative_to(history, photo.id) else { return scale };
        let photo_side = f64::from(photo.picture.short_side()) * on_photo.scale / self.scale;
        let smallest = SMALLEST_PHOTO * screen[0].min(screen[1]) / photo_side;
        scale.clamp(smallest.min(LARGEST_PIXEL), LARGEST_PIXEL.max(self.scale.min(scale)))
    }

    /// Anchors the same view at the state it looks at, and says which that is: the deepest one around the centre that
    /// takes a good part of the screen, with children looked at last first.
    pub fn settle(&mut self, history: &History, screen: [f64; 2]) -> StateId {
        while let Some(state) = history.get(self.anchor)
            && let Some(parent) = state.parent
            && !self.looks_at(state, screen)
            && let Some(up) = self.relative_to(history, parent)
        {
            *self = up;
        }
        while let Some(down) = self.child_looked_at(history, screen) {
            *self = down;
        }
        self.anchor
    }

    fn child_looked_at(&self, history: &History, screen: [f64; 2]) -> Option<Self> {
        let last = history.last_child(self.anchor);
        let mut children: Vec<StateId> = history.children(self.anchor).map(|child| child.id).collect();
        children.sort_by_key(|&id| (Some(id) != last, std::cmp::Reverse(id)));
        children.into_iter().find_map(|id| {
            let down = self.relative_to(history, id)?;
            down.looks_at(history.get(id)?, screen).then_some(down)
        })
    }

    /// Whether `state`, the anchor, is around the centre and large enough.
    fn looks_at(&self, state: &ScaleState, screen: [f64; 2]) -> bool {
        let (width, height) = (f64::from(state.picture.width()), f64::from(state.picture.height()));
        let inside = |at: f64, end: f64| (0.0..=end).contains(&at);
        inside(self.center[0], width)
            && inside(self.center[1], height)
            && width.min(height) * self.scale >= LOOKED_AT * screen[0].min(screen[1])
    }

    /// The view at `t` (0 to 1) of a glide from `self` to `to`: magnification changes at constant speed in log scale
    /// while the picture moves straight. Relative to where it ends.
    pub fn between(&self, to: &Camera, history: &History, t: f64) -> Camera {
        let Some(from) = self.relative_to(history, to.anchor) else { return *to };
        let scale = from.scale * (to.scale / from.scale).powf(t);
        let moved = if (to.scale / from.scale).ln().abs() < 1e-6 {
            t
        } else {
            // So that every point travels straight on the screen: what is seen shrinks as 1 / scale.
            (1.0 / from.scale - 1.0 / scale) / (1.0 / from.scale - 1.0 / to.scale)
        };
        let center = |axis: usize| from.center[axis] + (to.center[axis] - from.center[axis]) * moved;
        Camera { anchor: to.anchor, center: [center(0), center(1)], scale }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::base::Region;
    use crate::base::{Source, StepRecord};
    use crate::imaging::Picture;

    const SCREEN: [f64; 2] = [800.0, 600.0];

    fn picture(side: u32) -> Arc<Picture> {
        Arc::new(Picture::from_fn(side, side, |_, _| [0; 3]))
    }

    /// A chain of `depth` x4 steps off centre.
    fn chain(depth: usize) -> History {
        let mut history = History::new(Source::default(), picture(600), picture(1));
        for _ in 0..depth {
            let record = StepRecord {
                region: Region::square(17, 31, 16),
                prompt: String::new(),
                model: None,
                seed: 0,
                consistency: None,
                full_image: None,
                elapsed: Duration::ZERO,
            };
            let id = history.add(history.current().id, record, picture(64), picture(1)).expect("the parent is there");
            history.go(id);
        }
        history
    }

    #[test]
    fn the_pointer_stays_on_its_point() {
        let history = chain(0);
        let mut camera = Camera::fitted(history.photo(), SCREEN);
        let pointer = [123.0, 456.0];
        let before = camera.placement(SCREEN).picture_from_screen(pointer);
        for factor in [1.1, 3.0, 0.5, 7.0] {
            camera.zoom_at(&history, pointer, factor, SCREEN);
            let after = camera.placement(SCREEN).picture_from_screen(pointer);
            assert!((before[0] - after[0]).abs() < 1e-9 && (before[1] - after[1]).abs() < 1e-9);
        }
    }

    #[test]
    fn twenty_steps_down_and_up_lose_nothing() {
        let history = chain(20);
        let start = Camera::fitted(history.current(), SCREEN);
        let up = start.relative_to(&history, history.photo().id).expect("both are there");
        assert!(up.scale / start.scale > 1e11, "{}", up.scale / start.scale);
        let back = up.relative_to(&history, start.anchor).expect("both are there");
        // 4^20 = 1e12 of 1e16 are used up when everything is given in the photo's pixels ...
        assert!((back.center[0] - start.center[0]).abs() < 0.1, "{back:?} {start:?}");
        // ... and none when it is given relative to a state near by.
        let near = history.chain(start.anchor)[18].id;
        let back =
            start.relative_to(&history, near).and_then(|c| c.relative_to(&history, start.anchor)).expect("there");
        assert!((back.center[0] - start.center[0]).abs() < 1e-9);
    }

    #[test]
    fn the_wheel_travels_through_the_chain() {
        let history = chain(4);
        let mut camera = Camera::fitted(history.photo(), SCREEN);
        let deepest = history.current().id;
        for _ in 0..2000 {
            // Steer at the deepest state's middle, as a hand does.
            let seen = camera.relative_to(&history, deepest).expect("there").placement(SCREEN);
            let goal = seen.screen_from_picture([32.0, 32.0]);
            camera.pan([(400.0 - goal[0]) * 0.2, (300.0 - goal[1]) * 0.2]);
            camera.zoom_at(&history, [400.0, 300.0], 1.02, SCREEN);
        }
        assert_eq!(camera.anchor, deepest);
        for _ in 0..2000 {
            camera.zoom_at(&history, [400.0, 300.0], 0.98, SCREEN);
        }
        assert_eq!(camera.anchor, history.photo().id);
    }

    #[test]
    fn glides_start_and_end_where_they_should() {
        let history = chain(2);
        let from = Camera::fitted(history.photo(), SCREEN);
        let to = Camera::fitted(history.current(), SCREEN);
        let start = from.between(&to, &history, 0.0).relative_to(&history, from.anchor).expect("there");
        assert!((start.scale - from.scale).abs() < 1e-9 && (start.center[0] - from.center[0]).abs() < 1e-6);
        assert_eq!(from.between(&to, &history, 1.0).scale, to.scale);
        let middle = from.between(&to, &history, 0.5).relative_to(&history, from.anchor).expect("there");
        let end = to.relative_to(&history, from.anchor).expect("there");
        assert!((middle.scale - (from.scale * end.scale).sqrt()).abs() < 1e-9);
    }
}
