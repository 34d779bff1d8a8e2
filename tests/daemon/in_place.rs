//! `unmount --apply` to where the tree came from: the base is the old tree or
//! the new one, wherever it is cut off and whatever is in its way.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use harness_fs::stage::failpoint;
use nix::sys::signal::Signal;

use crate::fail_points::wait_for_stop_or_end;
use crate::rig::{self, Ran, Rig, alone, mounts, tool, tree};

/// What a directory holds, with the times.
type Tree = BTreeMap<String, String>;

/// More often than this no test goes through one point.
const TIMES: u32 = 4;

const SCRIPT: &str = "mv src renamed; rm readme link; echo more >> log; mkdir new; echo n > new/n; \
     ln new/n new/same; ln -s n new/link; chmod 750 new; touch .harness-fs-unmount .harness-fs-apply";

/// A workspace and two shared paths, a directory and a file.
struct Case<'a> {
    rig: &'a Rig,
    unmount: Vec<String>,
    base: Tree,
    /// What the base becomes.
    new: Tree,
}

fn shared(rig: &Rig) -> [PathBuf; 2] {
    [rig.path().join("cache"), rig.path().join("tool.json")]
}

fn paths(rig: &Rig) -> Vec<PathBuf> {
    [vec![rig.ws()], shared(rig).to_vec()].concat()
}

fn all(rig: &Rig) -> Tree {
    let mut found = Tree::new();
    for path in paths(rig) {
        let mut times = Command::new("find");
        times.arg(&path).args(["-printf", "%p %T@\n"]);
        let times = rig::start(times).end().out;
        for line in times.lines() {
            let (name, time) = line.rsplit_once(' ').unwrap();
            found.insert(name.to_owned(), time.to_owned());
        }
        if path.is_dir() {
            for (name, line) in tree(&path) {
                let name = path.join(name).display().to_string();
                found.get_mut(&name).unwrap().push_str(&line);
            }
        } else {
            let content = fs::read_to_string(&path).unwrap();
            found
                .get_mut(path.to_str().unwrap())
                .unwrap()
                .push_str(&content);
        }
    }
    found
}

fn script(rig: &Rig) -> String {
    let [cache, file] = shared(rig).map(|path| path.display().to_string());
    let ws = rig.ws().display().to_string();
    // The same each time it is run.
    let times =
        format!("find {ws} {cache} {file} -newermt 2005-01-01 -exec touch -h -d 2001-02-03 {{}} +");
    format!("{SCRIPT}; rm {cache}/a; echo b > {cache}/b; echo 2 >> {file}; {times}")
}

