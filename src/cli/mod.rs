//! The command line: one verb per file.

mod apply;
mod apply_args;
pub mod args;
mod asker;
mod check;
mod confirm;
mod delete;
mod diff;
mod duration;
mod error;
mod explain;
mod fix;
mod flows;
mod from_inputs;
mod get;
mod guardian;
mod input_args;
mod inputs;
mod intent;
mod kept;
#[cfg(feature = "daemon")]
mod kube_proxy_flags;
#[cfg(feature = "lab")]
mod lab;
mod man;
mod names;
mod page;
mod reference;
mod render;
mod rollback;
#[cfg(feature = "daemon")]
mod run;
mod saved_plan;
mod say;
mod status;
mod trace;
mod traffic_args;
mod verify;
mod version;
mod ways;
mod writer;

use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::host::netns;
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
                    say::fail(&format!("error: {e}\n"));
                    ExitCode::from(e.exit_code())
                }
                Ok(()) | Err(_) => ExitCode::SUCCESS,
            };
        }
    };
    let common = cli.verb.common();
    let quiet = common.is_some_and(|common| common.quiet);
    let out: Box<dyn Write> = if quiet {
        say::errors_only();
        Box::new(std::io::sink())
    } else {
        Box::new(std::io::stdout().lock())
    };
    // Names of a cluster are others' text: nothing of it reaches a terminal raw.
    let mut out = Printable::new(std::io::BufWriter::new(out));
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
            say::fail(&say::said_once(&format!("error: {e}\n")));
            ExitCode::from(e.exit_code())
        }
    }
}

fn run(cli: &Cli, out: &mut Printable<impl Write>) -> Result<u8, CliError> {
    // Before any socket is opened, and before any thread is started.
    if let Some(name) = cli.verb.common().and_then(|common| common.netns.as_deref()) {
        match enter(name) {
            Err(error @ CliError::Host(_)) if matches!(cli.verb, Verb::Status(_)) => {
                return Ok(status::unknown(&error));
            }
            entered => entered?,
        }
    }
    match &cli.verb {
        Verb::Render(args) => render::run(args, out),
        Verb::Diff(args) => diff::run(args, out),
        Verb::Apply(args) => apply::run(args, out),
        Verb::Confirm(_) => confirm::run(out),
        Verb::Rollback(args) => rollback::run(args, out),
        Verb::Guardian(args) => guardian::run(args),
        #[cfg(feature = "daemon")]
        Verb::Run(args) => run::run(args),
        Verb::Delete(args) => delete::run(args, out),
        Verb::Check(args) => check::run(args, out),
        Verb::Get(args) => get::run(args, out),
        Verb::Status(args) => status::run(args, out),
        Verb::Explain(args) => explain::run(args, out),
        Verb::Flows(args) => flows::run(args, out),
        Verb::Trace(args) => trace::run(args, out),
        #[cfg(feature = "lab")]
        Verb::Lab(args) => lab::run(&args.verb, out),
        Verb::Verify(args) => verify::run(args, out),
        Verb::Completions { shell } => {
            // It takes no error of the writer.
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "svcnat", &mut script);
            out.write_all(&script)?;
            Ok(0)
        }
        Verb::Man => man::run(out),
        Verb::Reference => reference::run(out),
        Verb::Version { output } => version::run(*output, out),
    }
}

/// Moves to this network namespace. That it is none is a fault of who named it.
fn enter(name: &str) -> Result<(), CliError> {
    netns::enter(name).map_err(|error| {
        let text = format!("--netns {name}: {error}");
        if netns::is_misnamed(&error) {
            CliError::Usage(text)
        } else {
            CliError::Host(text)
        }
    })
}
