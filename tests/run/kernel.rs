//! What is in the kernel: put back when others change it, kept when the agent stops.

use svcnat::compile::FOLLOWING;

use crate::harness::{Daemon, eventually, frontends, service};
use crate::support::{in_namespace, run};

#[test]
fn a_flush_by_others_is_repaired() {
    in_namespace(|| {
        let daemon = Daemon::start("flush", &[]);
        run("nft", &["flush", "ruleset"], "");
        eventually("the repair", || frontends().contains("10.254.0.10"));
        eventually("the log line", || daemon.log().contains("cause=drift"));
    });
}

#[test]
fn drift_is_only_reported_if_told_so() {
    in_namespace(|| {
        let daemon = Daemon::start("report", &["--drift=report"]);
        run("nft", &["flush", "ruleset"], "");
        eventually("the report", || {
            daemon.log().contains("others changed our tables")
        });
        assert_eq!(frontends(), "");
    });
}

#[test]
fn rules_outlive_the_daemon_and_a_restart_writes_nothing() {
    in_namespace(|| {
        let mut daemon = Daemon::start("restart", &[]);
        daemon.stop();
        assert!(frontends().contains("10.254.0.10"));
        daemon.child = Daemon::spawn(&daemon.folder, &[]);
        eventually("the second start", || {
            daemon.log().matches("cause=start").count() == 2
        });
        let log = daemon.log();
        let last = log.lines().rfind(|l| l.contains("cause=start")).unwrap();
        assert!(last.contains(" bytes=0 "), "{last}");
    });
}

#[test]
fn cleanup_on_exit_leaves_nothing() {
    in_namespace(|| {
        let mut daemon = Daemon::start("cleanup", &["--cleanup-on-exit"]);
        daemon.stop();
        assert_eq!(run("nft", &["list", "ruleset"], ""), "");
    });
}

#[test]
fn rules_that_others_removed_are_put_back_without_reading_elements() {
    in_namespace(|| {
        let daemon = Daemon::start("rules", &[]);
        let whole = || run("nft", &["-s", "list", "table", "ip", "svcnat"], "");
        let before = whole();
        // Other rules, no rules, and no chain.
        for command in [
            "insert rule ip svcnat nodes accept",
            "flush table ip svcnat",
            "add chain ip svcnat theirs; add rule ip svcnat theirs accept",
        ] {
            let chains = run("nft", &["list", "chains", "ip"], "");
            let first = chains.lines().find_map(|l| l.trim().strip_prefix("chain "));
            let name = first.unwrap().split(' ').next().unwrap();
            let seen = daemon.log().matches("cause=drift").count();
            run("nft", &[&command.replace("nodes", name)], "");
            eventually("the repair", || whole() == before);
            eventually("the log line", || {
                daemon.log().matches("cause=drift").count() > seen
            });
        }
        let log = daemon.log();
        let repairs = log.lines().filter(|l| l.contains("cause=drift"));
        repairs.for_each(|line| assert!(line.contains("full=false"), "{line}"));
        // An element is another matter.
        run("nft", &["flush", "map", "ip", "svcnat", "service-ips"], "");
        eventually("the repair", || whole() == before);
        eventually("the log line", || {
            daemon.log().contains("cause=drift full=true")
        });
    });
}

#[test]
fn sysctls_are_set_if_told_so_and_set_again() {
    in_namespace(|| {
        let forward = "net.ipv4.ip_forward";
        let is = |value: &str| run("sysctl", &["-n", forward], "").trim() == value;
        run("sysctl", &["-qw", &format!("{forward}=0")], "");
        let daemon = Daemon::start("sysctls", &["--sysctls=apply"]);
        eventually("the setting", || is("1"));
        // It is set before the rules, and told after them.
        eventually("the word of it", || {
            let said = "name=net.ipv4.ip_forward value=1 old=0";
            daemon.log().contains(said)
        });
        run("sysctl", &["-qw", &format!("{forward}=0")], "");
        daemon.signal("HUP");
        eventually("the setting again", || is("1"));
    });
}

#[test]
fn a_missing_sysctl_is_said_once() {
    in_namespace(|| {
        run("sysctl", &["-qw", "net.ipv4.ip_forward=0"], "");
        let daemon = Daemon::start("check", &["--sysctls=check"]);
        eventually("the warning", || {
            daemon.log().contains("sysctl net.ipv4.ip_forward")
        });
        daemon.signal("HUP");
        daemon.write(&service("10.254.0.11"));
        eventually("the change", || frontends().contains("10.254.0.11"));
        assert_eq!(
            daemon.log().matches("sysctl net.ipv4.ip_forward").count(),
            1
        );
        assert_eq!(
            run("sysctl", &["-n", "net.ipv4.ip_forward"], "").trim(),
            "0"
        );
    });
}

#[test]
fn long_reads_give_a_sign_of_life_with_each_page() {
    in_namespace(|| {
        let _daemon = Daemon::start("pages", &[]);
        let mut kernel = svcnat::netlink::Nfnetlink::open().unwrap();
        let pages = std::rc::Rc::new(std::cell::Cell::new(0));
        let counted = std::rc::Rc::clone(&pages);
        kernel.on_progress(Box::new(move || counted.set(counted.get() + 1)));
        let live = kernel.read(FOLLOWING).unwrap();
        let sets: usize = live.tables.values().map(|table| table.sets.len()).sum();
        assert!(
            sets > 0 && pages.get() > sets,
            "{} pages, {sets} sets",
            pages.get()
        );
    });
}
