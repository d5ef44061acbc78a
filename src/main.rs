//! The svcnat binary: everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    svcnat::cli::main()
}
