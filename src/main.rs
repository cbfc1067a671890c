//! The program: see `headwater::program`.

fn main() -> std::process::ExitCode {
    headwater::program::run()
}
