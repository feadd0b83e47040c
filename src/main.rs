//! The program: the viewer, or one of the headless commands.

fn main() -> std::process::ExitCode {
    chain_of_zoom::cli::main()
}
