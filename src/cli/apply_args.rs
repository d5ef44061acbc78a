//! What was typed of `apply` and the verbs that go with it: `confirm`, `rollback`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::args::{CommonArgs, Output, ViewArgs, duration};
use super::input_args::InputArgs;
use crate::apply::Limit;

/// `--dry-run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DryRun {
    /// Really do it.
    #[default]
    None,
    /// Compare only.
    Client,
    /// Let the kernel check the batch and drop it.
    Server,
}

/// `--max-endpoint-loss`, unless told otherwise.
const LOSS: f64 = 0.5;

/// What an input may take away from what is installed.
#[derive(Debug, Args)]
pub struct LossArgs {
    /// Share of all endpoints that may go at once: `apply` refuses more, `run` reads again first
    #[arg(long, value_name = "SHARE", default_value_t = LOSS, value_parser = share)]
    pub max_endpoint_loss: f64,
    /// An input without any object or Service is meant: without this, what is installed stays
    #[arg(long)]
    pub allow_empty: bool,
}

impl Default for LossArgs {
    fn default() -> Self {
        Self {
            max_endpoint_loss: LOSS,
            allow_empty: false,
        }
    }
}

impl From<&LossArgs> for Limit {
    fn from(args: &LossArgs) -> Self {
        Self {
            share: args.max_endpoint_loss,
            allow_empty: args.allow_empty,
        }
    }
}

/// A share between 0 and 1.
fn share(text: &str) -> Result<f64, String> {
    let share = text
        .parse()
        .ok()
        .filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| format!("{text:?} is not a share between 0 and 1"))
}

/// What goes with manifests, and not with a plan, which has its own.
const OF_MANIFESTS: [&str; 5] = [
    "filename",
    "config",
    "skip_invalid",
    "service_cluster_ip_range_from",
    "SettingArgs",
];

/// `svcnat apply`.
#[derive(Debug, Args)]
pub struct ApplyArgs {
    /// A plan that `diff --out` kept; manifests are given with -f
    #[arg(value_name = "PLAN", conflicts_with_all = OF_MANIFESTS)]
    pub plan: Option<PathBuf>,
    /// Put the state before back unless `svcnat confirm`, or Enter here, comes in time; whatever
    /// becomes of this shell and this process
    #[arg(
        long,
        value_name = "DURATION",
        value_parser = confirm_time,
        conflicts_with_all = ["dry_run", "beside_run"]
    )]
    pub confirm: Option<Duration>,
    /// Do not change anything: `client` compares, `server` has the kernel check the batch
    #[arg(long, value_enum, default_value_t, num_args = 0..=1, default_missing_value = "client", require_equals = true)]
    pub dry_run: DryRun,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// How the plan is shown, of a dry run or with -v.
    #[command(flatten)]
    pub view: ViewArgs,
    /// What may be lost at once.
    #[command(flatten)]
    pub loss: LossArgs,
    /// Go on although another svcnat writes to this network namespace
    #[arg(long)]
    pub beside_run: bool,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
    /// Where objects and settings come from.
    #[command(flatten)]
    pub inputs: InputArgs,
}

/// How long a confirmation may be waited for.
fn confirm_time(text: &str) -> Result<Duration, String> {
    let time = duration(text)?;
    let allowed = Duration::from_secs(1)..=Duration::from_secs(24 * 3600);
    if allowed.contains(&time) {
        Ok(time)
    } else {
        Err(format!("{text:?} is not between 1s and 24h"))
    }
}

/// `svcnat confirm`.
#[derive(Debug, Args)]
pub struct ConfirmArgs {
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// `svcnat rollback`.
#[derive(Debug, Args)]
pub struct RollbackArgs {
    /// Show what would be put back, and do nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Put back what the apply changed although others changed something since; that stays
    #[arg(long)]
    pub force: bool,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
    /// Where it looks, and how much it says.
    #[command(flatten)]
    pub common: CommonArgs,
}

/// The guardian of `apply --confirm`.
#[derive(Debug, Args)]
pub struct GuardianArgs {
    /// How long it waits
    #[arg(long, value_parser = duration)]
    pub time: Duration,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::super::args::Cli;
    use super::super::input_args::INPUTS;
    use super::*;

    #[test]
    fn a_plan_goes_with_no_other_input() {
        let mut command = Cli::command();
        command.build();
        let apply = command.find_subcommand("apply").unwrap();
        let inputs = apply.get_arguments();
        let inputs = inputs.filter(|arg| arg.get_help_heading() == Some(INPUTS));
        let ids: Vec<&str> = inputs.map(|arg| arg.get_id().as_str()).collect();
        assert!(ids.contains(&"filename"), "{ids:?}");
        for id in ids {
            assert!(OF_MANIFESTS.contains(&id), "{id}");
        }
    }
}
