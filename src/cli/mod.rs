//! The command line: one verb per file.

mod apply;
pub mod args;
mod check;
mod delete;
mod diff;
mod error;
mod explain;
mod from_inputs;
mod get;
mod input_args;
mod inputs;
mod intent;
#[cfg(feature = "daemon")]
mod kube_proxy_flags;
mod man;
mod page;
mod render;
#[cfg(feature = "daemon")]
mod run;
mod say;
mod status;
mod writer;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::text::Printable;
use args::{Cli, Verb};
pub use error::CliError;

/// Parses the command line, carries it out and says how it went: 0 done, 1 `diff` found
/// differences, 2 bad usage or input, 3 the host refused.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(e) => {
            // clap's own exit: 0 for --help and --version, 2 for bad usage.
            let printed = e.print().and_then(|()| std::io::stdout().flush());
            return match printed {
                _ if e.use_stderr() => ExitCode::from(2),
                Err(e) if e.kind() != std::io::ErrorKind::BrokenPipe => {
                    let e = CliError::Output(e);
                    say::say(&format!("error: {e}\n"));
                    ExitCode::from(e.exit_code())
                }
                Ok(()) | Err(_) => ExitCode::SUCCESS,
            };
        }
    };
    // Names of a cluster are others' text: nothing of it reaches a terminal raw.
    let mut out = Printable::new(std::io::BufWriter::new(std::io::stdout().lock()));
    let result = run(&cli, &mut out).and_then(|code| {
        out.flush()?;
        Ok(code)
    });
    match result {
        Ok(code) => ExitCode::from(code),
        Err(CliError::Output(e)) if e.kind() == std::io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(e) => {
            let e = match e {
                CliError::Kernel(e) => error::refusal(e),
                e => e,
            };
            say::say(&say::said_once(&format!("error: {e}\n")));
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(cli: &Cli, out: &mut Printable<impl Write>) -> Result<u8, CliError> {
    match &cli.verb {
        Verb::Render(args) => render::run(args, out),
        Verb::Diff(args) => diff::run(args, out),
        Verb::Apply(args) => apply::run(args, out),
        #[cfg(feature = "daemon")]
        Verb::Run(args) => run::run(args),
        Verb::Delete(args) => delete::run(args, out),
        Verb::Check(args) => check::run(args, out),
        Verb::Get(args) => get::run(args, out),
        Verb::Status(args) => status::run(args, out),
        Verb::Explain(args) => explain::run(args, out),
        Verb::Completions { shell } => {
            // It takes no error of the writer.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "svcnat", &mut script);
            out.write_all(&script)?;
            Ok(0)
        }
        Verb::Man => man::run(out),
    }
}
