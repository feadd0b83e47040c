//! From a history and a camera to layers on the screen, the photo first, what lies on top last.

use std::sync::Arc;

use super::{Camera, Placement};
use crate::base::Region;
use crate::document::{History, ScaleState, StateId};
use crate::imaging::Picture;

/// States smaller than this on the screen are left out.
const SMALLEST: f64 = 1.5;

/// A picture on the screen.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Which state it is; `None` for an overlay.
    pub state: Option<StateId>,
    /// Its pixels; a reduced picture while they have left memory.
    pub picture: Arc<Picture>,
    /// Width and height that the placement counts in: the picture's own, where it stands for itself.
    pub size: [u32; 2],
    /// Where it lies.
    pub placement: Placement,
    /// 0 to 1.
    pub opacity: f32,
    /// The part of the screen it may take (left, top, right, bottom): to compare two views side by side.
    pub clip: Option<[f64; 4]>,
}

impl Layer {
    /// A picture of no state.
    pub fn of_picture(picture: Arc<Picture>, placement: Placement) -> Self {
        let size = [picture.width(), picture.height()];
        Self { state: None, picture, size, placement, opacity: 1.0, clip: None }
    }

    fn of_state(state: &ScaleState, placement: Placement, opacity: f32) -> Self {
        let size = [state.picture.width(), state.picture.height()];
        let picture = state.shown.clone().or_else(|| state.picture.in_memory());
        let picture = picture.unwrap_or_else(|| state.thumbnail.clone());
        Self { state: Some(state.id), picture, size, placement, opacity, clip: None }
    }

    /// Screen pixels for each of the picture's.
    pub(super) fn scale(&self) -> f64 {
        self.placement.scale * f64::from(self.size[0]) / f64::from(self.picture.width())
    }

    /// The part of the screen it may take.
    pub fn clipped(&self, screen: [f64; 2]) -> [f64; 4] {
        let [left, top, right, bottom] = self.clip.unwrap_or([0.0, 0.0, screen[0], screen[1]]);
        [left.max(0.0), top.max(0.0), right.min(screen[0]), bottom.min(screen[1])]
    }

    /// Left, top, right, bottom on the screen.
    pub fn screen_rect(&self) -> [f64; 4] {
        let [left, top] = self.placement.origin;
        let [right, bottom] = self.placement.screen_from_picture(self.size.map(f64::from));
        [left, top, right, bottom]
    }
}

/// A picture shown in a box of a state before it becomes one: the enlarged region while its step runs.
#[derive(Clone, Debug)]
pub struct Overlay {
    /// The state the box lies in.
    pub parent: StateId,
    /// The box.
    pub region: Region,
    /// What is shown there.
    pub picture: Arc<Picture>,
}

/// What there is to see.
pub struct Scene<'a> {
    /// The states.
    pub history: &'a History,
    /// What is looked at.
    pub camera: Camera,
    /// Width and height in pixels.
    pub screen: [f64; 2],
    /// On top of the state they belong to.
    pub overlays: &'a [Overlay],
    /// States that are fading in.
    pub opacity: &'a dyn Fn(StateId) -> f32,
}

/// All visible layers in drawing order. What is hidden completely behind another is left out.
pub fn compose(scene: &Scene) -> Vec<Layer> {
    let history = scene.history;
    let chain = history.chain(scene.camera.anchor);
    // Placements along the way to the anchor are counted from the anchor, where precision is best.
    let mut known = vec![(scene.camera.anchor, scene.camera.placement(scene.screen))];
    for state in chain.iter().skip(1).rev() {
        let (_, below) = known[known.len() - 1];
        known.push((state.parent.unwrap_or(state.id), below.of_parent(state)));
    }
    let mut layers = Vec::new();
    descend(scene, &known, history.photo(), &mut layers);
    let covering = layers.iter().rposition(|layer| {
        let [left, top, right, bottom] = layer.screen_rect();
        layer.opacity >= 1.0 && left <= 0.0 && top <= 0.0 && right >= scene.screen[0] && bottom >= scene.screen[1]
    });
    layers.drain(..covering.unwrap_or(0));
    layers
}

