//! Text encoders: token ids to embeddings.

pub mod clip;
pub mod t5;
pub mod tokenizer;
