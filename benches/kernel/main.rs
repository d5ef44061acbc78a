//! Measures svcnat against a real kernel and against what else one could load into it.
//! Run it by `scripts/bench`, as root; everything happens in network namespaces of its own.

mod cluster;
mod control;
mod data;
mod dispatch;
mod lab;
mod peers;
mod report;
mod setups;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use report::Report;

/// As in the program that is measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Runs `body` on a thread in a new network namespace.
fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let inside = scope.spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace (root)");
            body()
        });
        inside.join().expect("no panic inside")
    })
}

/// A file for this run.
fn scratch(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("svcnat-bench-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a scratch folder");
    folder.join(name)
}

fn run(command: &str, args: &[&str]) {
    let output = Command::new(command).args(args).output().expect(command);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command} {args:?}: {error}");
}

/// Loads a file with nft; returns how long that took.
fn nft_file(file: &Path) -> Duration {
    let start = Instant::now();
    run("nft", &["-f", &file.display().to_string()]);
    start.elapsed()
}

/// Loads a file with iptables-restore, if there is one.
fn restore_file(file: &Path) -> Option<Duration> {
    Command::new("iptables-restore")
        .arg("--version")
        .output()
        .ok()?;
    let start = Instant::now();
    run("iptables-restore", &[&file.display().to_string()]);
    Some(start.elapsed())
}

fn main() {
    let args: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let has = |flag: &str| args.iter().any(|a| a == flag);
    let out = args
        .iter()
        .position(|a| a == "--out")
        .and_then(|i| args.get(i + 1));
    let out = out.map_or_else(|| PathBuf::from("target/bench"), PathBuf::from);
    let mut report = Report::default();
    if let Some(at) = args.iter().position(|a| a == "--size") {
        let number = |i: usize| args.get(at + i).and_then(|n| n.parse().ok());
        let (Some(services), Some(endpoints)) = (number(1), number(2)) else {
            eprintln!("--size needs two numbers: services, and endpoints of each");
            std::process::exit(2);
        };
        control::measure(&mut report, services, endpoints, 1, false);
        control::memory(&mut report, services, endpoints);
        report.finish(&out);
        return std::fs::remove_dir_all(scratch("")).expect("the scratch folder");
    }
    if has("--grid") {
        for services in [100, 1_000, 10_000, 50_000, 100_000] {
            for endpoints in [1, 5, 10] {
                control::measure(&mut report, services, endpoints, 1, false);
            }
        }
        report.finish(&out);
        return std::fs::remove_dir_all(scratch("")).expect("the scratch folder");
    }
    let (quick, large) = (has("--quick"), has("--large"));
    let rounds = if quick { 3 } else { 5 };
    if !has("--data") {
        control_plane(&mut report, quick, large, rounds);
    }
    let sizes: &[usize] = if quick {
        &[1, 1_000]
    } else {
        &[1, 1_000, 10_000]
    };
    for services in sizes.iter().copied().filter(|n| *n > 1) {
        dispatch::changes(&mut report, services);
    }
    if !quick {
        dispatch::changes(&mut report, 50_000);
    }
    data::measure(&mut report, sizes, rounds);
    report.finish(&out);
    std::fs::remove_dir_all(scratch("")).expect("the scratch folder");
}

fn control_plane(report: &mut Report, quick: bool, large: bool, rounds: usize) {
    for (services, endpoints) in [(100, 5), (1_000, 1), (1_000, 5), (1_000, 10), (10_000, 5)] {
        let main_size = services == 10_000 || endpoints == 5;
        if quick && !main_size {
            continue;
        }
        let peers = main_size && (!quick || services <= 1_000);
        control::measure(report, services, endpoints, rounds, peers);
    }
    if !quick {
        control::measure(report, 50_000, 5, 2, false);
        control::giant(report, 100_000);
    }
    if large {
        control::measure(report, 100_000, 10, 1, false);
    }
    control::counters(report, if quick { 1_000 } else { 10_000 }, 5, rounds);
    control::memory(report, 10_000, 5);
}
