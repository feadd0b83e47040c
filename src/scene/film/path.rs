//! The camera's way through a chain: constant speed in log scale, each state met exactly where it fills the frame, and
//! no kink in between when the boxes lie off centre.
//!
//! Within one step, from a state to its child, let sigma run from 0 to L = ln(scale ratio). The centre moves by
//! dc/dsigma = f / scale, where f is the point of the screen, relative to its middle, that the zoom goes to. A constant f
//! is the zoom towards one point; here f is quadratic in sigma, equal on both sides of each state (the mean of the two
//! constants), and such that the centre arrives. So position and velocity are continuous.

use std::time::Duration;

use super::Options;
use crate::document::{History, ScaleState, StateId};
use crate::scene::canvas::Camera;

/// Below this much zoom in a step its centre moves straight.
const LEAST_ZOOM: f64 = 0.02;
/// How long a gentle start or end takes at most.
const RAMP: f64 = 0.6;

/// One step of the way, in the pixels of the state it starts at.
#[derive(Clone, Debug)]
struct Leg {
    from: Camera,
    to: Camera,
    /// L, the logarithm of the enlargement.
    zoom: f64,
    /// Coefficients of f = p0 + p1 u + p2 u^2 with u = sigma / L, for both axes, in screen pixels.
    focus: [[f64; 3]; 2],
}

/// A stretch of time.
#[derive(Clone, Copy, Debug)]
enum Segment {
    Rest {
        at: f64,
        seconds: f64,
    },
    /// From one place to another, counted in legs.
    Move {
        from: f64,
        to: f64,
        seconds: f64,
        easing: bool,
    },
}

impl Segment {
    fn seconds(&self) -> f64 {
        match self {
            Segment::Rest { seconds, .. } | Segment::Move { seconds, .. } => *seconds,
        }
    }
}

/// The whole way in time.
#[derive(Clone, Debug)]
pub struct ZoomPath {
    legs: Vec<Leg>,
    /// Where each leg begins, in units of constant speed; one more for the end.
    marks: Vec<f64>,
    parts: Vec<Segment>,
    seconds: f64,
    reverse: bool,
    /// Logarithms of the states' magnifications.
    magnifications: Vec<f64>,
}

/// What is seen at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// The view.
    pub camera: Camera,
    /// The deepest state that has come fully into sight.
    pub state: StateId,
    /// How far its child has.
    pub fading: f32,
    /// Between those of the states around it, in log scale.
    pub magnification: f64,
}

impl Moment {
    /// Of a state in the branch, 0 to 1.
    pub fn opacity(&self, id: StateId) -> f32 {
        match id.0.cmp(&(self.state.0 + 1)) {
            std::cmp::Ordering::Less => 1.0,
            std::cmp::Ordering::Equal => self.fading,
            std::cmp::Ordering::Greater => 0.0,
        }
    }
}

impl ZoomPath {
    /// Through `branch`, a history that is one chain; `None` where that is only the photo.
    pub fn new(branch: &History, options: &Options) -> Option<Self> {
        let screen = [f64::from(options.width), f64::from(options.height)];
        let states = branch.chain(branch.current().id);
        let views: Vec<Camera> = states.iter().map(|state| view(state, screen)).collect();
        let mut legs = Vec::new();
        for pair in views.windows(2) {
            let (from, to) = (pair[0], pair[1].relative_to(branch, pair[0].anchor)?);
            legs.push(Leg { from, to, zoom: (to.scale / from.scale).ln(), focus: [[0.0; 3]; 2] });
        }
        if legs.is_empty() {
            return None;
        }
        bend(&mut legs, options.hold > 0.0);

        let length = |leg: &Leg| {
            // A step that hardly enlarges still takes its time to get there.
            let moved = (0..2).map(|i| ((leg.to.center[i] - leg.from.center[i]) * leg.from.scale / screen[i]).abs());
            (leg.zoom.abs() / 4f64.ln()).max(moved.fold(0.0, f64::max) * 0.5).max(0.05)
                * options.seconds_per_4x.max(0.05)
        };
        let mut marks = vec![0.0];
        for leg in &legs {
            marks.push(marks[marks.len() - 1] + length(leg));
        }
        let ramp = |seconds: f64| if options.easing { (seconds / 3.0).min(RAMP) } else { 0.0 };
        let mut parts = vec![Segment::Rest { at: 0.0, seconds: options.hold_end.max(0.0) }];
        let end = marks[legs.len()];
        if options.hold > 0.0 {
            for (i, pair) in marks.windows(2).enumerate() {
                let seconds = pair[1] - pair[0];
                parts.push(Segment::Move {
                    from: pair[0],
                    to: pair[1],
                    seconds: seconds + ramp(seconds),
                    easing: options.easing,
                });
                if i + 1 < legs.len() {
                    parts.push(Segment::Rest { at: pair[1], seconds: options.hold });
                }
            }
        } else {
            parts.push(Segment::Move { from: 0.0, to: end, seconds: end + ramp(end), easing: options.easing });
        }
        parts.push(Segment::Rest { at: end, seconds: options.hold_end.max(0.0) });
        let seconds = parts.iter().map(Segment::seconds).sum();
        let magnifications = states.iter().map(|state| state.magnification.ln()).collect();
        Some(Self { legs, marks, parts, seconds, reverse: options.reverse, magnifications })
    }

