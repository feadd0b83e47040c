//! Stable Diffusion 3, as diffusers lays it out on the disk: the transformer ([`mmdit`]) and what Chain-of-Zoom's training wrote for it
//! ([`lora`]). All sizes come from the `config.json` beside the weights.

pub mod lora;
pub mod mmdit;
