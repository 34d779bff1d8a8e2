//! Reports for people.

mod history;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use serde_json::json;

use super::queue::{Before, Waiting};
use crate::control::Reply;
use crate::error::Error;
use crate::export::cache::Saved;
use crate::export::{ApplyReport, ExportReport, LeftOut};
use crate::merge::{Race, SharingMode};
use crate::stage::{
    Change, ConflictReport, DiffLine, EndReport, Failure, GroupState, MergeReport, Phase,
    RestoreReport, SealCost, SealedStep, SnapshotInfo, Status, StepInfo, StepKind,
};
use crate::tree::shown::shown;

/// How many are named in one line.
const NAMED: usize = 10;

/// Adds a line; writing to a string does not fail.
macro_rules! line {
    ($text:expr, $($arguments:tt)*) => {{
        let _ = writeln!($text, $($arguments)*);
    }};
}

use line;

pub use history::{blame, log, rolled_back, show};

/// A merge that was done.
pub fn merged(report: &MergeReport) -> String {
    let mut text = String::new();
    for conflict in &report.conflicts {
        line!(text, "{conflict}");
    }
    text.push_str(&races(&report.races));
    for note in &report.notes {
        line!(text, "{note}");
    }
    if report.layers.is_empty() && !report.notes.is_empty() {
        // The notes say so.
        return text;
    }
    if report.layers.is_empty() {
        line!(text, "merged {}: nothing changed", report.steps.join(", "));
    } else {
        line!(
            text,
            "merged {}: {}, {} deleted, {}",
            report.steps.join(", "),
            count(report.entries, "entry", "entries"),
            report.whiteouts,
            bytes(report.bytes)
        );
    }
    text
}

/// What steps saw that others changed meanwhile.
fn races(races: &[Race]) -> String {
    let mut text = String::new();
    for race in races.iter().take(NAMED) {
        line!(text, "read/write: {race}");
    }
    if races.len() > NAMED {
        let more = races.len() - NAMED;
        line!(
            text,
            "read/write: {more} more, see `harness-fs step list --reads`"
        );
    }
    text
}

/// The same, for who asks.
pub fn all_races(races: &[Race]) -> String {
    let mut text = String::new();
    for race in races {
        line!(text, "{race}");
    }
    if races.is_empty() {
        line!(text, "no step saw what another changed meanwhile");
    }
    text
}

/// A merge that was not done.
pub fn conflict(report: &ConflictReport) -> String {
    format!("{report}\n{}", report.text)
}

/// A step that was put aside.
pub fn kept(step: &SealedStep) -> String {
    let mut text = String::new();
    for note in &step.notes {
        line!(text, "{note}");
    }
    let name = &step.name;
    if step.layer.is_none() {
        line!(
            text,
            "kept {name}, which changed nothing: `step discard {name}` makes way for another run"
        );
        return text;
    }
    line!(
        text,
        "kept {name}: {}, {} deleted, {}; `harness-fs diff {name}` lists them, `step merge {name}` or \
         `step discard {name}` decides",
        count(step.entries, "entry", "entries"),
        step.whiteouts,
        bytes(step.bytes)
    );
    text
}

/// What it took to seal the head under those who write.
pub fn seal_cost(cost: &SealCost) -> String {
    let mut text = format!(
        "sealed under {} open for writing: requests were held for {:.1} ms",
        count(cost.files as u64, "file", "files"),
        cost.held_ms,
    );
    if cost.bytes > 0 {
        let _ = write!(
            text,
            "; {} will be copied when written again",
            bytes(cost.bytes)
        );
    }
    text
}

/// The report of something for which the head was sealed.
///
/// # Errors
/// As [`serde_json::to_value`].
pub fn with_cost(made: &impl Serialize, cost: Option<SealCost>) -> Result<Reply, Failure> {
    let mut data = serde_json::to_value(made).map_err(Error::from)?;
    data["sealed"] = json!(cost);
    let mut text = String::new();
    if let Some(cost) = cost {
        line!(text, "{}", seal_cost(&cost));
    }
    Ok(Reply::Report { text, data })
}

/// What changed, one line each.
pub fn diff(lines: &[DiffLine]) -> String {
    let mut text = String::new();
    for changed in lines {
        let sign = match changed.change {
            Change::Added => 'A',
            Change::Modified => 'M',
            Change::Metadata => 'm',
            Change::Deleted => 'D',
        };
        line!(text, "{sign} {}", shown(&changed.path));
    }
    text
}

