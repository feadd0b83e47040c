//! One continuous canvas: every scale state drawn in place inside the box it came from, at any magnification.
//!
//! [`Camera`] says what is looked at, [`compose`] turns a history into layers on the screen, [`Renderer`] draws layers
//! with wgpu. Knows nothing of windows and widgets: the same composition can render a film.

mod camera;
mod composition;
mod renderer;
mod texture;

pub use camera::{Camera, Placement};
pub use composition::{Layer, Overlay, Scene, compose};
pub use renderer::Renderer;
