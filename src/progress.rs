//! A line on the terminal that says what takes so long. Nowhere else: logs and pipes get none.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// What is done by then needs no words.
const PATIENCE: Duration = Duration::from_millis(500);
/// Between two turns of the spinner.
const TURN: Duration = Duration::from_millis(100);

/// Whether there is none at all (`--quiet`).
static NEVER: AtomicBool = AtomicBool::new(false);

/// The line; copies are the same one. It goes when the last copy does.
#[derive(Clone)]
pub struct Progress {
    bar: ProgressBar,
    done: Arc<AtomicBool>,
}

impl Progress {
    /// Does work that says nothing itself, with a line that says what it is.
    pub fn during<T>(what: &str, work: impl FnOnce() -> T) -> T {
        let progress = Self::new();
        progress.say(what);
        progress.start();
        let result = work();
        progress.done();
        result
    }

    /// From now on there is no line, on a terminal either.
    pub fn never() {
        NEVER.store(true, Ordering::Relaxed);
    }

    /// A line out of sight.
    #[must_use]
    pub fn new() -> Self {
        let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::hidden());
        let style = ProgressStyle::with_template("{spinner} {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
        Self {
            bar,
            done: Arc::default(),
        }
    }

    /// Lets it come into sight if the work takes more than a moment and standard error is a
    /// terminal. The threads it needs have the privileges of this moment.
    pub fn start(&self) {
        if NEVER.load(Ordering::Relaxed) {
            return;
        }
        let later = self.clone();
        // Without a thread there is no line; the work goes on.
        let _ = std::thread::Builder::new()
            .name("progress".to_owned())
            .spawn(move || {
                std::thread::sleep(PATIENCE);
                if !later.done.load(Ordering::Relaxed) {
                    later.bar.set_draw_target(ProgressDrawTarget::stderr());
                    later.bar.enable_steady_tick(TURN);
                }
            });
    }

    /// What is being done now.
    pub fn say(&self, what: impl Into<String>) {
        self.bar.set_message(what.into());
    }

    /// Nothing is, any more: the line goes.
    pub fn done(&self) {
        self.done.store(true, Ordering::Relaxed);
        self.bar.finish_and_clear();
    }

    /// Standard error, for lines that are not to be mixed up with this one.
    #[must_use]
    pub fn stderr(&self) -> Beside {
        Beside(self.bar.clone())
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes to standard error above the line.
pub struct Beside(ProgressBar);

impl Write for Beside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.suspend(|| io::stderr().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}
