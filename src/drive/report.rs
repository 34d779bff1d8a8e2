//! What became of a stage: a row for each step, a table for people.

use serde::Serialize;
use serde_json::Value;

use super::Why;
use crate::daemon::bytes as bytes_shown;
use crate::merge::Race;
use crate::stagefile::{Path, shown};

/// What became of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Result {
    /// It succeeded.
    Succeeded,
    /// It failed.
    Failed,
    /// It failed, which was ignored.
    Ignored,
    /// It failed, and counts as a success.
    MarkedAsSuccess,
    /// It did not run.
    Skipped,
    /// It was ended, or not begun, because the stage was ended.
    Aborted,
    /// A background step that ran until the end of the stage.
    Ran,
}

/// What became of what a step changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Layer {
    /// It is in the stage.
    Merged,
    /// Of it, what some patterns match is in the stage.
    MergedInPart,
    /// It is kept aside.
    Kept,
    /// It is kept aside, for a merge met a conflict that nobody had decided.
    Conflict,
    /// It is forgotten.
    Discarded,
    /// There is none: the step did not run, or works in the stage itself.
    None,
}

/// What became of one step.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The name of the step in the stage: identifiers with dots between.
    pub step: String,
    /// Its path, as expressions name it.
    #[serde(skip)]
    pub path: Path,
    /// The name for people.
    pub name: String,
    /// What this run of it, and of the groups around it, is called for people.
    #[serde(skip)]
    pub label: String,
    /// It is a background step.
    pub background: bool,
    /// What became of it.
    pub result: Result,
    /// Why, in a few words; for people.
    pub why: String,
    /// The exit code of its command, the last time that it was run.
    pub exit_code: Option<u8>,
    /// The command took longer than its `timeout`.
    pub timed_out: bool,
    /// How often it was run.
    pub attempts: u32,
    /// How long all of that took.
    pub seconds: f64,
    /// What became of its changes.
    pub layer: Layer,
    /// Entries that it added or changed, and names that it deleted, as far as they were merged
    /// or kept.
    pub changed: Option<u64>,
    /// Bytes of content of those.
    pub bytes: Option<u64>,
    /// The conflicts of its merge, decided or not; of a group that is merged at once each is
    /// with the step that brought it.
    pub conflicts: Vec<Value>,
    /// What else there is to say of it.
    pub notes: Vec<String>,
}

/// What became of a stage.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The stage's name in the file.
    pub name: String,
    /// Every step succeeded, or its failure was ignored.
    pub succeeded: bool,
    /// The signal that ended it, or `null`.
    pub signal: Option<i32>,
    /// What ended the stage besides a step: its `timeout`, or a failure of harness-fs itself.
    pub error: Option<String>,
    /// In the order of the file.
    pub steps: Vec<Row>,
    /// What steps saw that others changed at the same time.
    pub races: Vec<Race>,
    /// The exit code.
    #[serde(skip)]
    pub code: u8,
}

impl Report {
    /// The table.
    pub fn table(&self) -> String {
        let mut lines =
            vec![["step", "result", "time", "changed", "merged", "conflicts"].map(str::to_owned)];
        lines.extend(self.steps.iter().map(Row::cells));
        let mut widths = [0; 6];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = (*width).max(cell.chars().count());
            }
        }
        let mut text = String::new();
        for line in &lines {
            let mut row = String::new();
            for (width, cell) in widths.iter().zip(line) {
                row.push_str(&format!("{cell:width$}  "));
            }
            text.push_str(row.trim_end());
            text.push('\n');
        }
        let notes = self.steps.iter();
        let notes = notes.flat_map(|row| row.notes.iter().map(move |note| (row, note)));
        for (row, note) in notes {
            text.push_str(&format!("{}: {note}\n", row.step));
        }
        for race in &self.races {
            text.push_str(&format!("read/write: {race}\n"));
        }
        text
    }

    /// Whether layers of steps are kept aside.
    pub fn keeps_layers(&self) -> bool {
        let kept = |row: &Row| matches!(row.layer, Layer::Kept | Layer::Conflict);
        self.steps.iter().any(kept)
    }

    /// Sets what follows from the steps, and from why the stage ended.
    pub fn conclude(&mut self, why: Option<Why>) {
        let failed =
            |row: &&Row| !row.background && matches!(row.result, Result::Failed | Result::Aborted);
        let failed: Vec<&Row> = self.steps.iter().filter(failed).collect();
        self.succeeded = failed.is_empty() && why.is_none() && self.error.is_none();
        let conflicts = |row: &&Row| row.layer == Layer::Conflict;
        self.code = match why {
            _ if self.succeeded => 0,
            Some(Why::Signal(number)) => {
                self.signal = Some(number);
                u8::try_from(128 + number).unwrap_or(1)
            }
            // The daemon is gone. What it refused for another reason it was asked by us: no mistake
            // of the caller's, who is told by 2 that nothing was run.
            _ if self.error.is_some() => match self.code {
                5 => 5,
                _ => 1,
            },
            _ if !failed.is_empty() && failed.iter().all(conflicts) => 4,
            _ => 1,
        };
    }
}

