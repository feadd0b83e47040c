//! `cargo xtask check`: formatting, lints, layers, documentation.

use std::path::Path;
use std::process::Command;

/// All checks.
pub fn all(root: &Path) -> anyhow::Result<()> {
    let cargo = || Command::new(env!("CARGO"));
    crate::run(cargo().args(["fmt", "--all", "--check"]))?;
    crate::imports::check(root)?;
    crate::run(cargo().args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    crate::run(cargo().args(["doc", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))
}
