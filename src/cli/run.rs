//! `svcnat run`: keep it installed. Follows the input files by inotify and the kernel's
//! ruleset by its generation; one thread, one socket.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use super::apply::{Done, install};
use super::args::{DeleteArgs, Drift, Output, RunArgs};
use super::error::CliError;
use super::inputs::{Inputs, report};
use super::service_manager::notify;
use super::watch::Watch;
use crate::compile::compile;
use crate::diff::diff;
use crate::netlink::Nfnetlink;
use crate::problem::Severity;

/// How often the generation is looked at: one small request.
const CHECK: Duration = Duration::from_secs(1);

pub fn run(args: &RunArgs) -> Result<u8, CliError> {
    if args
        .inputs
        .filename
        .iter()
        .any(|path| path.as_os_str() == "-")
    {
        return Err(CliError::Usage(
            "run follows files and folders; standard input has only one reading".to_owned(),
        ));
    }
    let flag = |signal| {
        let flag = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal, Arc::clone(&flag))
            .map(|_| flag)
            .map_err(|e| CliError::Host(format!("cannot handle signals: {e}")))
    };
    let stop = [
        flag(signal_hook::consts::SIGTERM)?,
        flag(signal_hook::consts::SIGINT)?,
    ];
    let reload = flag(signal_hook::consts::SIGHUP)?;
    let watched: Vec<_> = args
        .inputs
        .filename
        .iter()
        .chain(&args.inputs.config)
        .cloned()
        .collect();
    // Watch before reading: a change in between is seen.
    let watch = Watch::new(&watched)
        .map_err(|e| CliError::Host(format!("cannot watch the inputs: {e}")))?;
    let mut daemon = Daemon {
        args,
        inputs: Inputs::resolve(&args.inputs)?,
        kernel: Nfnetlink::open()?,
        generation: 0,
    };
    daemon.sync("start")?;
    notify("READY=1");
    while !stop.iter().any(|s| s.load(Ordering::Relaxed)) {
        let changed = watch
            .wait(CHECK)
            .map_err(|e| CliError::Host(format!("cannot wait for changes: {e}")))?;
        if changed || reload.swap(false, Ordering::Relaxed) {
            daemon.reread();
        }
        if let Err(e) = daemon.check() {
            eprintln!(
                "level=error msg=\"cannot check the ruleset\" error={:?}",
                e.to_string()
            );
        }
        notify("WATCHDOG=1");
    }
    notify("STOPPING=1");
    if args.cleanup_on_exit {
        let delete = DeleteArgs {
            output: Output::Text,
        };
        return super::delete::run(&delete, &mut std::io::stderr());
    }
    Ok(0)
}

struct Daemon<'a> {
    args: &'a RunArgs,
    /// The last good inputs.
    inputs: Inputs,
    kernel: Nfnetlink,
    /// Generation after our last look.
    generation: u32,
}

impl Daemon<'_> {
    fn sync(&mut self, cause: &str) -> Result<(), CliError> {
        let start = Instant::now();
        let done = install(&mut self.kernel, &self.inputs)?;
        self.generation = done.generation;
        log(cause, &done, start.elapsed());
        Ok(())
    }

    /// Reads the inputs again. What cannot be used changes nothing: a half-written file is
    /// followed by a whole one, and the last good state stays until then.
    fn reread(&mut self) {
        let result = Inputs::collect(&self.args.inputs).and_then(|(inputs, problems)| {
            report(&problems);
            let errors = problems
                .iter()
                .filter(|p| p.severity == Severity::Error)
                .count();
            if errors > 0 && !self.args.inputs.skip_invalid {
                return Err(CliError::Invalid(format!("{errors} errors in the input")));
            }
            self.inputs = inputs;
            self.sync("inputs")
        });
        if let Err(e) = result {
            eprintln!(
                "level=error msg=\"the last good state stays\" error={:?}",
                e.to_string()
            );
        }
    }

    /// Looks whether somebody changed the ruleset, and whether that concerns us.
    fn check(&mut self) -> Result<(), CliError> {
        let now = self.kernel.generation()?.id;
        if now == self.generation || self.args.drift == Drift::Ignore {
            return Ok(());
        }
        if self.args.drift == Drift::Repair {
            return self.sync("drift");
        }
        let live = self.kernel.read()?;
        self.generation = live.generation;
        let delta = diff(&compile(&self.inputs.plan, &live.sets()), &live);
        if !delta.is_empty() {
            let counts = delta.counts();
            eprintln!(
                "level=warning msg=\"others changed our tables\" missing={} foreign={} rules={}",
                counts.elements_added, counts.elements_deleted, counts.rules_added
            );
        }
        Ok(())
    }
}

/// One line per commit; nothing for a look that found nothing to do.
fn log(cause: &str, done: &Done, took: Duration) {
    let routes = done.routes.added + done.routes.replaced + done.routes.deleted;
    for error in &done.routes.errors {
        eprintln!("level=error msg=\"route\" error={:?}", error.to_string());
    }
    if done.outcome.committed.is_none() && routes == 0 && cause != "start" {
        return;
    }
    let counts = done.outcome.delta.counts();
    let committed = done.outcome.committed.unwrap_or_default();
    eprintln!(
        "level=info msg=committed cause={cause} added={} deleted={} rules={} routes={routes} bytes={} \
         commit_us={} total_us={} generation={} flows={}",
        counts.elements_added,
        counts.elements_deleted,
        counts.rules_added,
        committed.bytes,
        committed.micros,
        took.as_micros(),
        done.generation,
        done.flows
    );
    notify(&format!(
        "STATUS=generation {}, {} elements",
        done.generation,
        done.outcome.desired.element_count()
    ));
}