/// The steps that are open or kept.
pub fn steps(steps: &[StepInfo]) -> String {
    let rows = steps.iter().map(|step| {
        let state = match step.state {
            _ if step.kind == StepKind::Background => "background",
            Phase::Open => "open",
            Phase::Sealed => "sealed",
            Phase::Kept => "kept",
        };
        let group = step.group.as_ref().map(|group| format!("group {group}"));
        let slot = step.slot.as_ref().filter(|_| step.state == Phase::Open);
        let slot = slot.map(|slot| format!("slot {slot}"));
        let pid = step.pid.map(|pid| format!("pid {pid}"));
        let more = [group, slot, step.reason.clone(), pid];
        let more: Vec<String> = more.into_iter().flatten().collect();
        [
            step.name.clone(),
            state.to_owned(),
            ago(step.started),
            more.join(", "),
        ]
    });
    table(rows)
}

/// The steps that wait for their turn at locked paths.
pub fn waiting(waiting: &[Waiting]) -> String {
    let rows = waiting.iter().map(|one| {
        let before =
            |before: &Before| format!("for {}, after step '{}'", shown(&before.path), before.step);
        let before: Vec<String> = one.waits_for.iter().map(before).collect();
        let (name, since) = (one.name.clone(), ago(one.since));
        [name, "waiting".to_owned(), since, before.join(", ")]
    });
    table(rows)
}

/// What becomes of changes in the view that `step shell` enters.
pub fn entered(step: &str, known: Option<&StepInfo>, live: &[PathBuf]) -> String {
    let how = match known {
        Some(known) if known.state == Phase::Open => {
            return format!("step '{step}' is open: what is changed here is part of it");
        }
        Some(known) if known.layer.is_none() => " (it changed nothing)".to_owned(),
        Some(known) => match &known.reason {
            Some(reason) => format!(" ({reason})"),
            None => String::new(),
        },
        None => String::new(),
    };
    let mut text = format!(
        "this is a copy of what step '{step}' left{how}: what is changed here is thrown away"
    );
    if !live.is_empty() {
        let live: Vec<_> = live.iter().map(|path| shown(path)).collect();
        let live = live.join(", ");
        let _ = write!(text, ", except in {live}, which the stage shares");
    }
    text
}

/// The failed steps that are kept no more, since `keep` later ones are.
pub fn made_way(keep: u32, steps: &[String]) -> String {
    let mut text = String::new();
    if !steps.is_empty() {
        let mut names: Vec<&str> = steps.iter().take(NAMED).map(String::as_str).collect();
        let more = steps.len().saturating_sub(NAMED);
        let more = (more > 0).then(|| format!("and {more} more"));
        names.extend(more.as_deref());
        line!(
            text,
            "discarded, as no more than {keep} failed steps are kept (`mount --keep`): {}",
            names.join(", ")
        );
    }
    text
}

/// The snapshots.
pub fn snapshots(snapshots: &[SnapshotInfo]) -> String {
    let rows = snapshots.iter().map(|snapshot| {
        let layers = count(snapshot.layers.len() as u64, "layer", "layers");
        [snapshot.name.clone(), layers, ago(snapshot.created)]
    });
    table(rows)
}

/// A stage that went back to a snapshot.
pub fn restored(report: &RestoreReport) -> String {
    let mut text = String::new();
    let left = count(report.left.len() as u64, "layer", "layers");
    line!(
        text,
        "the stage is as in snapshot '{}'; {left} left behind",
        report.name
    );
    after_going_back(&mut text, &report.stranded, &report.notes);
    text
}

fn after_going_back(text: &mut String, stranded: &[String], notes: &[String]) {
    if !stranded.is_empty() {
        line!(text, "can no longer be merged: {}", stranded.join(", "));
    }
    for note in notes {
        line!(text, "{note}");
    }
}

/// A snapshot that left.
pub fn exported(report: &ExportReport) -> String {
    let mut text = String::new();
    for layer in &report.layers {
        let new = if layer.new { "" } else { ", there already" };
        line!(
            text,
            "{}  {}  {}{new}",
            layer.digest,
            layer.id,
            bytes(layer.size)
        );
        if let Some(note) = layer.note {
            line!(text, "{}: {note}", layer.id);
        }
    }
    left_out(
        &mut text,
        "not exported, looks like a secret (--allow-secret exports it)",
        &report.secrets,
    );
    left_out(&mut text, "left out", &report.left_out);
    let base = if report.base_included {
        ""
    } else {
        ", without the base"
    };
    line!(
        text,
        "exported '{}' as {}: {}, {} new{base}",
        report.name,
        report.manifest,
        bytes(report.size),
        bytes(report.new_bytes)
    );
    text
}

