//! The svcnat binary: everything is in the library.

use std::process::ExitCode;

/// Gives memory back to the system after a first sync, which the C library's does not, and
/// is faster at many small objects. docs/performance.md has both figures.
#[cfg(feature = "daemon")]
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    svcnat::cli::main()
}
