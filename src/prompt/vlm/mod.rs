//! Words from a vision-language model, Qwen2.5-VL: what it is shown, and in which form.

pub mod pictures;
