//! Which stage is meant.

use std::ffi::OsString;
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;

use super::output::{Trouble, expect_report, note};
use crate::control::{Client, Patience, Problem, Reply, Request};
use crate::export::target;
use crate::sys::location::lies_in;
use crate::sys::mountinfo::{self, Mount};
use crate::tree::shown::{path_of, shown};

/// How long `status` waits for a daemon that does not answer.
const STATUS_WAIT: Duration = Duration::from_secs(10);
/// Where stages lie that are known by name.
const STAGES: &str = "/var/lib/harness-fs";

/// The stage that is meant when nothing says which.
const DEFAULT: &str = "default";
/// Says which stage is meant where no option does.
const STAGE_VARIABLE: &str = "HARNESS_FS_STAGE";
/// The same, by its directory; comes before the name.
const STATE_DIR_VARIABLE: &str = "HARNESS_FS_STATE_DIR";

/// Which stage is meant.
///
/// The variables are read here and not by clap, which does not tell them from
/// options: an option has to win over either variable.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The stage; there can be several at a time, for different paths
    /// [env: HARNESS_FS_STAGE] [default: default]
    #[arg(long, global = true, value_name = "NAME", help_heading = "Which stage")]
    stage: Option<String>,
    /// Where the stage keeps its state, in place of /var/lib/harness-fs/NAME
    /// [env: HARNESS_FS_STATE_DIR]
    #[arg(long, global = true, value_name = "DIR", help_heading = "Which stage")]
    state_dir: Option<PathBuf>,
}

/// Where a stage is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its state directory, absolute, without symbolic links.
    pub state_dir: PathBuf,
    /// What messages call it: a name, or the directory. It names its mounts
    /// too, so no two stages have the same.
    pub label: String,
}

impl Which {
    /// Finds the place: an option comes before a variable; an empty variable
    /// is none.
    ///
    /// # Errors
    /// A name or directory that cannot be one, or both options.
    pub fn resolve(self) -> Result<Place, Trouble> {
        self.resolve_in(|name| std::env::var_os(name))
    }

    fn resolve_in(self, variable: impl Fn(&str) -> Option<OsString>) -> Result<Place, Trouble> {
        let variable = |name| variable(name).filter(|value| !value.is_empty());
        match (self.stage, self.state_dir) {
            (Some(_), Some(_)) => Err(Trouble::new(
                2,
                "--stage and --state-dir both say which stage is meant: give one of them",
            )),
            (None, Some(given)) => at(&given),
            (Some(name), None) => named(&name),
            (None, None) => match (variable(STATE_DIR_VARIABLE), variable(STAGE_VARIABLE)) {
                (Some(given), _) => at(Path::new(&given)),
                (None, Some(name)) => named(&name.to_string_lossy()),
                (None, None) => named(DEFAULT),
            },
        }
    }
}

fn at(given: &Path) -> Result<Place, Trouble> {
    let usage = |why: &str| {
        let text = format!("the state directory '{}' {why}", shown(given));
        Err(Trouble::new(2, text))
    };
    if given.as_os_str().is_empty() {
        return usage("is empty");
    }
    if given.to_str().is_none() {
        return usage("is not UTF-8");
    }
    let Ok(absolute) = std::path::absolute(given) else {
        return usage("has no absolute form");
    };
    if absolute
        .components()
        .any(|part| part == Component::ParentDir)
    {
        return usage("contains '..'");
    }
    let state_dir = real(&absolute)?;
    if state_dir == Path::new("/") {
        return usage("is the root");
    }
    if state_dir.to_str().is_none() {
        return usage("leads to a path that is not UTF-8");
    }
    if state_dir.exists() && !state_dir.is_dir() {
        return usage("is not a directory: name one, or a path where nothing is");
    }
    let name = state_dir.strip_prefix(real(Path::new(STAGES))?).ok();
    let label = match name.filter(|name| name.components().count() == 1) {
        Some(name) => name.to_string_lossy().into_owned(),
        None => state_dir.to_string_lossy().into_owned(),
    };
    Ok(Place { state_dir, label })
}

