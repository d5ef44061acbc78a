//! The inputs that all verbs share, as they were typed: where objects and settings come from.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, ValueParser};
use clap::{Arg, ArgAction, ArgGroup, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::config::{Draft, Flag, Form, Setting, settings};

/// Help heading of where objects come from.
pub const INPUTS: &str = "Inputs";
/// Help heading of the settings.
pub const SETTINGS: &str = "Settings (flags win over --config)";

/// Inputs, the same for every verb. Flags win over the file.
#[derive(Clone, Debug, Args, Default)]
#[command(next_help_heading = INPUTS)]
pub struct InputArgs {
    /// Manifests: a file, a folder, or - for standard input; YAML or JSON; repeatable
    #[arg(short, long = "filename", value_name = "FILE|DIR|-")]
    pub filename: Vec<PathBuf>,
    /// What standard input holds, if that is known already.
    #[arg(skip)]
    pub stdin: Option<String>,
    /// Configuration file: svcnat/v1alpha1 Configuration, or kube-proxy's or ip-masq-agent's
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Leave invalid objects out instead of stopping
    #[arg(long)]
    pub skip_invalid: bool,
    /// Read the service range from a file of kube-apiserver, kubeadm, k3s or rke2: a unit, a
    /// static pod, a configuration
    #[arg(long, value_name = "FILE", conflicts_with = "service-cluster-ip-range")]
    pub service_cluster_ip_range_from: Option<PathBuf>,
    /// Settings, each by itself.
    #[command(flatten)]
    pub settings: SettingArgs,
}

/// A flag for each setting that has one, as `config` declares them.
#[derive(Clone, Debug, Default)]
pub struct SettingArgs(pub Draft);

/// The settings that have a flag.
fn flags() -> impl Iterator<Item = (&'static Setting, Flag)> {
    settings().filter_map(|setting| Some((setting, setting.flag?)))
}

fn arg(setting: &'static Setting, flag: Flag) -> Arg {
    let default = (setting.default)();
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .aliases(flag.aliases)
        .value_name(flag.value)
        .help_heading(SETTINGS)
        .help(format!("{} [default: {default}]", setting.help()));
    let check = move |text: &str| setting.check(text).map(|()| text.to_owned());
    match setting.form {
        Form::List => arg.action(ArgAction::Append).value_parser(check),
        Form::Words(words) => arg.value_parser(words_parser(words)),
        // What is off is switched on by its name alone.
        Form::Switch if default != "true" => arg
            .num_args(0..=1)
            .default_missing_value("true")
            .require_equals(true)
            .value_parser(check),
        Form::Switch | Form::Text | Form::Number | Form::Nodes => arg.value_parser(check),
    }
}

fn words_parser(words: &'static [(&str, &str)]) -> ValueParser {
    let values = words
        .iter()
        .map(|(word, means)| PossibleValue::new(*word).help(means.trim()));
    PossibleValuesParser::new(values).into()
}

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let names = flags().map(|(_, flag)| flag.name);
        command
            .args(flags().map(|(setting, flag)| arg(setting, flag)))
            .group(ArgGroup::new("SettingArgs").multiple(true).args(names))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let mut draft = Draft::default();
        for (setting, flag) in flags() {
            let Some(given) = matches.get_many::<String>(flag.name) else {
                continue;
            };
            let text = given.cloned().collect::<Vec<_>>().join(",");
            let name = format!("--{}", flag.name);
            draft
                .take(setting, &name, &text)
                .map_err(|e| Error::raw(clap::error::ErrorKind::ValueValidation, e + "\n"))?;
        }
        Ok(Self(draft))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::super::args::{Cli, Verb};
    use super::*;

    fn given(words: &[&str]) -> Result<Draft, String> {
        let words = ["svcnat", "render"].iter().chain(words);
        match Cli::try_parse_from(words).map(|cli| cli.verb) {
            Ok(Verb::Render(args)) => Ok(args.inputs.settings.0),
            Ok(other) => panic!("{other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn a_flag_says_what_its_setting_takes() {
        for (setting, flag) in flags() {
            let samples = [
                "true",
                "15",
                "10.9.0.0/16",
                "192.0.2.1",
                "30000-30009",
                "n1",
            ];
            let words = match setting.form {
                Form::Words(words) => words,
                _ => &[],
            };
            let mut samples = samples
                .into_iter()
                .chain(words.iter().map(|(word, _)| *word));
            let value = samples.find(|value| setting.check(value).is_ok()).unwrap();
            let mut taken = Draft::default();
            taken.take(setting, setting.key, value).unwrap();
            for name in std::iter::once(&flag.name).chain(flag.aliases) {
                let draft = given(&[&format!("--{name}={value}")]).unwrap();
                assert_eq!(format!("{draft:?}"), format!("{taken:?}"), "--{name}");
            }
        }
    }

    #[test]
    fn a_wrong_value_is_named_with_its_flag_and_what_was_expected() {
        for (setting, flag) in flags() {
            let error = given(&[&format!("--{}=\"!\"", flag.name)]).unwrap_err();
            for part in [flag.name, "\"!\""] {
                assert!(error.contains(part), "{part} is not in {error}");
            }
            let explained = error.contains("possible values") || error.contains("': ");
            assert!(explained, "{}: {error}", setting.key);
        }
        let error = given(&["--cluster-cidr=10.0.0.1/8"]).unwrap_err();
        assert!(error.contains("expected 10.0.0.0/8"), "{error}");
    }

    #[test]
    fn lists_may_be_given_in_pieces_and_what_is_off_is_switched_on_by_its_name() {
        let pieces = [
            "--pod-cidr=10.1.0.0/24,fd00::/64",
            "--pod-cidr",
            "10.2.0.0/24",
        ];
        let draft = given(
            &[
                &pieces[..],
                &["--masquerade-all", "--manage-routes", "false"],
            ]
            .concat(),
        );
        let settings = draft.unwrap().settings;
        assert_eq!(settings.pod_cidrs.map(|list| list.len()), Some(3));
        assert_eq!(settings.masquerade_all, Some(true));
        assert_eq!(settings.manage_routes, Some(false));
        assert!(given(&["--manage-routes"]).is_err(), "on already");
        assert!(
            given(&["--sysctls=apply", "--sysctls=check"]).is_err(),
            "which?"
        );
    }
}