impl<'a> Case<'a> {
    fn new(rig: &'a Rig, every: bool) -> Case<'a> {
        let [cache, file] = shared(rig);
        fs::create_dir(&cache).unwrap();
        fs::write(cache.join("a"), "a").unwrap();
        fs::write(&file, "1\n").unwrap();
        for path in paths(rig) {
            let arguments = ["-exec", "touch", "-h", "-d", "2000-01-01", "{}", "+"];
            tool(
                "find",
                &[&[path.to_str().unwrap()], &arguments[..]].concat(),
            );
        }
        let saved = rig.path().join("saved");
        fs::create_dir(&saved).unwrap();
        for path in paths(rig) {
            tool(
                "cp",
                &["-a", path.to_str().unwrap(), saved.to_str().unwrap()],
            );
        }
        let base = all(rig);
        let to = if every { "/".into() } else { rig.ws() };
        let mut unmount = vec!["unmount".to_owned(), "--apply".to_owned()];
        unmount.push(to.display().to_string());
        if every {
            unmount.push("--all".to_owned());
        }
        let mut case = Case {
            rig,
            unmount,
            new: Tree::new(),
            base,
        };
        case.mount(None);
        let stage = all(rig);
        case.rig.ok(&case.arguments());
        case.new = all(rig);
        if every {
            assert_eq!(case.new, stage);
        }
        assert!(!rig.state().exists());
        case.again();
        case
    }

    fn arguments(&self) -> Vec<&str> {
        self.unmount.iter().map(String::as_str).collect()
    }

    /// Puts the base back.
    fn again(&self) {
        if self.rig.state().exists() && self.rig.run(&["unmount"]).code != 0 {
            self.rig.ok(&["unmount", "--discard"]);
        }
        for path in paths(self.rig) {
            let saved = self
                .rig
                .path()
                .join("saved")
                .join(path.file_name().unwrap());
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
            tool(
                "cp",
                &["-a", saved.to_str().unwrap(), path.to_str().unwrap()],
            );
        }
        assert_eq!(all(self.rig), self.base);
    }

    /// A stage with the work done.
    fn mount(&self, fail_point: Option<&str>) {
        self.again();
        let ws = self.rig.ws();
        let [cache, file] = shared(self.rig);
        let mut command = self
            .rig
            .command(&["mount", "--workspace", ws.to_str().unwrap()]);
        command.arg("--shared-path").arg(cache);
        command.arg("--shared-path").arg(file);
        if let Some(point) = fail_point {
            command.env(failpoint::VARIABLE, point);
        }
        assert_eq!(rig::start(command).end().code, 0);
        let ran = self.rig.step("work", &[], &script(self.rig));
        assert_eq!(ran.code, 0, "{ran:?}");
    }

    fn is_over(&self, at: &str) {
        assert_eq!(all(self.rig), self.new, "{at}");
        assert!(!self.rig.state().exists(), "{at}");
        assert_eq!(mounts(), Vec::<String>::new(), "{at}");
    }

    fn end(&self) {
        self.again();
        for path in shared(self.rig) {
            let _ = fs::remove_file(&path);
            let _ = fs::remove_dir_all(&path);
        }
    }

    /// Brings it back, again with a fail-point if there is one: who finishes may
    /// be killed too.
    fn resume(&self, fail_point: Option<&str>) -> Ran {
        let mut command = self.rig.command(&["mount", "--resume"]);
        if let Some(point) = fail_point {
            command.env(failpoint::VARIABLE, point);
        }
        rig::start(command).end()
    }
}

/// Points that `unmount --apply` passes, each with the how manieth time.
fn points() -> impl Iterator<Item = (&'static str, u32)> {
    let points = failpoint::ALL.iter();
    let points =
        points.filter(|point| point.starts_with("apply-") || point.starts_with("unmount-"));
    points.flat_map(|point| (1..=TIMES).map(|time| (*point, time)))
}

fn killed_everywhere(rig: &Rig, every: bool) {
    let case = &Case::new(rig, every);
    {
        let mut passed = Vec::new();
        let stage = {
            case.mount(None);
            let stage = all(case.rig);
            case.rig.ok(&["unmount"]);
            stage
        };
        for (point, time) in points() {
            let at = format!("{point}:{time}");
            for resumes in [true, false] {
                case.mount(Some(&at));
                let ran = case.rig.run(&case.arguments());
                if ran.code == 0 {
                    case.is_over(&at);
                    break;
                }
                assert_eq!(ran.code, 5, "{at}: {ran:?}\n{}", case.rig.log());
                passed.push(point);
                assert_eq!(mounts(), Vec::<String>::new(), "{at}");
                if !case.rig.state().join("stage.json").exists() {
                    assert_eq!(all(case.rig), case.new, "{at}");
                    case.rig.mount();
                    case.rig.ok(&["unmount"]);
                } else if resumes {
                    resumed(case, &stage, &at);
                } else {
                    unmounted(case, point, &at);
                }
            }
        }
        passed.dedup();
        for point in failpoint::ALL
            .iter()
            .filter(|point| point.starts_with("apply-"))
        {
            assert!(passed.contains(point), "never at {point}: {passed:?}");
        }
    }
    case.end();
}

/// A stage is not thrown away that was to be written, and of which nothing is.
fn unmounted(case: &Case<'_>, point: &str, at: &str) {
    let rig = case.rig;
    let apply = case.arguments();
    if ["apply-before-stage", "apply-in-stage", "apply-before-plan"].contains(&point) {
        for arguments in [&["unmount"][..], &apply, &["unmount", "--keep-state"]] {
            rig.run(arguments).refused(5, "before anything was written");
        }
        rig.ok(&["unmount", "--discard"]);
        assert_eq!(all(rig), case.base, "{at}");
    } else {
        rig.ok(&["unmount"]);
        let found = all(rig);
        assert!(found == case.base || found == case.new, "{at}: {found:#?}");
    }
    assert!(!rig.state().exists(), "{at}");
}

fn resumed(case: &Case<'_>, stage: &Tree, at: &str) {
    let mut ran = case.resume(Some(at));
    if ran.code == 1 {
        assert!(
            ran.err.contains("before its stage was ready"),
            "{at}: {ran:?}"
        );
        if !case.rig.state().join("stage.json").exists() {
            assert_eq!(all(case.rig), case.new, "{at}");
            return;
        }
        ran = case.resume(None);
    }
    if ran.code == 3 {
        ran.refused(3, "is over");
        return case.is_over(at);
    }
    assert_eq!(ran.code, 0, "{at}: {ran:?}");
    assert_eq!(all(case.rig), *stage, "{at}");
    case.rig.ok(&["unmount", "--keep-state"]);
    assert_eq!(all(case.rig), case.base, "{at}");
    case.rig.ok(&["mount", "--resume"]);
    case.rig.ok(&case.arguments());
    case.is_over(at);
}

#[test]
fn killed_at_every_point() {
    alone(|rig| killed_everywhere(rig, false));
}

#[test]
fn all_paths_killed_at_every_point() {
    alone(|rig| killed_everywhere(rig, true));
}

/// The daemon stops at a point; there its client is killed; it goes on.
#[test]
fn without_its_client() {
    alone(|rig| {
        let case = Case::new(rig, true);
        let mut stopped = 0;
        for (point, time) in points() {
            let at = format!("{point}:{time}:stop");
            case.mount(Some(&at));
            let daemon = rig.daemon();
            let mut client = rig.start(&case.arguments());
            let Some(server) = wait_for_stop_or_end(rig, &client.process()) else {
                assert_eq!(client.end().code, 0, "{at}");
                continue;
            };
            client.process().signal(Signal::SIGKILL).unwrap();
            stopped += 1;
            server.signal(Signal::SIGCONT).unwrap();
            client.kill();
            daemon.wait();
            case.is_over(&at);
        }
        assert!(stopped > 9, "only {stopped} points");
        case.end();
    });
}

fn fix(path: &Path, how: &str) {
    tool("chattr", &[how, path.to_str().unwrap()]);
}

#[test]
fn what_is_in_the_way_is_seen_before_anything_changes() {
    alone(|rig| {
        let case = Case::new(rig, true);
        let locked = rig.ws().join("src/deep/locked");
        fs::write(&locked, "precious").unwrap();
        fix(&locked, "+i");
        rig.mount();
        fs::write(rig.ws().join("seen"), "by all").unwrap();
        let moved = rig.step("move", &[], "mv src renamed; echo x > new");
        assert_eq!(moved.code, 0, "{moved:?}");
        let stage = tree(&rig.ws());
        let ws = rig.ws();
        let unmount = ["unmount", "--apply", ws.to_str().unwrap()];
        rig.run(&unmount)
            .refused(1, "src/deep/locked: it is immutable");
        // Help says that the stage stays, and so it does.
        assert_eq!(tree(&rig.ws()), stage);
        assert_eq!(
            rig.step("more", &[], "test -e renamed/main.c; echo y > more")
                .code,
            0
        );
        let stage = tree(&rig.ws());
        rig.ok(&["unmount", "--keep-state"]);
        assert!(locked.exists() && !rig.ws().join("new").exists());
        assert!(!rig.ws().join(".harness-fs-unmount").exists());
        rig.ok(&["mount", "--resume"]);
        fix_below(rig, "-i");
        rig.ok(&unmount);
        assert_eq!(tree(&rig.ws()), stage);
        case.end();
    });
}

/// The file lies below the stage: only where that is not mounted it is reached.
fn fix_below(rig: &Rig, how: &str) {
    let script = format!(
        "umount -l {0} && chattr {how} {0}/src/deep/locked",
        rig.ws().display()
    );
    tool("unshare", &["--mount", "sh", "-ec", &script]);
}

#[test]
fn what_gets_in_the_way_later_stops_it_and_nothing_is_lost() {
    alone(|rig| {
        let case = Case::new(rig, true);
        case.mount(Some("apply-in-place:2"));
        assert_eq!(rig.run(&case.arguments()).code, 5);
        let locked = rig.ws().join("log");
        fix(&locked, "+i");
        let ran = rig.run(&["unmount"]);
        assert_eq!(ran.code, 1, "{ran:?}");
        assert!(ran.err.contains("log: it is immutable"), "{ran:?}");
        assert!(
            ran.err.contains("`harness-fs unmount` writes the rest"),
            "{ran:?}"
        );
        rig.run(&["mount", "--resume"])
            .refused(1, "log: it is immutable");
        // Another place, or none of it, would be another tree.
        let others = [
            &["--keep-state"][..],
            &["--apply", "elsewhere"],
            &["--discard"],
        ];
        for other in others {
            let other = [&["unmount"], other].concat();
            rig.run(&other).refused(2, "was cut off");
        }
        fix(&locked, "-i");
        let ran = rig.ok(&case.arguments());
        assert!(ran.out.contains("is done"), "{ran:?}");
        case.is_over("later");
        case.end();
    });
}

#[test]
fn state_is_not_kept_for_a_base_that_is_gone() {
    alone(|rig| {
        rig.mount();
        let to = rig.ws();
        rig.run(&["unmount", "--keep-state", "--apply", to.to_str().unwrap()])
            .refused(2, "leave out one of both");
        rig.ok(&["unmount"]);
    });
}

#[test]
fn only_the_workspace_and_the_root_are_where_a_tree_came_from() {
    alone(|rig| {
        let case = Case::new(rig, true);
        case.mount(None);
        let stage = all(rig);
        let [cache, _] = shared(rig);
        for arguments in [
            vec!["--apply", cache.to_str().unwrap(), "--replace"],
            vec!["--apply", cache.to_str().unwrap(), "--all"],
            vec!["--apply", rig.ws().join("deeper").to_str().unwrap()],
        ] {
            let arguments = [&["unmount"][..], &arguments].concat();
            rig.run(&arguments)
                .refused(2, "lies inside the mapped path");
        }
        assert_eq!(all(rig), stage);
        case.end();
    });
}