/// Where a state directory really lies: the kernel lists mounts by that path
/// (proc_pid_mountinfo(5)), and a stage is known by them.
fn real(dir: &Path) -> Result<PathBuf, Trouble> {
    match target::settle(dir) {
        // Without `.`, `//` and a slash at the end. Who may not go there is told so later.
        Err(error) if error.errno() == Errno::EACCES => Ok(dir.components().collect()),
        Err(error) => Err(Trouble::new(2, format!("the state directory {error}"))),
        Ok(real) => Ok(real),
    }
}

fn named(name: &str) -> Result<Place, Trouble> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.starts_with('.') || name.len() > 100 || !name.chars().all(plain) {
        let text = format!(
            "'{name}' cannot be the name of a stage: up to 100 letters, digits, '.', '_' and '-', not beginning with '.'"
        );
        return Err(Trouble::new(2, text));
    }
    at(&Path::new(STAGES).join(name))
}

impl Place {
    /// Connects to the stage's daemon.
    ///
    /// # Errors
    /// No stage, no daemon.
    pub fn connect(&self) -> Result<Client, Problem> {
        self.connect_within(None)
    }

    /// As [`Place::connect`], and gives up after a time.
    ///
    /// # Errors
    /// No stage, no daemon, no answer.
    pub fn connect_within(&self, limit: Option<Duration>) -> Result<Client, Problem> {
        let patience = Patience { tell: note, limit };
        Client::connect(&self.state_dir, &self.label, patience)
    }

    /// As [`Place::connect`], and inside of a step too, for what steps may ask.
    ///
    /// # Errors
    /// As [`Place::connect`].
    pub fn connect_from_steps(&self) -> Result<Client, Problem> {
        let patience = Patience {
            tell: note,
            limit: None,
        };
        Client::connect_from_steps(&self.state_dir, &self.label, patience)
    }

    /// Asks the stage's daemon for the status, which it never makes anybody
    /// wait for: a daemon that does not answer is given up.
    ///
    /// # Errors
    /// As [`Place::ask`], or no answer.
    pub fn status(&self) -> Result<Reply, Problem> {
        self.connect_within(Some(STATUS_WAIT))?
            .ask(&Request::Status {})
    }

    /// Asks the stage's daemon for one thing.
    ///
    /// # Errors
    /// No stage, no daemon, another version.
    pub fn ask(&self, request: &Request) -> Result<Reply, Problem> {
        self.connect()?.ask(request)
    }

    /// The real path of a directory that the stage's tree is to be written to.
    /// What is equal to a part of the tree afterwards loses what it holds
    /// besides, and that must be neither the stage itself nor what it lies on.
    ///
    /// # Errors
    /// As [`absolute`]; a directory that holds a mapped path or the state.
    pub fn to_replace(
        &self,
        client: &mut Client,
        dir: &Path,
        all: bool,
        replace: bool,
    ) -> Result<PathBuf, Trouble> {
        let usage = |error: crate::error::Error| Trouble::new(2, error.to_string());
        let real = target::settle(&absolute(dir)?).map_err(usage)?;
        let (_, status) = expect_report(client.ask(&Request::Status {})?, false)?;
        let mapped = status["mapped"].as_array().into_iter().flatten();
        let mapped = mapped.filter_map(|path| path.as_str().map(path_of));
        let mapped: Vec<PathBuf> = mapped.collect();
        let below = |path: &PathBuf| real.join(path.strip_prefix("/").unwrap_or(path));
        let written: Vec<PathBuf> = match all {
            true => mapped.iter().map(below).collect(),
            false => vec![real.clone()],
        };
        if real.exists() && !real.is_dir() {
            let text = format!(
                "{} is not a directory: name one, or a path where nothing is",
                shown(&real)
            );
            return Err(Trouble::new(2, text));
        }
        let mounts = mountinfo::own()?;
        for place in &written {
            if lies_in(place, &self.state_dir, &mounts) {
                return Err(Trouble::new(
                    2,
                    format!(
                        "{} lies inside the state directory {}, which goes with the stage: choose another one",
                        shown(place),
                        shown(&self.state_dir)
                    ),
                ));
            }
            if let Some(taken) = self.taken(place, &mapped, &mounts) {
                return Err(Trouble::new(
                    2,
                    format!(
                        "writing the tree to {} would remove {}, for all else in a directory that \
                         it is written to is removed: choose another one",
                        shown(place),
                        shown(&taken)
                    ),
                ));
            }
            let own = match all {
                true => real == Path::new("/"),
                false => mapped.first() == Some(place),
            };
            if !own && !replace && target::holds_something(place).map_err(usage)? {
                return Err(Trouble::new(
                    2,
                    format!(
                        "{} is not empty: with --replace, all that it holds besides the tree is removed",
                        shown(place)
                    ),
                ));
            }
        }
        Ok(real)
    }

