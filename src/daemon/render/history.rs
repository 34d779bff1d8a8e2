//! What layers did, and when.

use std::fmt::Write;

use super::{after_going_back, ago, bytes, count, diff, line, table};
use crate::stage::{BlameLine, Did, LayerKind, LayerReport, LogLine, RollbackReport, StepEnd};
use crate::tree::shown::shown;

/// The layers, one line each.
pub fn log(layers: &[LogLine]) -> String {
    let rows = layers.iter().map(|layer| {
        let deleted = layer.whiteouts.map(|number| format!("{number} deleted"));
        [
            layer.id.clone(),
            made_by(layer.kind, layer.step.as_deref()),
            result(layer).to_owned(),
            layer.sealed.map(ago).unwrap_or_default(),
            entries(layer).unwrap_or_default(),
            deleted.unwrap_or_default(),
            layer.bytes.map(bytes).unwrap_or_default(),
            more(layer),
        ]
    });
    table(rows)
}

/// One layer and its changes.
pub fn show(report: &LayerReport) -> String {
    let layer = &report.layer;
    let mut text = String::new();
    line!(text, "layer    {}", layer.id);
    line!(
        text,
        "made by  {}",
        made_by(layer.kind, layer.step.as_deref())
    );
    let states = [result(layer).to_owned(), more(layer)];
    let states: Vec<String> = states.into_iter().filter(|text| !text.is_empty()).collect();
    if !states.is_empty() {
        line!(text, "state    {}", states.join("; "));
    }
    line!(text, "sealed   {}", ago(report.manifest.sealed));
    line!(
        text,
        "holds    {}, {} deleted, {}",
        count(report.manifest.entries, "entry", "entries"),
        report.manifest.whiteouts,
        bytes(report.manifest.bytes)
    );
    text + &diff(&report.changes)
}

/// What was done to a path, one line each.
pub fn blame(lines: &[BlameLine]) -> String {
    let rows = lines.iter().map(|line| {
        let did = match line.did {
            Did::Added => "added",
            Did::Modified => "modified",
            Did::Metadata => "metadata",
            Did::Renamed => "renamed",
            Did::Linked => "linked",
            Did::Deleted => "deleted",
            Did::Original => "original",
        };
        let from = line.from.as_ref();
        let from = from.map(|from| format!("from {}", shown(from)));
        [
            did.to_owned(),
            made_by(line.kind, line.step.as_deref()),
            line.layer.clone(),
            line.sealed.map(ago).unwrap_or_default(),
            from.unwrap_or_default(),
        ]
    });
    table(rows)
}

/// A stage that went back to a layer.
pub fn rolled_back(report: &RollbackReport) -> String {
    let mut text = String::new();
    let layer = &report.layer;
    if report.left.is_empty() {
        line!(text, "the stage is as after {layer} already");
    } else {
        let left = report.left.join(", ");
        line!(text, "the stage is as after {layer}; taken away: {left}");
    }
    if !report.steps.is_empty() {
        line!(text, "steps taken away: {}", report.steps.join(", "));
    }
    let held = report.left.iter().filter(|id| !report.dropped.contains(id));
    let held: Vec<&str> = held.map(String::as_str).collect();
    if !held.is_empty() {
        let held = held.join(", ");
        line!(text, "still held by a snapshot or a step: {held}");
    }
    after_going_back(&mut text, &report.stranded, &report.notes);
    text
}

fn made_by(kind: LayerKind, step: Option<&str>) -> String {
    match (kind, step) {
        (LayerKind::Step, Some(step)) => format!("step {step}"),
        (LayerKind::Step, None) => "step".to_owned(),
        (LayerKind::Join, Some(step)) => format!("join of {step}"),
        (LayerKind::Join, None) => "join".to_owned(),
        (LayerKind::Head, _) => "head".to_owned(),
        (LayerKind::Import, _) => "import".to_owned(),
        (LayerKind::Base, _) => "base".to_owned(),
    }
}

fn result(layer: &LogLine) -> &'static str {
    match layer.result {
        Some(StepEnd::Merged) => "merged",
        Some(StepEnd::Waiting) => "waiting",
        Some(StepEnd::Kept) => "kept",
        None => "",
    }
}

fn entries(layer: &LogLine) -> Option<String> {
    Some(count(layer.entries?, "entry", "entries"))
}

fn more(layer: &LogLine) -> String {
    let mut more = Vec::new();
    if !layer.in_stack {
        more.push("not in the tree".to_owned());
    }
    more.extend(layer.reason.clone());
    if !layer.snapshots.is_empty() {
        let noun = if layer.snapshots.len() == 1 {
            "snapshot"
        } else {
            "snapshots"
        };
        more.push(format!("{noun} {}", layer.snapshots.join(", ")));
    }
    more.join(", ")
}