    /// How long it takes.
    pub fn seconds(&self) -> f64 {
        self.seconds
    }

    /// What is seen after this long.
    pub fn at(&self, time: Duration) -> Moment {
        let time = time.as_secs_f64().min(self.seconds);
        let mut left = if self.reverse { self.seconds - time } else { time };
        let mut place = *self.marks.last().unwrap_or(&0.0);
        for part in &self.parts {
            if left <= part.seconds() {
                place = match *part {
                    Segment::Rest { at, .. } => at,
                    Segment::Move { from, to, seconds, easing } => {
                        from + (to - from) * if easing { eased(left, seconds, to - from) } else { left / seconds }
                    }
                };
                break;
            }
            left -= part.seconds();
        }
        let number = self.marks.iter().rposition(|&mark| mark <= place).unwrap_or(0).min(self.legs.len() - 1);
        let u = ((place - self.marks[number]) / (self.marks[number + 1] - self.marks[number])).clamp(0.0, 1.0);
        let leg = &self.legs[number];
        let camera = leg.at(u);
        let magnification = self.magnifications[number] * (1.0 - u) + self.magnifications[number + 1] * u;
        let smooth = |x: f64| x * x * (3.0 - 2.0 * x);
        // The child lies in the middle of a much larger view when it begins to show: there both look the same.
        let fading = smooth(((u - 0.05) / 0.7).clamp(0.0, 1.0)) as f32;
        let state = StateId(number + usize::from(u >= 1.0));
        let fading = if u >= 1.0 { 0.0 } else { fading };
        Moment { camera, state, fading, magnification: magnification.exp() }
    }
}

/// A state fills the frame; all of the photo is inside it.
fn view(state: &ScaleState, screen: [f64; 2]) -> Camera {
    let side = |axis: usize| f64::from([state.picture.width(), state.picture.height()][axis]);
    let scales = [screen[0] / side(0), screen[1] / side(1)];
    let scale = if state.parent.is_none() { scales[0].min(scales[1]) } else { scales[0].max(scales[1]) };
    Camera { anchor: state.id, center: [side(0) / 2.0, side(1) / 2.0], scale }
}

/// Time `t` of a move of `total` seconds that would take `steady` at constant speed, as a fraction of the way: the speed
/// rises and falls linearly in between.
fn eased(t: f64, total: f64, steady: f64) -> f64 {
    let ramp = total - steady;
    if ramp <= 0.0 || steady <= 0.0 {
        return (t / total).clamp(0.0, 1.0);
    }
    // Full speed is 1 / steady; the two ramps together lose one ramp's time.
    let way = match t {
        t if t < ramp => t * t / (2.0 * ramp),
        t if t > total - ramp => steady - (total - t).powi(2) / (2.0 * ramp),
        t => t - ramp / 2.0,
    };
    (way / steady).clamp(0.0, 1.0)
}

