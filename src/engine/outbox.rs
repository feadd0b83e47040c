//! Where the engine's events go.

use crossbeam_channel::Sender;

use super::Wake;
use super::message::Event;

/// Sends events and wakes whoever receives them.
#[derive(Clone)]
pub(super) struct Outbox {
    events: Sender<Event>,
    wake: Wake,
}

impl Outbox {
    pub(super) fn new(events: Sender<Event>, wake: Wake) -> Self {
        Self { events, wake }
    }

    pub(super) fn send(&self, event: Event) {
        // Nobody listens any more when the handle is being dropped; then Quit is already on its way.
        _ = self.events.send(event);
        (self.wake)();
    }
}