    /// What must not be removed, and would be where `place` is made equal to a tree.
    fn taken(&self, place: &Path, mapped: &[PathBuf], mounts: &[Mount]) -> Option<PathBuf> {
        let mut own = mapped.iter().chain([&self.state_dir]);
        let taken = own.find(|path| *path != place && lies_in(path, place, mounts));
        taken.cloned()
    }
}

/// The absolute form of a path that is sent to the daemon, which is elsewhere.
///
/// # Errors
/// An empty path, or one that is not UTF-8.
pub fn absolute(path: &Path) -> Result<PathBuf, Trouble> {
    if path.to_str().is_none() {
        return Err(Trouble::new(2, format!("'{}' is not UTF-8", shown(path))));
    }
    std::path::absolute(path)
        .map_err(|error| Trouble::new(2, format!("'{}': {error}", shown(path))))
}

/// The absolute form of a path in the stage's tree. Nothing is looked up, for what
/// is meant may not be there any more; so `..` takes away the name before it.
///
/// # Errors
/// An empty path, or a relative one without a current directory.
pub fn in_tree(path: &Path) -> Result<PathBuf, Trouble> {
    let absolute = std::path::absolute(path)
        .map_err(|error| Trouble::new(2, format!("the path '{}': {error}", shown(path))))?;
    let mut plain = PathBuf::new();
    for component in absolute.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            other => plain.push(other),
        }
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With these options, and these variables.
    fn place(options: [Option<&str>; 2], variables: [Option<&str>; 2]) -> Result<Place, Trouble> {
        let arguments = Which {
            stage: options[0].map(str::to_owned),
            state_dir: options[1].map(PathBuf::from),
        };
        arguments.resolve_in(|name| match name {
            "HARNESS_FS_STAGE" => variables[0].map(OsString::from),
            "HARNESS_FS_STATE_DIR" => variables[1].map(OsString::from),
            _ => None,
        })
    }

    #[test]
    fn one_place_has_one_label() {
        let none = [None, None];
        let default = place(none, none).expect("place");
        assert_eq!(default.state_dir, Path::new("/var/lib/harness-fs/default"));
        let same = place([None, Some("/var/lib/./harness-fs//default/")], none);
        assert_eq!(default, same.expect("place"));
        let elsewhere = place([None, Some("/x/state")], none).expect("place");
        assert_eq!(elsewhere.label, "/x/state");
    }

    #[test]
    fn an_option_comes_before_a_variable_and_a_directory_before_a_name() {
        let both = [Some("v"), Some("/v")];
        let label = |options, variables| place(options, variables).expect("place").label;
        assert_eq!(label([Some("o"), None], both), "o");
        assert_eq!(label([None, Some("/o")], both), "/o");
        assert_eq!(label([None, None], both), "/v");
        assert_eq!(label([None, None], [Some("v"), Some("")]), "v");
        assert_eq!(label([None, None], [Some(""), Some("")]), "default");
        let refused = place([Some("o"), Some("/o")], [None, None]);
        assert_eq!(refused.expect_err("both").code, 2);
    }

    #[test]
    fn paths_in_the_tree_need_not_be_there() {
        let here = std::env::current_dir().unwrap();
        let plain = |path: &str| in_tree(Path::new(path)).unwrap();
        assert_eq!(plain("/no//such/../x/./"), Path::new("/no/x"));
        assert_eq!(plain("/../.."), Path::new("/"));
        assert_eq!(plain("a/../b"), here.join("b"));
        assert_eq!(plain(".."), here.parent().unwrap());
        assert_eq!(in_tree(Path::new("")).expect_err("empty").code, 2);
    }

    #[test]
    fn names_that_are_no_directories_are_refused() {
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ü"] {
            let refused = place([Some(bad), None], [None, None]);
            assert_eq!(refused.expect_err("refused").code, 2, "{bad}");
        }
        for bad in ["", "/", "/x/../y"] {
            let refused = place([None, Some(bad)], [None, None]);
            assert_eq!(refused.expect_err("refused").code, 2, "{bad}");
        }
    }
}
