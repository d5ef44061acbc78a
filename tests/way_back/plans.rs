//! Plans in files: exactly that is done, or nothing.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use crate::lab::{self, Lab, Said, after, before};

/// Makes a plan of `input` in `plan.json`.
fn plan(lab: &Lab, input: &str) -> Said {
    lab.file("input.yaml", input);
    let verb = ["diff", "--out", "plan.json", "-f", "input.yaml"];
    lab.svcnat(&[&verb[..], &lab::SETTINGS].concat())
}

fn apply(lab: &Lab) -> Said {
    // From another folder: names are those of the folder where it was made.
    let plan = lab.folder.join("plan.json");
    lab.command(&["apply", plan.to_str().unwrap()])
        .current_dir("/")
        .output()
        .unwrap()
        .into()
}

#[test]
fn a_plan_is_carried_out_once() {
    let lab = Lab::new("plan");
    lab.apply(before());
    plan(&lab, after())
        .expect(1)
        .names("svcnat apply plan.json");
    apply(&lab).expect(0);
    lab.is(after());
    // It leads back like any other.
    let said = apply(&lab).expect(3);
    let said = said
        .names("the ruleset, from generation")
        .names("in our tables ");
    assert!(
        said.err.contains("set cluster-ips of ip svcnat differs"),
        "{said:?}"
    );
    lab.svcnat(&["rollback"]).expect(0);
    lab.is(before());
}

#[test]
fn an_input_that_moved_is_named_and_nothing_is_done() {
    let lab = Lab::new("moved");
    lab.apply(before());
    let old = lab.state();
    plan(&lab, after()).expect(1);
    lab.file("input.yaml", &after().replace("10.244.9.9", "10.244.9.10"));
    apply(&lab)
        .expect(2)
        .names("an input moved since: input.yaml changed");
    fs::remove_file(lab.folder.join("input.yaml")).unwrap();
    apply(&lab)
        .expect(2)
        .names("cannot be read any more")
        .names("input.yaml");
    assert_eq!(lab.state(), old);
    // Back as it was, it is the plan's again.
    lab.file("input.yaml", after());
    apply(&lab).expect(0);
}

#[test]
fn a_file_that_comes_to_a_folder_is_named() {
    let lab = Lab::new("folder");
    fs::create_dir(lab.folder.join("all")).unwrap();
    lab.file("all/a.yaml", before());
    let verb = ["diff", "--out", "plan.json", "-f", "all"];
    lab.svcnat(&[&verb[..], &lab::SETTINGS].concat()).expect(1);
    lab.file("all/b.yaml", lab::SECOND);
    apply(&lab).expect(2).names("all/b.yaml is new");
    assert!(!lab.state().contains("svcnat"));
}

#[test]
fn a_generation_that_moved_is_told_with_whose_doing_it_is() {
    let lab = Lab::new("gen");
    lab.apply(before());
    plan(&lab, after()).expect(1);
    lab.nft("add table ip theirs");
    let old = lab.state();
    apply(&lab)
        .expect(3)
        .names("our tables are as they were, but somebody committed");
    assert_eq!(lab.state(), old);
    plan(&lab, after()).expect(1);
    lab.nft("delete element ip svcnat cluster-ips { 10.96.0.10 }");
    apply(&lab)
        .expect(3)
        .names("in our tables set cluster-ips of ip svcnat differs");
}

#[test]
fn routes_and_settings_that_moved_are_told() {
    let lab = Lab::new("routes");
    lab.apply(before());
    plan(&lab, after()).expect(1);
    let gone = lab
        .exec("ip")
        .args(["route", "del", "10.244.9.0/24"])
        .status();
    assert!(gone.unwrap().success());
    lab.ip_forward("0");
    apply(&lab)
        .expect(3)
        .names("our routes")
        .names("kernel settings");
}

#[test]
fn a_plan_of_elsewhere_or_edited_is_refused() {
    let lab = Lab::new("edited");
    lab.apply(before());
    plan(&lab, after()).expect(1);
    let file = lab.folder.join("plan.json");
    let whole = fs::read_to_string(&file).unwrap();
    fs::write(&file, whole.replace("10.244.9.9", "10.244.9.6")).unwrap();
    apply(&lab)
        .expect(2)
        .names("was changed after it was written");
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    apply(&lab).expect(2).names("not all of it is there");
    fs::copy(lab.folder.join("input.yaml"), &file).unwrap();
    apply(&lab).expect(2).names("manifests are given with -f");
    let other = Lab::new("edited2");
    fs::write(other.folder.join("plan.json"), whole).unwrap();
    apply(&other).expect(2).names("another network namespace");
}

#[test]
fn what_standard_input_held_is_kept_with_the_plan() {
    let lab = Lab::new("stdin");
    let mut child = lab
        .command(&["diff", "--out", "plan.json", "-f", "-", "-q"])
        .args(lab::SETTINGS)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(before().as_bytes()).unwrap();
    drop(stdin);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(1));
    apply(&lab).expect(0);
    lab.is(before());
}

#[test]
fn a_plan_may_have_to_be_confirmed() {
    let lab = Lab::new("both");
    lab.apply(before());
    let old = lab.state();
    plan(&lab, after()).expect(1);
    let said = lab.svcnat(&["apply", "plan.json", "--confirm", "1s"]);
    said.expect(3).names("the state before is back");
    assert_eq!(lab.state(), old);
}

#[test]
fn a_plan_has_its_own_inputs() {
    let lab = Lab::new("own");
    lab.file("input.yaml", before());
    for more in [
        "--filename=input.yaml",
        "--config=c.yaml",
        "--skip-invalid",
        "--node-name=n9",
    ] {
        let said = lab.svcnat(&["apply", "plan.json", more]).expect(2);
        said.names("cannot be used with");
    }
}

#[test]
fn a_plan_that_cannot_be_kept_where_it_was_asked_for_is_bad_usage() {
    let lab = Lab::new("nowhere");
    lab.file("input.yaml", after());
    for nowhere in ["no-such-folder/plan.json", "input.yaml/plan.json", "."] {
        let verb = ["diff", "--out", nowhere, "-f", "input.yaml"];
        let said = lab.svcnat(&[&verb[..], &lab::SETTINGS].concat());
        said.expect(2).names("--out: ");
    }
}
