//! The table "Case by case" of `docs/merge.md`, row by row.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use harness_fs::merge::Policy;
use harness_fs::stage::{Failure, Overrides};

use crate::rig::{Rig, Tree, names};

/// A row: what both sides did, and what the table says of it.
struct Row<'a> {
    line: usize,
    /// Whether what the step only read counts.
    strict: bool,
    stage: String,
    step: String,
    class: &'a str,
    /// Under `last`, `first` and `keep-both`.
    outcomes: [&'a str; 3],
}

fn rows(text: &str) -> Vec<Row<'_>> {
    let lines = text.lines().enumerate();
    let table = lines
        .skip_while(|(_, line)| *line != "## Case by case")
        .skip(1)
        .take_while(|(_, line)| !line.starts_with("## "));
    let (mut rows, mut strict) = (Vec::new(), false);
    for (index, line) in table {
        if line.starts_with("| `") {
            rows.push(row(index + 1, strict, line));
        } else if line.ends_with(':') {
            // The last line of what a table is about.
            strict = line.contains("`--strict`");
        }
    }
    rows
}

fn row(number: usize, strict: bool, line: &str) -> Row<'_> {
    let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
    let [stage, step, class, last, first, both] = cells[..] else {
        panic!("line {number}: {} cells", cells.len());
    };
    Row {
        line: number,
        strict,
        stage: commands(stage),
        step: commands(step),
        class: class.trim_matches('`'),
        outcomes: [last, first, both],
    }
}

/// A shell's line as one of [`crate::program`].
fn commands(cell: &str) -> String {
    let command = |command: &str| -> String {
        if let Some((test, then)) = command.split_once(" && ") {
            let path = test.trim().strip_prefix("test -e ").unwrap();
            return format!("test -e 0/{path} && {}", commands(then));
        }
        let words: Vec<&str> = command.split_whitespace().collect();
        if let ["echo", text, to] = words[..] {
            return format!("write 0/{} {text}", to.strip_prefix('>').unwrap());
        }
        if let ["cat" | "ls", from, to] = words[..] {
            let to = to.strip_prefix('>').unwrap();
            return format!("{} 0/{from} 0/{to}", words[0]);
        }
        let arguments = words.iter().enumerate().map(|(at, word)| match at {
            0 => (*word).to_owned(),
            1 if word.starts_with('-') || words[0].starts_with("ch") => (*word).to_owned(),
            _ => format!("0/{word}"),
        });
        arguments.collect::<Vec<_>>().join(" ")
    };
    let all: Vec<String> = cell.trim_matches('`').split(';').map(command).collect();
    all.join(";")
}

/// A tree, and which of its names are one file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Shown {
    lines: BTreeMap<String, String>,
    files: BTreeSet<BTreeSet<String>>,
}

impl Shown {
    fn of(tree: &Tree) -> Shown {
        let mut lines = BTreeMap::new();
        let mut files: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (path, line) in &tree.0 {
            let path = path.strip_prefix("0/").unwrap_or(path);
            match line.split_once(" nlink ") {
                None => drop(lines.insert(path.to_owned(), line.clone())),
                Some((before, after)) => {
                    let mut words = after.splitn(4, ' ');
                    let (first, text) = (words.nth(2).unwrap(), words.next().unwrap());
                    lines.insert(path.to_owned(), format!("{before} {text}"));
                    let names = files.entry(first.to_owned()).or_default();
                    names.insert(path.to_owned());
                }
            }
        }
        let files = files.into_values().filter(|names| names.len() > 1);
        Shown {
            lines,
            files: files.collect(),
        }
    }

    fn below(&self, path: &str) -> Vec<(String, String)> {
        let rest = |other: &str| other.strip_prefix(path).map(str::to_owned);
        let lines = self.lines.iter();
        lines
            .filter_map(|(other, line)| Some((rest(other)?, line.clone())))
            .filter(|(rest, _)| rest.is_empty() || rest.starts_with('/'))
            .collect()
    }

    /// What is told in a cell, of the trees of both sides, done to the base.
    fn after(&self, cell: &str, stage: &Shown, step: &Shown) -> Shown {
        let mut shown = self.clone();
        for item in cell.split(',') {
            let mut paths = Vec::new();
            let (mut of, mut source) = ("", None);
            for (index, part) in item.split('`').enumerate() {
                match (index % 2 == 1, of) {
                    (true, "") => paths.push(part),
                    (true, _) => source = Some(part),
                    (false, _) if part.trim().is_empty() => {}
                    (false, _) => of = part.trim(),
                }
            }
            let side = match of {
                "gone" => None,
                "the stage's" => Some(stage),
                "the step's" => Some(step),
                _ => panic!("'{item}' says nothing"),
            };
            for path in &paths {
                shown.put(path, side, source.unwrap_or(path));
            }
            if paths.len() > 1 {
                let names = paths.iter().map(|path| (*path).to_owned());
                shown.files.insert(names.collect());
            }
        }
        shown
    }

