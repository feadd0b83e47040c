//! Stable Diffusion 2, as diffusers lays it out on the disk: the UNet ([`unet`]), and what OSEDiff's training wrote for it ([`lora`]). All
//! sizes come from the `config.json` beside the weights.

pub mod lora;
pub mod unet;
