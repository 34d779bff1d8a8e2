//! Git's own three-way merge of the same trees: on regular files it agrees about which are there
//! and what is in them.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use harness_fs::merge::{Class, Conflict};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

use crate::layers::{Model, delta, joined, stacked};
use crate::properties::merge;
use crate::trees::{Node, Tree, base, ops};

struct Case {
    base: Tree,
    stage: Tree,
    step: Tree,
    /// `None` if a conflict was not decided.
    merged: Option<Tree>,
    conflicts: Vec<Conflict>,
}

impl Case {
    fn new(base: Tree, stage: Tree, step: Tree) -> Case {
        let (of_stage, of_step) = (delta(&base, &stage, "stage"), delta(&base, &step, "step"));
        let mut model = Model {
            base: &base,
            stage: &stage,
            step: &step,
        };
        // Git knows no metadata that could be in conflict here: the default takes the last.
        let outcome = merge(&mut model, &of_stage, &of_step, None);
        let merged = outcome
            .plan
            .map(|plan| joined(&stacked(&stage, &of_step, &step), &plan, &model));
        Case {
            merged,
            conflicts: outcome.conflicts,
            base,
            stage,
            step,
        }
    }

    /// Whether a conflict is one for git: there are directories in none of the trees, and the
    /// content is another in each.
    fn is_about_a_file(&self, conflict: &Conflict) -> bool {
        let path = &conflict.tree_path;
        let trees = [&self.base, &self.stage, &self.step];
        let [base, stage, step] = trees.map(|tree| tree.get(path).and_then(Node::data));
        matches!(
            conflict.class,
            Class::WriteWrite | Class::AddAdd | Class::DeleteModify
        ) && !trees.iter().any(|tree| tree.is_dir(path))
            && base != stage
            && base != step
            && stage != step
    }
}

/// The commands for git-fast-import(1) that make a commit of the files of a tree.
fn commit(stream: &mut String, branch: &str, parent: Option<&str>, tree: &Tree) {
    write!(
        stream,
        "commit refs/heads/{branch}\ncommitter x <x> 0 +0000\ndata 0\n"
    )
    .unwrap();
    if let Some(parent) = parent {
        writeln!(stream, "from refs/heads/{parent}\ndeleteall").unwrap();
    }
    for (path, node) in &tree.0 {
        if let Some(data) = node.data() {
            // To us a renamed file is a name removed and one added, and Git (2.47) looks for
            // renames whatever it is told: so no two names have the same content.
            let (path, text) = (path.display(), format!("{}\n{data}", path.display()));
            writeln!(
                stream,
                "M 100644 inline {path}\ndata {}\n{text}",
                text.len()
            )
            .unwrap();
        }
    }
    stream.push('\n');
}

/// Runs git; there is no configuration but its own.
fn git(dir: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("git")
        .args(arguments)
        .current_dir(dir)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .env("GIT_CONFIG_NOSYSTEM", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git(1) is installed");
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_owned();
    // Beside the reading, or both would wait on full pipes.
    let writer = std::thread::spawn(move || stdin.write_all(input.as_bytes()).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success(), "git {arguments:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// What git makes of each case: the tree, if the merge is clean.
fn merged_by_git(dir: &Path, cases: usize) -> Vec<Option<String>> {
    let pairs: String = (0..cases).map(|n| format!("stage{n} step{n}\n")).collect();
    let merge = [
        "merge-tree",
        "--stdin",
        "--no-messages",
        "-Xfind-renames=100%",
    ];
    let told = git(dir, &merge, &pairs);
    // For each: the status, the tree, a line for each part of a conflict, and nothing.
    let mut words = told.split('\0');
    let mut all = Vec::new();
    for _ in 0..cases {
        let (status, tree) = (words.next().unwrap(), words.next().unwrap());
        let parts = words.by_ref().take_while(|part| !part.is_empty()).count();
        assert_eq!(status == "1", parts == 0, "{status} {parts}");
        all.push((status == "1").then(|| tree.to_owned()));
    }
    all
}

#[test]
fn git_agrees_about_regular_files() {
    let rounds: usize = std::env::var("HARNESS_FS_ROUNDS").map_or(400, |n| n.parse().unwrap());
    let strategy = (base(), ops(10), ops(10));
    let mut runner = TestRunner::deterministic();
    let mut draw = || {
        let (base, earlier, later) = strategy.new_tree(&mut runner).unwrap().current();
        let (stage, step) = (base.after(&earlier), base.after(&later));
        Case::new(base, stage, step)
    };
    let cases: Vec<Case> = (0..rounds).map(|_| draw()).collect();

    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "--quiet", "--bare"], "");
    let mut stream = String::new();
    for (n, case) in cases.iter().enumerate() {
        let from = format!("base{n}");
        commit(&mut stream, &from, None, &case.base);
        commit(&mut stream, &format!("stage{n}"), Some(&from), &case.stage);
        commit(&mut stream, &format!("step{n}"), Some(&from), &case.step);
        let merged = case.merged.as_ref().unwrap_or(&case.base);
        commit(&mut stream, &format!("merged{n}"), None, merged);
    }
    git(dir.path(), &["fast-import", "--quiet"], &stream);
    let names: String = (0..rounds)
        .map(|n| format!("merged{n}^{{tree}}\n"))
        .collect();
    let ours = git(
        dir.path(),
        &["cat-file", "--batch-check=%(objectname)"],
        &names,
    );

    let (mut clean, mut in_conflict) = (0, 0);
    let theirs = merged_by_git(dir.path(), rounds);
    for ((case, ours), theirs) in cases.iter().zip(ours.lines()).zip(theirs) {
        let Case {
            base, stage, step, ..
        } = case;
        let told = format!("{base:?}\n{stage:?}\n{step:?}\n{:?}", case.conflicts);
        match (&case.merged, theirs) {
            (Some(_), theirs) => {
                assert_eq!(theirs.as_deref(), Some(ours), "{told}");
                clean += 1;
            }
            (None, Some(_)) => {
                let about_files = case.conflicts.iter().any(|c| case.is_about_a_file(c));
                assert!(!about_files, "git sees no conflict: {told}");
            }
            (None, None) => in_conflict += 1,
        }
    }
    assert!(clean > rounds / 4, "{clean} without a conflict");
    assert!(
        in_conflict > rounds / 20,
        "{in_conflict} conflicts for both"
    );
}
