//! Stable Diffusion 2, as diffusers lays it out on the disk: the UNet ([`unet`]), its noise ([`schedule`]), and what OSEDiff's training wrote for it ([`lora`]). All
//! sizes come from the `config.json` beside the weights.

pub mod lora;
pub mod schedule;
pub mod unet;
