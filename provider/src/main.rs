//! The provider's command line.

fn main() -> std::process::ExitCode {
    openkcm_provider::main()
}