/// Chooses each leg's focus.
fn bend(legs: &mut [Leg], rests: bool) {
    for axis in 0..2 {
        let straight: Vec<f64> = legs.iter().map(|leg| leg.straight_focus(axis)).collect();
        let mean = |i: usize, j: usize| if rests { None } else { Some((straight.get(i)? + straight.get(j)?) / 2.0) };
        for i in 0..legs.len() {
            let first = i.checked_sub(1).and_then(|before| mean(before, i)).unwrap_or(straight[i]);
            let last = mean(i, i + 1).unwrap_or(straight[i]);
            let leg = &mut legs[i];
            // f = first (1 - u) + last u + a 6 u (1 - u), with a such that the leg arrives.
            let base = [first, last - first, 0.0];
            let bump = [0.0, 6.0, -6.0];
            let wanted = (leg.to.center[axis] - leg.from.center[axis]) * leg.from.scale;
            let a = if leg.is_zoom() { (wanted - leg.moved(base, 1.0)) / leg.moved(bump, 1.0) } else { 0.0 };
            leg.focus[axis] = [0, 1, 2].map(|n| base[n] + a * bump[n]);
        }
    }
}

impl Leg {
    fn is_zoom(&self) -> bool {
        self.zoom > LEAST_ZOOM
    }

    /// The constant focus that leads from start to end, in screen pixels.
    fn straight_focus(&self, axis: usize) -> f64 {
        let moved = (self.to.center[axis] - self.from.center[axis]) * self.from.scale;
        if self.is_zoom() { moved / (1.0 - (-self.zoom).exp()) } else { 0.0 }
    }

    /// How far a focus of these coefficients has moved the centre at `u`, in screen pixels of the start.
    fn moved(&self, focus: [f64; 3], u: f64) -> f64 {
        // L times the moments of e^(-L w) from 0 to u.
        let (zoom, decay) = (self.zoom, (-self.zoom * u).exp());
        let m0 = 1.0 - decay;
        let m1 = m0 / zoom - u * decay;
        let m2 = 2.0 * m1 / zoom - u * u * decay;
        focus[0] * m0 + focus[1] * m1 + focus[2] * m2
    }

