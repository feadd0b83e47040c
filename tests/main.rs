//! One test binary for everything that looks at the program from outside; see each module.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that cannot go on should say so at once"
)]
#![allow(unreachable_pub, reason = "one program: what its modules share is public in it")]

mod bad_input;
mod canvas;
mod captioners;
mod cases;
mod chat_server;
mod cli;
mod compatibility;
mod engine;
mod evaluate;
mod film;
mod full_image;
mod grpo;
mod hub;
mod linking;
mod parity;
mod prompt_server;
mod round_trips;
mod samples;
mod sd21;
mod sd3;
mod selftest;
mod session;
mod single_file;
mod training;
mod viewer;
mod window;
