//! The provider with its named crash points compiled in: for tests, never to be released.

fn main() -> std::process::ExitCode {
    openkcm_provider::main()
}