    /// Puts what a side has at `source` at a path: `docs/` is a directory alone.
    fn put(&mut self, path: &str, side: Option<&Shown>, source: &str) {
        if let Some(directory) = path.strip_suffix('/') {
            let line = side.unwrap().lines[directory].clone();
            self.lines.insert(directory.to_owned(), line);
            return;
        }
        for (rest, _) in self.below(path) {
            self.lines.remove(&format!("{path}{rest}"));
        }
        self.files.retain(|names| !names.contains(path));
        if let Some(side) = side {
            let found = side.below(source);
            assert!(!found.is_empty(), "that side has no {source}");
            for (rest, line) in found {
                self.lines.insert(format!("{path}{rest}"), line);
            }
        }
    }

    fn differences(&self, expected: &Shown) -> String {
        let mut text = String::new();
        let paths = self.lines.keys().chain(expected.lines.keys());
        for path in paths.collect::<BTreeSet<_>>() {
            let (is, wanted) = (self.lines.get(path), expected.lines.get(path));
            if is != wanted {
                writeln!(text, "    {path}: {is:?}, and not {wanted:?}").unwrap();
            }
        }
        if self.files != expected.files {
            let (is, wanted) = (&self.files, &expected.files);
            writeln!(text, "    one file: {is:?}, and not {wanted:?}").unwrap();
        }
        text
    }
}

/// The stage with its side merged, and the step ready; and the stage's tree.
fn ready(row: &Row<'_>) -> (Rig, Shown) {
    let rig = Rig::new();
    rig.begin("earlier");
    rig.begin("step");
    rig.run("earlier", &row.stage);
    rig.run("step", &row.step);
    rig.stage.merge(&names(&["earlier"]), None).unwrap();
    let stage = Shown::of(&rig.tree());
    (rig, stage)
}

fn decided(policy: Policy, strict: bool) -> Overrides {
    Overrides {
        on_conflict: Some(policy),
        strict: Some(strict),
        ..Overrides::default()
    }
}

/// The classes that are reported, each once.
fn classes(rig: &Rig, strict: bool) -> String {
    let overrides = decided(Policy::Fail, strict);
    let conflicts = match rig.stage.merge(&names(&["step"]), overrides) {
        Ok(report) => report.conflicts,
        Err(Failure::Conflict(report)) => report.conflicts,
        Err(failure) => panic!("{failure}"),
    };
    let classes: BTreeSet<&str> = conflicts.iter().map(|found| found.class.as_str()).collect();
    classes.into_iter().collect::<Vec<_>>().join(", ")
}

fn wrong_with(row: &Row<'_>, base: &Shown) -> String {
    let mut wrong = String::new();
    let alone = Rig::new();
    alone.step("step", |_| alone.run("step", &row.step));
    alone.stage.merge(&names(&["step"]), None).unwrap();
    let step = Shown::of(&alone.tree());
    let policies = [Policy::Last, Policy::First, Policy::KeepBoth];
    for (policy, cell) in policies.into_iter().zip(row.outcomes) {
        let (rig, stage) = ready(row);
        let mut merged = false;
        if policy == Policy::Last {
            let told = classes(&rig, row.strict);
            merged = !rig.stage.steps().iter().any(|step| step.name == "step");
            if told != row.class.trim_matches('–') {
                writeln!(wrong, "  the class is '{told}'").unwrap();
            }
        }
        if !merged {
            let overrides = decided(policy, row.strict);
            rig.stage.merge(&names(&["step"]), overrides).unwrap();
        }
        let cell = match cell {
            "as `last`" => row.outcomes[0],
            "as `first`" => row.outcomes[1],
            cell => cell,
        };
        let differences = Shown::of(&rig.tree()).differences(&base.after(cell, &stage, &step));
        if !differences.is_empty() {
            write!(wrong, "  {policy} gives\n{differences}").unwrap();
        }
        if merged {
            // Without a conflict there is nothing for another policy to decide.
            assert_eq!(row.outcomes[1..], ["as `last`"; 2], "line {}", row.line);
            break;
        }
    }
    wrong
}

#[test]
fn every_case_is_as_the_document_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/merge.md");
    let text = std::fs::read_to_string(path).unwrap();
    let rows = rows(&text);
    assert!(rows.len() > 20, "{} rows", rows.len());
    let base = Shown::of(&Rig::new().tree());
    let check = |row: &Row<'_>| match wrong_with(row, &base) {
        wrong if wrong.is_empty() => wrong,
        wrong => format!(
            "docs/merge.md:{}: {} | {}\n{wrong}",
            row.line, row.stage, row.step
        ),
    };
    // At once: most of it is waiting until commits are on the disk.
    let wrong: String = std::thread::scope(|scope| {
        let mut running = Vec::new();
        for some in rows.chunks(rows.len().div_ceil(4)) {
            running.push(scope.spawn(|| some.iter().map(check).collect::<String>()));
        }
        let wrong = running.into_iter().map(|rows| rows.join().unwrap());
        wrong.collect()
    });
    assert!(wrong.is_empty(), "\n{wrong}");
}
