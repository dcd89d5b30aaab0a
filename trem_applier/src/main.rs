//! The program `trem-applier`; everything is in the library.

fn main() -> std::process::ExitCode {
    trem_applier::cli::main()
}
