//! Reads a stage file, and says what is wrong with it or what would run.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::json;

use crate::cli::output::{Trouble, print, print_json};
use crate::drive;
use crate::stage::{Failure, mapped};
use crate::stagefile::{self, Given, Problem, Stage};
use crate::tree::shown::shown;

/// Longer ones are no stage files.
const LONGEST: u64 = 16 << 20;

/// Reads a file, or standard input for `-`.
///
/// # Errors
/// What the file cannot be read for, or all that is wrong with it, a line each.
pub fn read(
    file: &Path,
    variables: &[(String, String)],
    stage: Option<String>,
) -> Result<Stage, Trouble> {
    let failed = |error: std::io::Error| {
        let error = crate::error::Error::from(error);
        Trouble::new(2, format!("{}: {error}", shown(file)))
    };
    let mut text = String::new();
    let read = match file == Path::new("-") {
        true => std::io::stdin().take(LONGEST).read_to_string(&mut text),
        false => {
            std::fs::File::open(file).and_then(|file| file.take(LONGEST).read_to_string(&mut text))
        }
    };
    read.map_err(failed)?;
    if text.len() as u64 >= LONGEST {
        let text = format!("{} is longer than 16 MiB: is it a stage file?", shown(file));
        return Err(Trouble::new(2, text));
    }
    let env = std::env::vars_os();
    let env =
        env.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let given = Given {
        stage,
        variables: variables.to_vec(),
        env: env.collect(),
    };
    stagefile::read(&text, &given).map_err(|problems| mistakes(file, &problems))
}

fn mistakes(file: &Path, problems: &[Problem]) -> Trouble {
    let file = shown(file);
    // As compilers do, so that editors find the places.
    for problem in problems {
        let _ = writeln!(std::io::stderr(), "{}", problem.in_file(&file));
    }
    let mistakes = match problems.len() {
        1 => "a mistake".to_owned(),
        more => format!("{more} mistakes"),
    };
    Trouble::new(2, format!("{file} has {mistakes}; nothing was run"))
}

/// Sees that the paths of the file can be mapped, beside each other and the state directory.
///
/// # Errors
/// Those that cannot, a line each.
pub fn paths(stage: &Stage, file: &Path, state_dir: &Path) -> Result<(), Trouble> {
    let workspace = &stage.workspace.path;
    mapped::resolve(workspace, &[], state_dir)?;
    let (mut good, mut problems) = (Vec::new(), Vec::new());
    for shared in &stage.shared_paths {
        good.push(shared.path.clone());
        match mapped::resolve(workspace, &good, state_dir) {
            Ok(_) => {}
            Err(Failure::Usage(what)) => {
                good.pop();
                problems.push(Problem::new(shared.place, what));
            }
            Err(failure) => return Err(failure.into()),
        }
    }
    match problems.is_empty() {
        true => Ok(()),
        false => Err(mistakes(file, &problems)),
    }
}

/// Says what would run.
///
/// # Errors
/// As write(2).
pub fn tell(stage: &Stage, json: bool) -> Result<u8, Trouble> {
    if json {
        let notices: Vec<&str> = stage
            .notices
            .iter()
            .map(|notice| notice.text.as_str())
            .collect();
        let shared: Vec<String> = stage
            .shared_paths
            .iter()
            .map(|path| shown(&path.path).into_owned())
            .collect();
        print_json(&json!({
            "name": stage.name,
            "workspace": shown(&stage.workspace.path),
            "shared_paths": shared,
            "notices": notices,
            "outline": drive::outline(stage),
        }))?;
    } else {
        print(&drive::outline(stage))?;
    }
    Ok(0)
}
