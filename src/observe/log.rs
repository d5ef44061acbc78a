//! The log: one line per event on standard error, as logfmt or JSON.

use crate::progress::Progress;
use crate::text::Printable;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, fmt, registry};

/// Form of a line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// `key=value` pairs.
    #[default]
    #[value(alias = "text")]
    Logfmt,
    /// One JSON object per line.
    Json,
}

/// Starts logging. `verbosity` 0 is info, 1 debug, 2 trace, none errors alone; the libraries
/// below only warn until 3: they have many lines for each request. Lines go above that of `progress`. A line
/// that cannot be written is lost, and no reason to end. A second call changes nothing.
pub fn init(format: LogFormat, verbosity: Option<u8>, progress: &Progress) {
    let (own, others) = match verbosity {
        None => (LevelFilter::ERROR, LevelFilter::ERROR),
        Some(0) => (LevelFilter::INFO, LevelFilter::WARN),
        Some(1) => (LevelFilter::DEBUG, LevelFilter::WARN),
        Some(2) => (LevelFilter::TRACE, LevelFilter::WARN),
        _ => (LevelFilter::TRACE, LevelFilter::DEBUG),
    };
    // What the API's client logs of a failed request, we log with the reason.
    let client = if verbosity < Some(3) {
        LevelFilter::OFF
    } else {
        others
    };
    let filter = Targets::new()
        .with_default(others)
        .with_target("kube_client", client)
        .with_target("svcnat", own);
    let progress = progress.clone();
    // Both forms escape what ends a line; the rest of what is not printable is escaped here.
    let writer = move || Printable::new(progress.stderr());
    // Only a logger that is already there makes this fail, and that one serves as well.
    let _ = match format {
        LogFormat::Logfmt => registry()
            .with(
                tracing_logfmt::builder()
                    .with_target(false)
                    .layer()
                    .log_internal_errors(false)
                    .with_writer(writer)
                    .with_filter(filter),
            )
            .try_init(),
        LogFormat::Json => registry()
            .with(
                fmt::layer()
                    .log_internal_errors(false)
                    .json()
                    .flatten_event(true)
                    .with_target(false)
                    .with_writer(writer)
                    .with_filter(filter),
            )
            .try_init(),
    };
}
