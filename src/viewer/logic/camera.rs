//! Where the camera goes: to states, through the tree, and with the hand.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::document::{Direction, StateId};
use crate::scene::canvas::{Camera, Overlay};
use crate::viewer::state::{CameraTween, Document};

const GLIDE: Duration = Duration::from_millis(250);
const FADE: Duration = Duration::from_millis(350);

impl Document {
    /// Glides, fades, plays, and settles the camera on what it looks at; whether it moves on.
    pub(in crate::viewer) fn move_camera(&mut self) -> bool {
        self.fading_in.retain(|_, (since, _)| since.elapsed() < FADE);
        if self.fit_pending && self.screen[0] > 0.0 {
            self.camera = Camera::fitted(self.history.current(), self.screen);
            self.fit_pending = false;
        }
        if let Some(tween) = &self.tween {
            let t = (tween.start.elapsed().as_secs_f64() / GLIDE.as_secs_f64()).min(1.0);
            let eased = 1.0 - (1.0 - t).powi(3);
            self.camera = tween.from.between(&tween.to, &self.history, eased);
            if t >= 1.0 {
                self.tween = None;
            }
        }
        if self.film.as_ref().is_some_and(|film| film.start.elapsed().as_secs_f64() > film.path.seconds()) {
            self.film = None;
        }
        self.tween.is_some() || !self.fading_in.is_empty() || self.film.is_some()
    }

    /// Looks at a state.
    pub(in crate::viewer) fn go(&mut self, id: StateId, motion: bool) {
        self.history.go(id);
        self.show_current(motion);
    }

    pub(in crate::viewer) fn step(&mut self, direction: Direction, motion: bool) {
        if self.history.step(direction).is_some() {
            self.show_current(motion);
        }
    }

    pub(in crate::viewer) fn delete(&mut self, id: StateId, motion: bool) {
        let before = self.history.current().id;
        self.history.delete(id);
        if self.history.get(self.camera.anchor).is_none() || self.history.current().id != before {
            // What the camera was anchored to may be gone; it starts from where the history went.
            self.camera = Camera::fitted(self.history.current(), self.screen);
            self.tween = None;
        }
        if self.history.current().id != before {
            self.show_current(motion);
        }
        if self.placed.as_ref().is_some_and(|placed| self.history.get(placed.parent).is_none()) {
            self.placed = None;
        }
    }

    pub(in crate::viewer) fn show_current(&mut self, motion: bool) {
        let to = Camera::fitted(self.history.current(), self.screen);
        self.move_to(to, motion);
    }

    pub(in crate::viewer) fn look_at_scale(&mut self, scale: f64, motion: bool) {
        self.camera.settle(&self.history, self.screen);
        self.move_to(Camera { scale, ..self.camera }, motion);
    }

    fn move_to(&mut self, to: Camera, motion: bool) {
        // Where there is no way between the two (one was deleted), the camera jumps.
        let connected = self.camera.relative_to(&self.history, to.anchor).is_some();
        if motion && connected {
            self.tween = Some(CameraTween { from: self.camera, to, start: Instant::now() });
        } else {
            self.tween = None;
            self.camera = to;
        }
    }

    pub(in crate::viewer) fn zoom_middle(&mut self, factor: f64) {
        self.tween = None;
        let middle = [self.screen[0] / 2.0, self.screen[1] / 2.0];
        self.camera.zoom_at(&self.history, middle, factor, self.screen);
        self.follow_camera();
    }

    /// After the hand moved the camera: the state it looks at is the state at hand.
    pub(in crate::viewer) fn follow_camera(&mut self) {
        self.tween = None;
        let looked_at = self.camera.settle(&self.history, self.screen);
        self.history.look(looked_at);
    }

    /// How far a state has faded in.
    pub(in crate::viewer) fn opacity(fading_in: &HashMap<StateId, (Instant, Overlay)>, id: StateId) -> f32 {
        fading_in.get(&id).map_or(1.0, |(since, _)| (since.elapsed().as_secs_f32() / FADE.as_secs_f32()).min(1.0))
    }
}
