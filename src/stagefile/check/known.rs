//! The steps of a stage, and which of them have ended when others begin.

use std::collections::BTreeMap;

use crate::stagefile::place::shown;
use crate::stagefile::read::nearest;
use crate::stagefile::{Instance, Node, Parallel, Place, Stage, StepKind, Strategy, expand};

/// A step or group as expressions see it: before expansion, with all of its instances.
#[derive(Clone, Debug)]
pub struct Known {
    pub place: Place,
    pub position: Position,
    pub background: bool,
    pub group: bool,
    /// The postfixes of its instances; none if they are known only when it runs.
    pub postfixes: Option<Vec<String>>,
    pub outputs: Vec<String>,
}

/// Where something is in the order of things: for each level from the outside in, the number in its
/// list, or that of the member of a parallel.
pub type Position = Vec<Slot>;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    Sequence(usize),
    Member(usize),
}

/// How one thing's time is to another's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Time {
    Before,
    Beside,
    After,
    /// It is the other, or around it.
    Around,
}

fn time(of: &[Slot], to: &[Slot]) -> Time {
    let differ = of.iter().zip(to).find(|(a, b)| a != b);
    match differ {
        Some((Slot::Sequence(a), Slot::Sequence(b))) if a < b => Time::Before,
        Some((Slot::Sequence(_), Slot::Sequence(_))) => Time::After,
        Some(_) => Time::Beside,
        None => Time::Around,
    }
}

/// Each entry of a list, and each member of a parallel in it, with its position.
pub fn positioned<'n>(nodes: &'n [Node], around: &[Slot]) -> Vec<(Position, &'n Node)> {
    let mut all = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let mut position = around.to_vec();
        position.push(Slot::Sequence(index));
        match node {
            Node::Parallel(Parallel { members, .. }) => {
                for (index, member) in members.iter().enumerate() {
                    let mut position = position.clone();
                    position.push(Slot::Member(index));
                    all.push((position, member));
                }
            }
            node => all.push((position, node)),
        }
    }
    all
}

/// Collects steps and groups by their identifiers, without postfixes, with dots between.
pub fn outline(
    nodes: &[Node],
    around: &str,
    at: &[Slot],
    stage: &Stage,
    steps: &mut BTreeMap<String, Known>,
) {
    for (position, node) in positioned(nodes, at) {
        match node {
            Node::Step(step) => {
                let outputs = step.output_variables.iter();
                let known = Known {
                    place: step.place,
                    position,
                    background: step.kind == StepKind::Background,
                    group: false,
                    postfixes: postfixes(step.strategy.as_ref(), stage),
                    outputs: outputs.map(|variable| variable.name.clone()).collect(),
                };
                steps.insert(join(around, &step.identifier), known);
            }
            Node::Group(group) => {
                let path = join(around, &group.identifier);
                outline(&group.body, &path, &position, stage, steps);
                let known = Known {
                    place: group.place,
                    position,
                    background: false,
                    group: true,
                    postfixes: postfixes(group.strategy.as_ref(), stage),
                    outputs: Vec::new(),
                };
                steps.insert(path, known);
            }
            Node::Parallel(_) => {}
        }
    }
}

pub fn join(around: &str, identifier: &str) -> String {
    let dot = if around.is_empty() { "" } else { "." };
    format!("{around}{dot}{identifier}")
}

fn postfixes(strategy: Option<&Strategy>, stage: &Stage) -> Option<Vec<String>> {
    let expansion = expand(strategy, &stage.context).ok()?;
    let postfix = |instance: Instance| instance.postfix;
    Some(expansion.instances.into_iter().map(postfix).collect())
}

/// What a path leads to.
pub enum Found<'k> {
    /// There is no such step.
    Nothing,
    /// It runs several times: its name, and what an instance is called.
    Instance(String, String),
    /// A step or group, or one of its runs.
    Step(&'k Known),
}

/// Looks for a step by a path whose identifiers may have postfixes; those of the groups
/// around need none.
pub fn find<'k>(steps: &'k BTreeMap<String, Known>, path: &str, inside: &str) -> Found<'k> {
    let mut plain = String::new();
    let mut last = None;
    for part in path.split('.') {
        let direct = join(&plain, part);
        if let Some(known) = steps.get(&direct) {
            let around = inside == direct || inside.starts_with(&format!("{direct}."));
            let only = known.postfixes.as_deref().is_some_and(|p| p == [""]);
            if !only && !around {
                let postfix = known.postfixes.as_ref().and_then(|p| p.first());
                let postfix = postfix.map_or("_0", String::as_str);
                return Found::Instance(part.to_owned(), format!("{part}{postfix}"));
            }
            plain = direct;
            last = Some(known);
            continue;
        }
        let with_postfix = part.char_indices().filter(|(_, c)| *c == '_');
        let found = with_postfix.rev().find_map(|(at, _)| {
            let known = steps.get(&join(&plain, &part[..at]))?;
            let fits = match &known.postfixes {
                Some(postfixes) => postfixes.iter().any(|postfix| postfix == &part[at..]),
                None => part[at + 1..]
                    .split('_')
                    .all(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())),
            };
            fits.then(|| (join(&plain, &part[..at]), known))
        });
        match found {
            Some((name, known)) => {
                plain = name;
                last = Some(known);
            }
            None => return Found::Nothing,
        }
    }
    last.map_or(Found::Nothing, Found::Step)
}

/// What is wrong with a reference to `what` of a step, made at a position.
pub fn result_problem(known: &Known, path: &str, what: &str, from: &[Slot]) -> Option<String> {
    let line = known.place.line;
    let path = shown(path);
    if known.background {
        return Some(format!(
            "step '{path}' runs in the background until the stage ends; it has no result"
        ));
    }
    match time(&known.position, from) {
        Time::Before => {}
        Time::After => return Some(format!("step '{path}', at line {line}, comes later")),
        Time::Around => {
            let kind = if known.group { "group" } else { "step" };
            return Some(format!(
                "this is in {kind} '{path}', which has not ended then"
            ));
        }
        Time::Beside => {
            return Some(format!(
                "step '{path}', at line {line}, has not ended then: it runs at the same time"
            ));
        }
    }
    match what.strip_prefix("output.") {
        _ if what == "status" => None,
        Some(_) if known.group => Some(format!(
            "'{path}' is a step group; its steps have outputs, such as {path}.steps.NAME"
        )),
        Some(name) if known.outputs.iter().any(|output| output == name) => None,
        Some(name) => {
            let outputs = known.outputs.iter().map(String::as_str);
            let hint = match nearest(name, outputs) {
                Some(known) => format!("; did you mean '{known}'?"),
                None => format!("; add it to the step's outputVariables, at line {line}"),
            };
            Some(format!(
                "step '{path}' has no output variable '{}'{hint}",
                shown(name)
            ))
        }
        None => Some(format!(
            "of a step that has ended there are status and output.outputVariables.NAME, not '{}'",
            shown(what)
        )),
    }
}
