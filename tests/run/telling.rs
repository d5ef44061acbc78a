//! What the agent says: to the service manager, by its servers, in its log.

use std::time::{Duration, Instant};

use crate::harness::{Daemon, eventually, fetch, frontends, service};
use crate::support::{in_namespace, run};

#[test]
fn the_service_manager_hears_of_start_changes_life_and_stop() {
    in_namespace(|| {
        let mut daemon = Daemon::start("manager", &[]);
        assert_eq!(daemon.told(), "READY=1");
        let first = daemon.told();
        assert!(first.starts_with("STATUS=1 services, "), "{first}");
        let other = service("10.254.0.11")
            .replace("name: a", "name: b")
            .replace("service-name: a", "service-name: b");
        daemon.write(&format!("{}---\n{other}", service("10.254.0.10")));
        let second = daemon.told();
        assert!(second.starts_with("STATUS=2 services, "), "{second}");
        // Not more than needed for a watchdog of a second, and not less.
        let start = Instant::now();
        (0..4).for_each(|_| assert_eq!(daemon.heard(), "WATCHDOG=1"));
        let took = start.elapsed();
        let expected = Duration::from_millis(700)..Duration::from_millis(3000);
        assert!(expected.contains(&took), "{took:?}");
        daemon.stop();
        assert_eq!(daemon.told(), "STOPPING=1");
    });
}

#[test]
fn a_hanging_process_shows_no_life() {
    in_namespace(|| {
        let daemon = Daemon::start("hang", &[]);
        daemon.signal("STOP");
        daemon.manager.set_nonblocking(true).unwrap();
        let mut buffer = [0; 256];
        while daemon.manager.recv(&mut buffer).is_ok() {}
        std::thread::sleep(Duration::from_secs(1));
        assert!(daemon.manager.recv(&mut buffer).is_err());
        daemon.signal("CONT");
        eventually("life", || daemon.manager.recv(&mut buffer).is_ok());
    });
}

#[test]
fn a_service_manager_that_does_not_listen_stops_nothing() {
    in_namespace(|| {
        // So many datagrams wait at most; the next one blocks who sends it.
        run("sysctl", &["-qw", "net.unix.max_dgram_qlen=1"], "");
        let daemon = Daemon::start("deaf", &[]);
        std::thread::sleep(Duration::from_secs(1));
        daemon.write(&service("10.254.0.11"));
        eventually("the change", || frontends().contains("10.254.0.11"));
    });
}

#[test]
fn a_broken_file_is_told_by_readyz_state_metrics_and_log_until_it_is_good_again() {
    in_namespace(|| {
        let daemon = Daemon::start("told", &[]);
        eventually("the server", || {
            fetch(10256, "/readyz?verbose").contains("[+]source files ok")
        });
        let metric = "svcnat_condition{condition=\"source files\"} ";
        assert!(fetch(10249, "/metrics").contains(&format!("{metric}1")));
        let status = || run(env!("CARGO_BIN_EXE_svcnat"), &["status"], "");
        eventually("the commit", || {
            status().contains("\nagent       ready\ncommitted   20")
        });
        assert!(!status().contains("source files"), "{}", status());
        daemon.write("kind: [");
        eventually("the condition", || {
            fetch(10256, "/readyz?verbose").contains("[!]source files failing for ")
        });
        let ready = fetch(10256, "/readyz?verbose");
        assert!(ready.starts_with("HTTP/1.1 200"), "not stale yet: {ready}");
        assert!(ready.contains("a.yaml"), "{ready}");
        let state = fetch(10256, "/state");
        let said = status();
        assert!(
            said.contains("\nattention   source files: since 20"),
            "{said}"
        );
        let failing = state
            .split('{')
            .find(|part| part.contains("\"source files\""));
        let failing = failing.unwrap();
        assert!(
            failing.contains("\"status\":\"False\"") && failing.contains("a.yaml"),
            "{state}"
        );
        assert!(fetch(10249, "/metrics").contains(&format!("{metric}0")));
        // It is read again by itself meanwhile, and that is no news.
        std::thread::sleep(Duration::from_secs(4));
        assert_eq!(daemon.log().matches("the last good state stays").count(), 1);
        daemon.write(&service("10.254.0.11"));
        eventually("the good file", || frontends().contains("10.254.0.11"));
        eventually("the good news", || {
            daemon
                .log()
                .contains("\"well again\" condition=\"source files\"")
        });
        assert!(fetch(10256, "/readyz?verbose").contains("[+]source files ok"));
    });
}

#[test]
fn the_log_tells_what_started_which_services_changed_and_that_it_was_told_to_stop() {
    in_namespace(|| {
        let mut daemon = Daemon::start("tells", &["-vv", "--drift=report"]);
        let log = daemon.log();
        let banner = log.lines().find(|l| l.contains("svcnat starts")).unwrap();
        let version = concat!("version=", env!("CARGO_PKG_VERSION"));
        for part in [
            version,
            "node=n1",
            "sources=\"files: ",
            "drift=report",
            "10.254.0.0/16",
        ] {
            assert!(
                banner.to_lowercase().contains(part),
                "{part} is not in {banner}"
            );
        }
        let many: Vec<String> = (0..8)
            .map(|n| {
                let text = service(&format!("10.254.0.{}", 20 + n));
                text.replace("name: a", &format!("name: b{n}"))
            })
            .collect();
        daemon.write(&many.join("---\n"));
        eventually("the change", || frontends().contains("10.254.0.27"));
        eventually("the names", || daemon.log().contains("and 4 more"));
        daemon.stop();
        let log = daemon.log();
        let last = log.lines().last().unwrap();
        assert!(
            last.contains("told to stop") && last.contains("stay in force"),
            "{last}"
        );
        assert!(log.lines().count() < 40, "{log}");
    });
}
