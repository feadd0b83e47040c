//! `coz`: the viewer, and the same engine without a window.

fn main() -> std::process::ExitCode {
    // SAFETY: this is the only thread.
    unsafe { chain_of_zoom::step::use_large_pages() };
    chain_of_zoom::cli::main()
}