    fn at(&self, u: f64) -> Camera {
        if u >= 1.0 {
            return self.to;
        }
        let scale = self.from.scale * (self.zoom * u).exp();
        let center = |axis: usize| {
            let from = self.from.center[axis];
            if self.is_zoom() {
                from + self.moved(self.focus[axis], u) / self.from.scale
            } else {
                from + (self.to.center[axis] - from) * u
            }
        };
        Camera { anchor: self.from.anchor, center: [center(0), center(1)], scale }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Region;
    use crate::base::{Source, StepRecord};
    use crate::imaging::Picture;

    fn picture(width: u32, height: u32) -> Arc<Picture> {
        Arc::new(Picture::from_fn(width, height, |_, _| [0; 3]))
    }

    fn chain(boxes: &[(u32, u32, u32)]) -> History {
        let mut history = History::new(Source::default(), picture(640, 400), picture(1, 1));
        for &(x, y, side) in boxes {
            let record = StepRecord {
                region: Region::square(x, y, side),
                prompt: String::new(),
                model: None,
                seed: 0,
                consistency: None,
                full_image: None,
                elapsed: Duration::ZERO,
            };
            let parent = history.current().id;
            let id = history.add(parent, record, picture(64, 64), picture(1, 1)).expect("the parent is there");
            history.go(id);
        }
        history
    }

    fn options() -> Options {
        Options { width: 320, height: 180, hold_end: 0.0, easing: false, ..Options::default() }
    }

    const OFF_CENTRE: [(u32, u32, u32); 4] = [(500, 300, 90), (0, 48, 16), (48, 0, 16), (3, 44, 16)];

    #[test]
    fn speed_is_constant_in_log_scale_and_the_way_has_no_kink() {
        let history = chain(&OFF_CENTRE);
        let path = ZoomPath::new(&history, &options()).expect("there is a chain");
        let count = 2000;
        let step = path.seconds() / f64::from(count);
        let cameras: Vec<Camera> = (0..=count)
            .map(|i| path.at(Duration::from_secs_f64(step * f64::from(i))).camera)
            .map(|camera| camera.relative_to(&history, StateId(0)).expect("all are connected"))
            .collect();
        let speed = |pair: &[Camera]| (pair[1].scale / pair[0].scale).ln();
        let mean = (cameras[count as usize].scale / cameras[0].scale).ln() / f64::from(count);
        for pair in cameras.windows(2) {
            assert!((speed(pair) - mean).abs() < mean * 0.02, "{} {mean}", speed(pair));
        }
        // Velocity on the screen, as a fraction of the frame for each e-fold: it changes little from frame to frame.
        let velocity = |pair: &[Camera]| {
            [0, 1].map(|i| (pair[1].center[i] - pair[0].center[i]) * pair[0].scale / speed(pair) / 320.0)
        };
        let velocities: Vec<[f64; 2]> = cameras.windows(2).map(velocity).collect();
        for pair in velocities.windows(2) {
            let jump = (0..2).map(|i| (pair[1][i] - pair[0][i]).abs()).fold(0.0, f64::max);
            assert!(jump < 0.03, "the direction jumps by {jump} of the frame");
        }
    }

    #[test]
    fn every_state_is_met_and_faded_in_before() {
        let history = chain(&OFF_CENTRE);
        let path = ZoomPath::new(&history, &options()).expect("there is a chain");
        for (number, &mark) in path.marks.iter().enumerate() {
            let before = path.at(Duration::from_secs_f64((mark - 1e-6).max(0.0)));
            let moment = path.at(Duration::from_secs_f64(mark));
            let wanted = view(history.get(StateId(number)).expect("it is there"), [320.0, 180.0]);
            let met = moment.camera.relative_to(&history, StateId(number)).expect("all are connected");
            assert!((met.scale / wanted.scale - 1.0).abs() < 1e-6, "{number}");
            assert!((0..2).all(|i| (met.center[i] - wanted.center[i]).abs() * met.scale < 1e-3), "{number}");
            assert!(before.opacity(StateId(number)) > 0.999, "no jump at a scale change");
            assert!(before.opacity(StateId(number + 1)) < 0.001);
        }
        assert!((path.at(Duration::ZERO).magnification - 1.0).abs() < 1e-9);
    }

    #[test]
    fn rests_and_easing_take_their_time_and_reverse_is_the_same_backwards() {
        let history = chain(&OFF_CENTRE[..2]);
        let plain = ZoomPath::new(&history, &options()).expect("there is a chain");
        let resting = Options { hold: 1.5, hold_end: 2.0, easing: true, ..options() };
        let resting = ZoomPath::new(&history, &resting).expect("there is a chain");
        // One rest on the way, two at the ends, two moves with a ramp each.
        assert!((resting.seconds() - plain.seconds() - 5.5 - 2.0 * RAMP).abs() < 0.2, "{}", resting.seconds());
        let at = |seconds| resting.at(Duration::from_secs_f64(seconds)).camera;
        assert_eq!(at(0.0), at(1.9));
        let backwards = ZoomPath::new(&history, &Options { reverse: true, ..options() }).expect("there is a chain");
        for i in 0..10 {
            let t = plain.seconds() * f64::from(i) / 10.0;
            let (a, b) =
                (plain.at(Duration::from_secs_f64(t)), backwards.at(Duration::from_secs_f64(plain.seconds() - t)));
            assert!((a.camera.scale / b.camera.scale - 1.0).abs() < 1e-6);
        }
        assert!(ZoomPath::new(&chain(&[]), &options()).is_none());
    }

    #[test]
    fn twenty_steps_are_as_exact_as_one() {
        let history = chain(&[(300, 200, 16); 1].iter().copied().chain([(17, 31, 16); 19]).collect::<Vec<_>>());
        let path = ZoomPath::new(&history, &options()).expect("there is a chain");
        let moment = path.at(Duration::from_secs_f64(path.seconds()));
        let wanted = view(history.current(), [320.0, 180.0]);
        let met = moment.camera.relative_to(&history, wanted.anchor).expect("all are connected");
        assert!((0..2).all(|i| (met.center[i] - wanted.center[i]).abs() < 1e-6) && moment.magnification > 1e11);
    }
}
