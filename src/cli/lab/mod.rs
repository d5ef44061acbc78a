//! `svcnat lab`: a service network on one machine, by name.

pub mod args;
mod ask;
mod folder;
mod keeper;
mod show;

use std::io::{Read as _, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use self::args::{ChangeArgs, DownArgs, ExecArgs, LabVerb, ListArgs, UpArgs};
pub use self::folder::{Folder, PlaceView, Reply, Request, View};
use super::args::Output;
use super::error::CliError;
use super::inputs;
use super::say::say;
use crate::lab::{Namespace, meant, place_name};
use crate::progress::Progress;

pub fn run(verb: &LabVerb, out: &mut impl Write) -> Result<u8, CliError> {
    match verb {
        LabVerb::Up(args) => up(args, out),
        LabVerb::Keep(args) => keeper::keep(args),
        LabVerb::Show(args) => show::run(args, out),
        LabVerb::List(args) => list(args, out),
        LabVerb::Exec(args) => exec(args),
        LabVerb::Ask(args) => ask::run(args, out),
        LabVerb::Change(args) => change(args),
        LabVerb::Down(args) => down(args),
    }
}

fn up(args: &UpArgs, out: &mut impl Write) -> Result<u8, CliError> {
    inputs::given(&args.inputs)?;
    let folder = Folder::of(&args.name)?;
    Progress::during("building the lab", keeper::start)?;
    let view = folder.view()?;
    show::draw(&view, out)?;
    Ok(0)
}

fn list(args: &ListArgs, out: &mut impl Write) -> Result<u8, CliError> {
    let labs = Folder::all()?;
    let views: Vec<(String, Option<View>)> = labs
        .iter()
        .map(|folder| {
            // One that is being built is not waited for.
            let view = folder.connect().ok().and_then(|_| folder.view().ok());
            (folder.name.clone(), view)
        })
        .collect();
    if args.output == Output::Json {
        let rows: Vec<_> = views
            .iter()
            .map(|(name, view)| json!({"name": name, "running": view.is_some(), "pid": view.as_ref().map(|v| v.pid)}))
            .collect();
        writeln!(out, "{}", json!(rows))?;
        return Ok(0);
    }
    for (folder, (name, view)) in labs.iter().zip(views) {
        match view {
            None if folder.is_alive() => writeln!(out, "{name}  is being built or taken down")?,
            None => writeln!(
                out,
                "{name}  ended: svcnat lab down --name {name} takes the rest away"
            )?,
            Some(view) => {
                let of = |kind: &str| {
                    view.places
                        .values()
                        .filter(|place| place.kind == kind)
                        .count()
                };
                let (nodes, pods) = (of("node"), of("pod"));
                writeln!(
                    out,
                    "{name}  {nodes} nodes, {pods} pods, process {}",
                    view.pid
                )?;
            }
        }
    }
    Ok(0)
}

/// The namespace of a place.
fn namespace(view: &View, place: &str) -> Result<PathBuf, CliError> {
    if let Some(found) = view.places.get(&place_name(place)) {
        return Ok(found.namespace.clone());
    }
    let near = meant(place, view.places.keys().map(String::as_str));
    Err(CliError::Usage(format!(
        "the lab {} has no {place}{near} (svcnat lab show)",
        view.name
    )))
}

fn exec(args: &ExecArgs) -> Result<u8, CliError> {
    let view = Folder::meant(args.lab.name.as_deref())?.view()?;
    let path = namespace(&view, &args.place)?;
    let entered = Namespace::open(&path).and_then(|namespace| namespace.move_in());
    entered.map_err(|error| CliError::Host(format!("cannot enter {}: {error}", args.place)))?;
    let Some((program, arguments)) = args.command.split_first() else {
        return Err(CliError::Usage(
            "a command is missing: -- COMMAND".to_owned(),
        ));
    };
    // It takes this process' place: its output, its terminal and its exit code are the program's.
    let error = Command::new(program).args(arguments).exec();
    let program = Path::new(program).display();
    Err(CliError::Usage(format!("cannot run {program}: {error}")))
}

fn change(args: &ChangeArgs) -> Result<u8, CliError> {
    let folder = Folder::meant(args.lab.name.as_deref())?;
    let mut files = Vec::new();
    let mut stdin = None;
    for path in &args.filename {
        if path.to_str() == Some("-") {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map_err(|error| CliError::Usage(format!("cannot read <stdin>: {error}")))?;
            stdin = Some(text);
            continue;
        }
        let whole = std::path::absolute(path);
        files.push(whole.map_err(|error| CliError::Usage(format!("{}: {error}", path.display())))?);
    }
    let request = Request::Change { files, stdin };
    if let Reply::Done { notes } = Progress::during("changing the lab", || folder.ask(&request))? {
        for note in notes {
            say(&format!("{note}\n"));
        }
    }
    Ok(0)
}

fn down(args: &DownArgs) -> Result<u8, CliError> {
    let labs = match (args.all, &args.lab.name) {
        (true, _) => Folder::all()?,
        (false, name) => vec![Folder::meant(name.as_deref())?],
    };
    for folder in labs {
        Progress::during("taking the lab down", || folder.down())?;
        say(&format!("the lab {} is gone\n", folder.name));
    }
    Ok(0)
}
