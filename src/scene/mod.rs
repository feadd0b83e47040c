//! A history as one sees it: one continuous canvas, and films of it.

pub mod canvas;
pub mod film;