fn descend(scene: &Scene, known: &[(StateId, Placement)], state: &ScaleState, layers: &mut Vec<Layer>) {
    let history = scene.history;
    let explicit = |id: StateId| known.iter().find(|(known, _)| *known == id).map(|(_, placement)| *placement);
    let parent = || layers.iter().rev().find(|layer| layer.state == state.parent).map(|layer| layer.placement);
    let Some(placement) = explicit(state.id).or_else(|| parent().map(|placement| placement.of_child(state))) else {
        return;
    };
    let layer = Layer::of_state(state, placement, (scene.opacity)(state.id));
    let visible = |layer: &Layer| {
        let [left, top, right, bottom] = layer.screen_rect();
        let [width, height] = scene.screen;
        right > 0.0
            && bottom > 0.0
            && left < width
            && top < height
            && right - left >= SMALLEST
            && bottom - top >= SMALLEST
    };
    if !visible(&layer) || layer.opacity <= 0.0 {
        return;
    }
    layers.push(layer);
    // The branch looked at last lies on top of its siblings; what fades in, on top of its overlay.
    let last = history.last_child(state.id);
    let mut children: Vec<&ScaleState> = history.children(state.id).collect();
    children.sort_by_key(|child| Some(child.id) == last);
    let (fading, solid): (Vec<_>, Vec<_>) = children.into_iter().partition(|child| (scene.opacity)(child.id) < 1.0);
    for child in solid {
        descend(scene, known, child, layers);
    }
    for overlay in scene.overlays.iter().filter(|overlay| overlay.parent == state.id) {
        let region = overlay.region;
        let placement = Placement {
            origin: placement.screen_from_picture([region.x.into(), region.y.into()]),
            scale: placement.scale * f64::from(region.width) / f64::from(overlay.picture.width()),
        };
        let layer = Layer::of_picture(overlay.picture.clone(), placement);
        if visible(&layer) {
            layers.push(layer);
        }
    }
    for child in fading {
        descend(scene, known, child, layers);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::base::{Source, StepRecord};

    fn picture() -> Arc<Picture> {
        Arc::new(Picture::from_fn(64, 64, |_, _| [0; 3]))
    }

    #[test]
    fn children_lie_in_their_boxes_and_hidden_layers_are_left_out() {
        let mut history = History::new(Source::default(), picture(), picture());
        let record = |x| StepRecord {
            region: Region::square(x, 8, 16),
            prompt: String::new(),
            model: None,
            seed: 0,
            consistency: None,
            full_image: None,
            elapsed: Duration::ZERO,
        };
        let root = history.photo().id;
        let a = history.add(root, record(4), picture(), picture()).expect("the root is there");
        let b = history.add(root, record(40), picture(), picture()).expect("the root is there");
        history.go(a);
        let scene =
            |camera| Scene { history: &history, camera, screen: [128.0, 128.0], overlays: &[], opacity: &|_| 1.0 };

        let whole = compose(&scene(Camera { anchor: root, center: [32.0, 32.0], scale: 2.0 }));
        assert_eq!(whole.iter().map(|layer| layer.state).collect::<Vec<_>>(), [Some(root), Some(b), Some(a)]);
        assert_eq!(whole[2].screen_rect(), [8.0, 16.0, 40.0, 48.0]);

        // A state fades in over the enlarged box it was made of, and that lies over older states.
        let overlays = [Overlay { parent: root, region: Region::square(4, 8, 16), picture: picture() }];
        let camera = Camera { anchor: root, center: [32.0, 32.0], scale: 2.0 };
        let opacity = |id| if id == a { 0.5 } else { 1.0 };
        let arriving = compose(&Scene { overlays: &overlays, opacity: &opacity, ..scene(camera) });
        assert_eq!(arriving.iter().map(|layer| layer.state).collect::<Vec<_>>(), [Some(root), Some(b), None, Some(a)]);

        let inside = compose(&scene(Camera { anchor: a, center: [32.0, 32.0], scale: 4.0 }));
        assert_eq!(inside.iter().map(|layer| layer.state).collect::<Vec<_>>(), [Some(a)]);
    }
}