/// An image of some paths that was made.
pub fn cache_saved(saved: &Saved) -> String {
    let mut text = String::new();
    for path in &saved.missing {
        line!(text, "not saved, it is not there: {}", shown(path));
    }
    left_out(
        &mut text,
        "not saved, looks like a secret (--allow-secret saves it)",
        &saved.secrets,
    );
    left_out(&mut text, "left out", &saved.left_out);
    text
}

/// A cache that was restored.
pub fn cache_restored(refused: &[LeftOut], notes: &[String]) -> String {
    let mut text = String::new();
    left_out(&mut text, "not restored (--trust does)", refused);
    for note in notes {
        line!(text, "{note}");
    }
    text
}

/// A directory that was written.
pub fn applied(report: &ApplyReport) -> String {
    let mut text = String::new();
    left_out(&mut text, "not kept", &report.not_kept);
    for path in &report.not_written {
        line!(text, "not written, a shared path: {}", shown(path));
    }
    line!(
        text,
        "applied: {} written, {} removed, {} as they were",
        report.written,
        report.removed,
        report.unchanged
    );
    text
}

fn left_out(text: &mut String, what: &str, list: &[LeftOut]) {
    for left in list {
        line!(text, "{what}: {} ({})", shown(&left.path), left.why);
    }
}

/// A stage that has ended.
pub fn ended(report: &EndReport) -> String {
    let mut text = String::new();
    for problem in &report.problems {
        line!(text, "{problem}");
    }
    if !report.background_steps.is_empty() {
        let steps = report.background_steps.join(", ");
        line!(text, "ended background steps: {steps}");
    }
    if report.kept_state {
        line!(
            text,
            "unmounted; the state is kept, `harness-fs mount --resume` brings it back"
        );
        if !report.kept_steps.is_empty() {
            line!(text, "kept steps: {}", report.kept_steps.join(", "));
        }
        text.push_str(&discarded(report));
        return text;
    }
    let layers = count(report.discarded_layers.len() as u64, "layer", "layers");
    line!(text, "unmounted; discarded {layers}");
    text.push_str(&discarded(report));
    text
}

/// The steps and snapshots that went with a stage.
pub fn discarded(report: &EndReport) -> String {
    let mut text = String::new();
    if !report.discarded_steps.is_empty() {
        line!(
            text,
            "discarded steps: {}",
            report.discarded_steps.join(", ")
        );
    }
    if !report.discarded_snapshots.is_empty() {
        line!(
            text,
            "discarded snapshots: {}",
            report.discarded_snapshots.join(", ")
        );
    }
    text
}

/// A stage that nobody served, and whose state is removed.
pub fn removed(stage: &str, report: &EndReport) -> String {
    let mut text = String::new();
    if report.problems.is_empty() {
        let layers = count(report.discarded_layers.len() as u64, "layer", "layers");
        line!(text, "discarded the state of the stage '{stage}': {layers}");
    } else {
        line!(text, "discarded the state of the stage '{stage}'");
    }
    for problem in &report.problems {
        line!(text, "{problem}");
    }
    text.push_str(&discarded(report));
    text
}

/// All there is to tell of a stage that serves for `uptime` seconds.
pub fn status(status: &Status, uptime: u64, waits: &[Waiting]) -> String {
    let mut text = String::new();
    let mapped: Vec<_> = status
        .mapped
        .iter()
        .map(|path| shared(status, path))
        .collect();
    line!(
        text,
        "stage    {} (state in {})",
        status.stage,
        shown(&status.state_dir)
    );
    line!(
        text,
        "daemon   harness-fs {}, pid {}, up {}",
        status.version,
        status.pid,
        humantime::format_duration(Duration::from_secs(uptime))
    );
    line!(text, "mapped   {}", mapped.join(", "));
    for note in &status.notes {
        line!(text, "note     {note}");
    }
    section(&mut text, "views", views(status));
    let kept_no_more = made_way(status.keep, &status.made_way);
    let steps = steps(&status.steps) + &waiting(waits) + &kept_no_more;
    section(&mut text, "steps", steps);
    section(&mut text, "slots", slots(status));
    section(&mut text, "groups", groups(status));
    section(&mut text, "layers", layers(status));
    section(&mut text, "snapshots", snapshots(&status.snapshots));
    text
}

/// A mapped path, and how steps share it if not by merging.
fn shared(status: &Status, path: &Path) -> String {
    match status.sharing.get(&shown(path).to_string()) {
        None | Some(SharingMode::Merge) => shown(path).to_string(),
        Some(mode) => format!("{} ({mode})", shown(path)),
    }
}