impl Row {
    fn cells(&self) -> [String; 6] {
        let result = match (self.result, self.attempts) {
            (Result::Succeeded, ..=1) => "succeeded".to_owned(),
            (Result::Succeeded, attempts) => format!("succeeded at attempt {attempts}"),
            (Result::Failed, _) => format!("failed: {}", self.why),
            (Result::Ignored, _) => format!("ignored: {}", self.why),
            (Result::MarkedAsSuccess, _) => format!("marked as success: {}", self.why),
            (Result::Skipped, _) => format!("skipped: {}", self.why),
            (Result::Aborted, _) => "aborted".to_owned(),
            (Result::Ran, _) => "ran in the background".to_owned(),
        };
        let changed = match (self.changed, self.bytes) {
            (Some(0), _) => "nothing".to_owned(),
            (Some(1), Some(bytes)) => format!("1 entry, {}", bytes_shown(bytes)),
            (Some(changed), Some(bytes)) => format!("{changed} entries, {}", bytes_shown(bytes)),
            _ => String::new(),
        };
        let merged = match self.layer {
            Layer::Merged => "yes",
            Layer::MergedInPart => "in part",
            Layer::Kept => "no, kept",
            Layer::Conflict => "no, conflict",
            Layer::Discarded => "no",
            Layer::None => "",
        };
        let time = match self.attempts {
            0 => String::new(),
            _ => format!("{:.1} s", self.seconds),
        };
        let conflicts = match self.conflicts.len() {
            0 => String::new(),
            more => more.to_string(),
        };
        let step = match self.label.as_str() {
            "" => self.step.clone(),
            label => format!("{} ({})", self.step, shown(label)),
        };
        [step, result, time, changed, merged.to_owned(), conflicts]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(step: &str, result: Result, layer: Layer) -> Row {
        Row {
            step: step.to_owned(),
            path: Path::default(),
            name: step.to_owned(),
            label: String::new(),
            background: false,
            result,
            why: "exit code 3".to_owned(),
            exit_code: None,
            timed_out: false,
            attempts: 1,
            seconds: 1.26,
            layer,
            changed: None,
            bytes: None,
            conflicts: Vec::new(),
            notes: Vec::new(),
        }
    }

    fn report(rows: Vec<Row>) -> Report {
        Report {
            name: "demo".to_owned(),
            succeeded: false,
            signal: None,
            error: None,
            steps: rows,
            races: Vec::new(),
            code: 0,
        }
    }

    fn code(rows: Vec<Row>, why: Option<Why>) -> (u8, bool) {
        let mut report = report(rows);
        report.conclude(why);
        (report.code, report.succeeded)
    }

    #[test]
    fn the_code_says_what_went_wrong() {
        let good = || row("good", Result::Succeeded, Layer::Merged);
        let bad = || row("bad", Result::Failed, Layer::Discarded);
        let conflict = || row("conflict", Result::Failed, Layer::Conflict);
        let ignored = row("ignored", Result::Ignored, Layer::Kept);
        let mut service = row("service", Result::Failed, Layer::None);
        service.background = true;
        assert_eq!(code(vec![good(), ignored, service], None), (0, true));
        assert_eq!(code(vec![good(), bad()], None), (1, false));
        assert_eq!(code(vec![good(), conflict()], None), (4, false));
        assert_eq!(code(vec![bad(), conflict()], None), (1, false));
        assert_eq!(code(vec![good()], Some(Why::Signal(15))), (143, false));
        assert_eq!(code(vec![good()], Some(Why::TimedOut)), (1, false));
        for (refused, told) in [(1, 1), (2, 1), (3, 1), (5, 5)] {
            let mut broken = report(vec![good(), bad()]);
            broken.error = Some("refused".to_owned());
            broken.code = refused;
            broken.conclude(None);
            assert_eq!((broken.code, broken.succeeded), (told, false));
        }
    }

    #[test]
    fn the_table_has_columns() {
        let mut good = row("a.long-name", Result::Succeeded, Layer::Merged);
        good.changed = Some(2);
        good.bytes = Some(2048);
        good.notes.push("something".to_owned());
        let report = Report {
            name: "demo".to_owned(),
            succeeded: false,
            signal: None,
            error: None,
            steps: vec![good, row("b", Result::Failed, Layer::Kept)],
            races: Vec::new(),
            code: 0,
        };
        let expected = "\
step         result               time   changed             merged    conflicts
a.long-name  succeeded            1.3 s  2 entries, 2.0 KiB  yes
b            failed: exit code 3  1.3 s                      no, kept
a.long-name: something
";
        assert_eq!(report.table(), expected);
    }
}
