//! `stage run`: runs the steps of a stage file.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use super::caching::StageCache;
use super::check;
use super::own::{Afterwards, Mounted};
use crate::cli::output::{Trouble, note, print, print_json};
use crate::cli::place::Place;
use crate::cli::policy;
use crate::control::{WhereStage, find};
use crate::drive::{self, Halt, Report, Setting, Stream};
use crate::error::Error;
use crate::stagefile;

/// Run the steps of a stage file: Harness CI's stage YAML, with a `workspace:` block of our own.
///
/// Each step runs in a view of its own, and is merged when it succeeds; what runs at once is merged
/// together, in the order of the file. Without a stage, one is mounted for the run, with the paths
/// of the file, and unmounted at the end: the directories are as before then, and what the stage
/// made of them is gone unless --apply, --export or --keep says otherwise. A stage that is mounted
/// already is used, and stays mounted.
///
/// The output of each step has its name in front. At the end a table says what became of the steps.
///
/// The exit code is 0 if every step succeeded, or its failure was ignored; 1 if one failed; 2 for a
/// mistake in the file, and then nothing was run; 4 if a conflict kept steps from being merged;
/// 128+N if signal N (^C) ended the stage: commands get it, and nothing of them is merged.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  harness-fs stage run --check stage.yaml
  harness-fs stage run stage.yaml --workspace . --apply .
  harness-fs stage run stage.yaml --var pipeline.variables.tag=1.2 --keep
  harness-fs mount && harness-fs stage run stage.yaml    # in a stage that stays

docs/stage-file.md describes the file.")]
pub struct Arguments {
    /// The stage file; `-` is standard input.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Only look at the file: what is wrong with it, and what would run.
    #[arg(long, conflicts_with_all = ["apply", "export", "keep"])]
    check: bool,
    /// The value of an expression `<+NAME>` that comes from outside of the stage, such as
    /// pipeline.variables.tag=1.2 or secrets.getValue("npm")=x; may be repeated.
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = stagefile::variable)]
    variables: Vec<(String, String)>,
    /// Which stage, if the file is a pipeline with several: its identifier or name.
    #[arg(long, value_name = "NAME")]
    pipeline_stage: Option<String>,
    /// The workspace, in place of the one that the file says.
    #[arg(long, value_name = "DIR")]
    workspace: Option<PathBuf>,
    /// If every step succeeds, write the workspace into this directory at the end, as `unmount
    /// --apply` does. The workspace itself is possible.
    #[arg(long, value_name = "DIR")]
    apply: Option<PathBuf>,
    /// Write every mapped path, each below its own name; see `unmount`.
    #[arg(long, requires = "apply")]
    all: bool,
    /// Remove what is there besides.
    #[arg(long, requires = "apply")]
    replace: bool,
    /// If every step succeeds, export the stage at the end, as an OCI image layout in this
    /// directory; see `export`.
    #[arg(long, value_name = "DIR")]
    export: Option<PathBuf>,
    /// Leave the stage mounted, to look around; `unmount` ends it.
    #[arg(long)]
    keep: bool,
    /// How long processes that are told to end have until they are killed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = policy::duration)]
    grace: Duration,
    /// Print what became of the steps as JSON; what they print goes to standard error then.
    #[arg(long)]
    json: bool,
}

/// Carries it out.
///
/// # Errors
/// One sentence, or what is wrong with the file.
pub fn run(arguments: &Arguments, place: &Place) -> Result<u8, Trouble> {
    let mut stage = check::read(
        &arguments.file,
        &arguments.variables,
        arguments.pipeline_stage.clone(),
    )?;
    if let Some(workspace) = &arguments.workspace {
        stage.workspace.path = crate::cli::place::absolute(workspace)?;
    }
    stage.notices.iter().for_each(|notice| note(&notice.text));
    // One that is mounted has its paths, which are compared.
    if arguments.check || !matches!(find(&place.state_dir), WhereStage::Socket) {
        check::paths(&stage, &arguments.file, &place.state_dir)?;
    }
    if arguments.check {
        return check::tell(&stage, arguments.json);
    }
    let afterwards = Afterwards {
        apply: arguments.apply.clone(),
        all: arguments.all,
        replace: arguments.replace,
        export: arguments.export.clone(),
        keep: arguments.keep,
    };
    let mut caching = StageCache::of(&stage)?;
    // Before: what a signal finds mounted for the run is unmounted.
    let halt = Halt::new(arguments.grace);
    halt.on_signals()?;
    let mut mounted = Mounted::find_or_mount(&stage, place, &afterwards)?;
    if let Some(caching) = &mut caching
        && let Err(trouble) = caching.restore(place)
    {
        mounted.finish(&stage, false)?;
        return Err(trouble);
    }
    let setting = Setting {
        state_dir: place.state_dir.clone(),
        label: place.label.clone(),
        file: arguments.file.display().to_string(),
        grace: arguments.grace,
        stream: match arguments.json {
            true => Stream::Err,
            false => Stream::Out,
        },
        tell: note,
    };
    let report = drive::run(&stage, &setting, halt);
    let (report, trouble) = match report {
        Ok(report) => (Some(report), None),
        Err(refused) => (None, Some(Trouble::from(refused))),
    };
    if let Some(report) = &report
        && mounted.goes()
        && report.keeps_layers()
    {
        note(
            "what is kept of steps goes with the stage; with --keep it stays mounted, to look at them",
        );
    }
    let succeeded = report.as_ref().is_some_and(|report| report.succeeded);
    let saved = match &mut caching {
        Some(caching) => caching.save(place, succeeded),
        None => Ok(()),
    };
    let finished = mounted.finish(&stage, succeeded);
    if finished.is_err() && succeeded {
        mounted.tell_what_stays();
    }
    if let Some(report) = report {
        tell(&report, &mounted, caching.as_ref(), arguments.json)?;
        finished?;
        saved?;
        return Ok(report.code);
    }
    finished?;
    Err(trouble.unwrap_or_else(|| Trouble::new(1, "the stage was not run")))
}

fn tell(
    report: &Report,
    mounted: &Mounted,
    caching: Option<&StageCache>,
    json: bool,
) -> Result<(), Trouble> {
    if let Some(error) = &report.error {
        note(error);
    }
    if json {
        let mut data = serde_json::to_value(report).map_err(Error::from)?;
        if let Value::Object(fields) = &mut data {
            fields.insert("stage".to_owned(), json!(mounted.label()));
            fields.insert("mounted".to_owned(), json!(mounted.stays()));
            fields.insert("cache".to_owned(), json!(caching.map(StageCache::told)));
        }
        return print_json(&data);
    }
    print("")?;
    print(&report.table())
}
