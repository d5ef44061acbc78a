//! What a newcomer meets first: the scripts, on machines that lack something.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A folder of commands that stand in for the machine's own; gone when dropped.
struct Machine(PathBuf);

impl Machine {
    fn new(name: &str) -> Self {
        let folder =
            std::env::temp_dir().join(format!("svcnat-scripts-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let machine = Self(folder);
        // Whatever is asked of these is written down.
        machine.command("apt-get", "echo apt-get \"$@\" >>\"$STUBS/log\"");
        machine.command("curl", "echo curl \"$@\" >>\"$STUBS/log\"; exit 6");
        // The real ones must not be found behind these.
        machine.command("cargo", "exit 127");
        machine
    }

    fn command(&self, name: &str, body: &str) {
        let path = self.0.join(name);
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// What Debian offers: package and version.
    fn debian_has(&self, packages: &[(&str, &str)]) {
        let mut body = "case $2 in\n".to_owned();
        for (package, version) in packages {
            body.push_str(&format!(
                "{package}) echo \"{package}:\"; echo \"  Installed: (none)\"; echo \"  Candidate: {version}\" ;;\n"
            ));
        }
        body.push_str("esac");
        self.command("apt-cache", &body);
    }

    fn log(&self) -> String {
        fs::read_to_string(self.0.join("log")).unwrap_or_default()
    }

    fn run(&self, script: &str, args: &[&str]) -> Output {
        Command::new("bash")
            .arg(root().join(script))
            .args(args)
            .env(
                "PATH",
                format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", self.0.display()),
            )
            .env("CARGO_HOME", &self.0)
            .env("STUBS", &self.0)
            .output()
            .unwrap()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_rust_of_debian_that_is_too_old_is_named_and_not_installed() {
    let machine = Machine::new("old");
    machine.debian_has(&[("rustc", "1.63.0+dfsg1-2")]);
    let output = machine.run("scripts/setup", &["build"]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("Debian's Rust is 1.63.0"), "{said}");
    let log = machine.log();
    assert!(!log.contains("install"), "{log}");
    assert!(
        log.contains("curl"),
        "the makers' installer is tried: {log}"
    );
}

#[test]
fn a_rust_of_debian_that_fits_is_installed_and_nobody_else_is_asked() {
    let machine = Machine::new("fits");
    machine.debian_has(&[("rustc", "1.89.0+dfsg1-1")]);
    machine.command(
        "apt-get",
        "echo apt-get \"$@\" >>\"$STUBS/log\"\n\
         echo 'echo cargo 1.89.0' >\"$STUBS/cargo\"",
    );
    let output = machine.run("scripts/setup", &["build"]);
    let log = machine.log();
    assert!(output.status.success(), "{}", said(&output));
    assert!(
        log.contains("install --no-install-recommends cargo "),
        "{log}"
    );
    assert!(!log.contains("curl"), "{log}");
}

#[test]
fn debians_rustup_is_taken_where_its_rust_is_too_old() {
    let machine = Machine::new("rustup");
    machine.debian_has(&[("rustc", "1.85.0+dfsg3-1"), ("rustup", "1.27.1-3")]);
    machine.command(
        "apt-get",
        "echo apt-get \"$@\" >>\"$STUBS/log\"\n\
         echo 'echo cargo 1.90.0' >\"$STUBS/cargo\"\n\
         printf '#!/bin/sh\\necho rustup \"$@\" >>\"$STUBS/log\"\\n' >\"$STUBS/rustup\"\n\
         chmod +x \"$STUBS/rustup\"",
    );
    let output = machine.run("scripts/setup", &["build"]);
    let log = machine.log();
    assert!(output.status.success(), "{}", said(&output));
    assert!(log.contains("--no-install-recommends rustup"), "{log}");
    assert!(log.contains("rustup toolchain install stable"), "{log}");
    assert!(!log.contains("curl"), "{log}");
}

#[test]
fn a_demo_that_has_to_build_says_what_it_lacks() {
    let machine = Machine::new("builds");
    machine.debian_has(&[("rustc", "1.63.0+dfsg1-2")]);
    let output = machine.run("scripts/demo", &[]);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("no Rust 1.89 or later"), "{said}");
}

#[test]
fn the_oldest_rust_of_setup_is_that_of_the_package() {
    let setup = fs::read_to_string(root().join("scripts/setup")).unwrap();
    let oldest = setup
        .lines()
        .find_map(|line| line.strip_prefix("svcnat_setup_rust="))
        .unwrap();
    assert_eq!(oldest, env!("CARGO_PKG_RUST_VERSION"));
}

#[test]
fn the_demo_with_a_program_passes_without_rust_and_without_the_machines_name_in_hosts() {
    let machine = Machine::new("demo");
    // It makes its lab and asks around in it by itself.
    for other in ["ip", "nft", "python3"] {
        machine.command(
            other,
            &format!("echo {other} \"$@\" >>\"$STUBS/log\"; exit 127"),
        );
    }
    let hosts = machine.0.join("hosts");
    fs::write(&hosts, "127.0.0.1 localhost\n").unwrap();
    let script = format!(
        "mount --bind {} /etc/hosts && hostname nobody-knows.example.net && \
         exec {}/scripts/demo --binary {}",
        hosts.display(),
        root().display(),
        env!("CARGO_BIN_EXE_svcnat"),
    );
    let output = Command::new("unshare")
        .args(["--mount", "--uts", "bash", "-c", &script])
        .env(
            "PATH",
            format!("{}:/usr/sbin:/usr/bin:/sbin:/bin", machine.0.display()),
        )
        .env("CARGO_HOME", &machine.0)
        .env("STUBS", &machine.0)
        .output()
        .unwrap();
    let said = said(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("demo: all 27 checks passed"), "{said}");
    assert_eq!(
        machine.log(),
        "",
        "nothing is installed, and no other program asked"
    );
}

#[test]
fn what_is_no_program_is_refused_before_anything_is_made() {
    let machine = Machine::new("binary");
    for path in ["/etc/passwd", "/nowhere/svcnat"] {
        let output = machine.run("scripts/demo", &["--binary", path]);
        let said = said(&output);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(path), "{said}");
    }
}