fn section(text: &mut String, title: &str, body: String) {
    if !body.is_empty() {
        line!(text, "{title}");
        for row in body.lines() {
            line!(text, "  {row}");
        }
    }
}

fn views(status: &Status) -> String {
    let rows = status.views.iter().map(|view| {
        let requests = count(view.requests.values().sum(), "request", "requests");
        let oldest = view.oldest_request_ms;
        let oldest = oldest.map(|ms| format!("oldest in flight for {ms} ms"));
        [
            view.name.clone(),
            view.transport.clone().unwrap_or_default(),
            requests,
            oldest.unwrap_or_default(),
        ]
    });
    table(rows)
}

fn slots(status: &Status) -> String {
    let rows = status.slots.iter().map(|slot| {
        let step = match &slot.step {
            Some(step) => format!("step {step}"),
            None => "free".to_owned(),
        };
        [slot.name.clone(), shown(&slot.dir).into_owned(), step]
    });
    table(rows)
}

fn groups(status: &Status) -> String {
    let rows = status.groups.iter().map(|(name, group)| {
        let member = |member: &String| {
            if group.failed.contains(member) {
                format!("{member} (failed)")
            } else if group.ended.contains_key(member) {
                format!("{member} (ended)")
            } else {
                member.clone()
            }
        };
        let members: Vec<String> = group.members.iter().map(member).collect();
        let aborted = group.aborted.as_ref();
        let aborted = aborted.map(|why| format!("aborted: {why}"));
        [
            name.clone(),
            members.join(", "),
            aborted.unwrap_or_default(),
        ]
    });
    table(rows)
}

/// What a group waits for.
pub fn group_waits(name: &str, group: &GroupState) -> String {
    let (failed, running): (Vec<String>, Vec<String>) = group
        .waits_for()
        .into_iter()
        .partition(|member| group.failed.contains(member));
    let mut text = String::new();
    if !running.is_empty() {
        line!(text, "group '{name}' is waiting for {}", running.join(", "));
    }
    if !failed.is_empty() {
        line!(
            text,
            "group '{name}' is not merged, as {} failed: run it again, or `group close {name}` merges the others",
            failed.join(", ")
        );
    }
    text
}

/// What became of the members of a group that was aborted.
pub fn aborted(name: &str, ended: &[String], succeeded: &[String]) -> String {
    let mut text = format!("group '{name}' is aborted, and nothing of it is merged");
    for (what, steps) in [("ended", ended), ("discarded, though done", succeeded)] {
        if !steps.is_empty() {
            text.push_str(&format!("; {what}: {}", steps.join(", ")));
        }
    }
    text
}

fn layers(status: &Status) -> String {
    let rows = status.layers.iter().map(|layer| {
        let aside = if layer.in_stack {
            ""
        } else {
            "not in the tree"
        };
        [
            layer.id.clone(),
            count(layer.entries, "entry", "entries"),
            format!("{} deleted", layer.whiteouts),
            bytes(layer.bytes),
            aside.to_owned(),
        ]
    });
    table(rows)
}

/// Lines up columns.
fn table<const N: usize>(rows: impl Iterator<Item = [String; N]>) -> String {
    let rows: Vec<[String; N]> = rows.collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: [usize; N] = std::array::from_fn(|column| width(column).unwrap_or(0));
    let mut text = String::new();
    for row in &rows {
        let cells = row.iter().zip(widths);
        let padded: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        line!(text, "{}", padded.join("  ").trim_end());
    }
    text
}

fn count(number: u64, one: &str, more: &str) -> String {
    let noun = if number == 1 { one } else { more };
    format!("{number} {noun}")
}

/// `12 B`, `3.4 MiB`.
pub fn bytes(number: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if number < 1024 {
        return format!("{number} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "one decimal is shown")]
    let mut value = number as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

fn ago(moment: u64) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    let now = now.map_or(0, |now| now.as_secs());
    let ago = Duration::from_secs(now.saturating_sub(moment));
    format!("{} ago", humantime::format_duration(ago))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_sizes_are_short() {
        let rows = [["a", "bb"], ["ccc", ""]].map(|row| row.map(str::to_owned));
        assert_eq!(table(rows.into_iter()), "a    bb\nccc\n");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(3 << 30), "3.0 GiB");
        assert_eq!(count(1, "entry", "entries"), "1 entry");
    }

    #[test]
    fn a_merge_of_nothing_says_so() {
        let report = MergeReport {
            steps: vec!["a".to_owned()],
            ..MergeReport::default()
        };
        assert_eq!(merged(&report), "merged a: nothing changed\n");
    }
}
