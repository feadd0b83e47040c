//! Stable Diffusion 3, as diffusers lays it out on the disk: the transformer ([`mmdit`]) and the autoencoder ([`vae`]).
//! All sizes come from the `config.json` beside the weights.

pub mod lora;
pub mod mmdit;
pub mod tiles;
pub mod vae;
