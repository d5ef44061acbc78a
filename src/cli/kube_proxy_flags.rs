//! kube-proxy's flags that mean nothing here: taken, so that its command line works, with a
//! word on why. Those that do mean something are aliases in `args.rs`.

use clap::{Arg, ArgMatches, Args, Command, Error, FromArgMatches};

use crate::problem::Problem;

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Nothing; this is why.
    NoEffect(&'static str),
    /// What it asks for is not done by this program, and this is done instead.
    Refused(&'static str),
}

use Fate::{NoEffect, Refused};

const CONNTRACK: Fate = NoEffect(
    "limits and timeouts of connections are sysctls (net.netfilter.nf_conntrack_*), left as they are",
);
const IPVS: Fate = NoEffect("there is no IPVS: one nftables ruleset does it all");
const POLLED: Fate = NoEffect("objects are watched, not polled");
const LOG: Fate = NoEffect("-v and --log-format say all there is to say about the log");
const SYNC: Fate =
    NoEffect("the kernel is looked at all the time (--drift), and compared each --verify-period");

/// The flags, whether they are switches, and what becomes of them.
const FLAGS: [(&str, bool, Fate); 43] = [
    (
        "bind-address-hard-fail",
        true,
        NoEffect("an address that cannot be bound is tried again"),
    ),
    (
        "cleanup",
        true,
        Refused(
            "svcnat delete removes what is ours, run --take-over-kube-proxy what is kube-proxy's",
        ),
    ),
    ("cleanup-ipvs", true, IPVS),
    ("config-sync-period", false, POLLED),
    ("conntrack-max-per-core", false, CONNTRACK),
    ("conntrack-min", false, CONNTRACK),
    ("conntrack-tcp-be-liberal", true, CONNTRACK),
    ("conntrack-tcp-timeout-close-wait", false, CONNTRACK),
    ("conntrack-tcp-timeout-established", false, CONNTRACK),
    ("conntrack-udp-timeout", false, CONNTRACK),
    ("conntrack-udp-timeout-stream", false, CONNTRACK),
    ("feature-gates", false, NoEffect("there are none")),
    (
        "healthz-port",
        false,
        Refused("the port is part of --healthz-bind-address"),
    ),
    (
        "init-only",
        true,
        Refused("svcnat apply does its work once and ends"),
    ),
    (
        "iptables-localhost-nodeports",
        true,
        NoEffect("node ports do not answer on loopback addresses"),
    ),
    ("iptables-sync-period", false, SYNC),
    ("ipvs-exclude-cidrs", false, IPVS),
    ("ipvs-min-sync-period", false, IPVS),
    (
        "ipvs-scheduler",
        false,
        NoEffect("there is no IPVS; a Service is balanced by annotation svcnat.io/balancing"),
    ),
    ("ipvs-strict-arp", true, IPVS),
    ("ipvs-sync-period", false, IPVS),
    ("ipvs-tcp-timeout", false, IPVS),
    ("ipvs-tcpfin-timeout", false, IPVS),
    ("ipvs-udp-timeout", false, IPVS),
    ("kube-api-burst", false, POLLED),
    (
        "kube-api-content-type",
        false,
        NoEffect("objects come as JSON"),
    ),
    ("kube-api-qps", false, POLLED),
    ("log-flush-frequency", false, LOG),
    ("log-json-info-buffer-size", false, LOG),
    ("log-json-split-stream", true, LOG),
    ("log-text-info-buffer-size", false, LOG),
    ("log-text-split-stream", true, LOG),
    (
        "metrics-port",
        false,
        Refused("the port is part of --metrics-bind-address"),
    ),
    ("nftables-sync-period", false, SYNC),
    (
        "oom-score-adj",
        false,
        NoEffect("set OOMScoreAdjust= in the unit"),
    ),
    ("profiling", true, NoEffect("there is no profiling")),
    (
        "proxy-port-range",
        false,
        NoEffect("no port of the node is opened"),
    ),
    (
        "show-hidden-metrics-for-version",
        false,
        NoEffect("no metric is hidden"),
    ),
    ("udp-timeout", false, CONNTRACK),
    ("v", false, NoEffect("the log says more with -v and -vv")),
    ("vmodule", false, LOG),
    ("windows-run-as-service", true, NoEffect("this is Linux")),
    (
        "write-config-to",
        false,
        Refused(
            "there is no default configuration to write: deploy/svcnat.yaml is one to start from",
        ),
    ),
];

/// Those that were given.
#[derive(Clone, Debug, Default)]
pub struct KubeProxyFlags(Vec<usize>);

impl KubeProxyFlags {
    /// A warning for each that has no effect.
    ///
    /// # Errors
    /// In words, if one asks for what this program does otherwise.
    pub fn check(&self) -> Result<Vec<Problem>, String> {
        let mut problems = Vec::new();
        for (name, _, fate) in self.0.iter().map(|i| FLAGS[*i]) {
            match fate {
                NoEffect(why) => problems.push(Problem::warning(
                    None,
                    format!("--{name}"),
                    "",
                    format!("has no effect: {why}"),
                )),
                Refused(instead) => return Err(format!("--{name} of kube-proxy: {instead}")),
            }
        }
        Ok(problems)
    }
}

impl Args for KubeProxyFlags {
    fn augment_args(mut command: Command) -> Command {
        for (name, switch, _) in FLAGS {
            let arg = Arg::new(name)
                .long(name)
                .hide(true)
                .value_name("VALUE")
                .help("A flag of kube-proxy without a meaning here");
            // Switches take their value with an equals sign, as in kube-proxy.
            command = command.arg(if switch {
                arg.num_args(0..=1)
                    .require_equals(true)
                    .default_missing_value("true")
            } else {
                arg.num_args(1).allow_hyphen_values(true)
            });
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for KubeProxyFlags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
        let given = |i: &usize| {
            let value = matches.get_one::<String>(FLAGS[*i].0);
            // A switch that is off asks for nothing.
            value.is_some_and(|value| !(FLAGS[*i].1 && value == "false"))
        };
        Ok(Self((0..FLAGS.len()).filter(given).collect()))
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

    fn check(line: &str) -> Result<Vec<String>, String> {
        let words = ["svcnat", "run"].into_iter().chain(line.split_whitespace());
        let cli = Cli::try_parse_from(words).map_err(|e| e.to_string())?;
        let Verb::Run(args) = cli.verb else {
            return Err("another verb".to_owned());
        };
        let problems = args.kube_proxy.check()?;
        Ok(problems.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn every_flag_of_kube_proxy_is_taken_or_refused_with_a_reason() {
        // Those of kube-proxy 1.35 on Linux, but for --help and --version.
        let flags = "bind-address=0.0.0.0 bind-address-hard-fail cluster-cidr=10.0.0.0/8 config=x \
            config-sync-period=1m conntrack-max-per-core=1 conntrack-min=1 conntrack-tcp-be-liberal \
            conntrack-tcp-timeout-close-wait=1h conntrack-tcp-timeout-established=1h \
            conntrack-udp-timeout=1s conntrack-udp-timeout-stream=1s detect-local-mode=ClusterCIDR \
            feature-gates=A=true healthz-bind-address=0.0.0.0:10256 hostname-override=n1 \
            iptables-localhost-nodeports=false iptables-masquerade-bit=14 iptables-min-sync-period=1s \
            iptables-sync-period=30s kube-api-burst=10 kube-api-content-type=x kube-api-qps=5 \
            kubeconfig=x log-flush-frequency=5s logging-format=text masquerade-all master=http://x \
            metrics-bind-address=127.0.0.1:10249 nodeport-addresses=primary oom-score-adj=-999 \
            pod-bridge-interface=cni0 pod-interface-name-prefix=veth profiling=true \
            proxy-mode=nftables proxy-port-range= show-hidden-metrics-for-version=1.30 v=2 vmodule=x";
        for flag in flags.split_whitespace() {
            assert!(check(&format!("--{flag}")).is_ok(), "{flag}");
        }
        for refused in ["cleanup", "init-only", "write-config-to=x"] {
            let message = check(&format!("--{refused}")).unwrap_err();
            assert!(message.contains("of kube-proxy: "), "{message}");
        }
    }

    #[test]
    fn flags_without_effect_say_why_and_those_with_one_do_not() {
        let said = check("--conntrack-min=1 --proxy-mode ipvs --v 4")
            .unwrap()
            .join("\n");
        assert!(
            said.contains("--conntrack-min: has no effect: limits"),
            "{said}"
        );
        assert!(said.contains("--v: has no effect"), "{said}");
        assert_eq!(
            check("--hostname-override n1 --iptables-min-sync-period 1s"),
            Ok(vec![])
        );
        assert!(check("--proxy-mode kernelspace").is_err());
        assert!(check("--no-such-flag").is_err());
    }
}
