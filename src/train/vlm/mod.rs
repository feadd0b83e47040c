//! Training of the prompt extractor: GRPO fine-tuning of Qwen2.5-VL's LoRA by a critic (Chain-of-Zoom, section 3.3).

pub mod adapter;
pub mod checkpoint;
mod generation;
mod limits;
mod logs;
pub mod loss;
pub mod memory;
pub mod options;
pub mod pairs;
pub mod policy;
pub mod preview;
pub mod replay;
pub mod rewards;
pub mod rollout;
mod statistics;
pub mod trainer;
mod validation;
