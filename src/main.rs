//! The `spoken` command: everything is in the library, [`spoken::app`] composes it.

mod allocator;

fn main() -> std::process::ExitCode {
    spoken::app::main()
}
