//! The program `trem-applier`.

fn main() -> std::process::ExitCode {
    std::process::ExitCode::SUCCESS
}
