//! YAML as a tree in which everything knows its place.
//!
//! The parser gives events; the tree is built here because no reader of whole documents keeps
//! places, sees keys that are there twice, and bounds what a few lines of aliases grow to.

use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::place::shown;
use super::{Place, Problem};

/// The longest file that is read, in bytes.
const LONGEST: usize = 4 << 20;

/// How deep lists and maps may be in each other, aliases followed. Readers of them recurse.
const DEEPEST: usize = 60;

/// How much there may be with all aliases followed: values, and their text in pieces of 64 bytes.
const MOST: usize = 100_000;

/// A value.
#[derive(Debug)]
pub struct Node {
    pub value: Value,
    pub place: Place,
    /// Just behind it.
    pub end: Place,
    depth: usize,
    weight: usize,
}

#[derive(Debug)]
pub enum Value {
    Scalar {
        text: String,
        /// Without quotes, so that `null` and `~` say that there is nothing.
        plain: bool,
    },
    List(Vec<Rc<Node>>),
    Map(Vec<Entry>),
}

/// A key and what it stands for.
#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub place: Place,
    pub node: Rc<Node>,
}

impl Node {
    /// Whether nothing is written here.
    pub fn is_null(&self) -> bool {
        match &self.value {
            Value::Scalar { text, plain: true } => {
                matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL")
            }
            _ => false,
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            Value::Scalar { .. } => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "a map",
        }
    }
}

/// Reads one document. Keys that are there twice are among `problems`, and do not stop it.
///
/// # Errors
/// What keeps the text from being YAML, or is not done here.
pub fn read(text: &str, problems: &mut Vec<Problem>) -> Result<Rc<Node>, Problem> {
    let start = Place { line: 1, column: 1 };
    if text.len() > LONGEST {
        return Err(Problem::new(start, "the file is longer than 4 MiB"));
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut builder = Builder {
        open: Vec::new(),
        anchors: HashMap::new(),
        problems,
    };
    let mut document = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| {
            let place = place_of(*error.marker());
            Problem::new(place, format!("not YAML: {}", shown(error.info())))
        })?;
        if matches!(event, Event::DocumentStart(_)) && document.is_some() {
            let text = "a second document begins here; a stage file is one";
            return Err(Problem::new(place_of(span.start), text));
        }
        if let Some(node) = builder.event(event, span)? {
            document = Some(node);
        }
    }
    match document {
        Some(node) if !node.is_null() => Ok(node),
        _ => Err(Problem::new(start, "the file is empty")),
    }
}

fn place_of(marker: saphyr_parser::Marker) -> Place {
    Place {
        line: marker.line(),
        column: marker.col() + 1,
    }
}

struct Builder<'p> {
    open: Vec<Open>,
    anchors: HashMap<usize, Rc<Node>>,
    problems: &'p mut Vec<Problem>,
}

/// A list or map whose end has not come.
struct Open {
    place: Place,
    anchor: usize,
    depth: usize,
    weight: usize,
    collected: Collected,
}

enum Collected {
    List(Vec<Rc<Node>>),
    Map {
        entries: Vec<Entry>,
        /// The keys, and the lines that they are on.
        seen: HashMap<String, usize>,
        key: Option<(String, Place)>,
        merged: Vec<Rc<Node>>,
    },
}

impl Builder<'_> {
    /// Takes an event; gives the document when it is complete.
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<Option<Rc<Node>>, Problem> {
        let place = place_of(span.start);
        let end = place_of(span.end);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(tag.as_deref(), place)?;
                if text.contains('\0') {
                    return Err(Problem::new(place, "a NUL character cannot be used here"));
                }
                // `!!str null` is text.
                let plain = style == ScalarStyle::Plain && tag.is_none();
                let node = Node {
                    place,
                    end,
                    depth: 0,
                    weight: 1 + text.len() / 64,
                    value: Value::Scalar {
                        text: text.into_owned(),
                        plain,
                    },
                };
                self.finished(Rc::new(node), anchor)
            }
            Event::Alias(id) => match self.anchors.get(&id) {
                Some(node) => self.add(node.clone()),
                None => Err(Problem::new(
                    place,
                    "the alias is inside what it stands for",
                )),
            },
            Event::SequenceStart(anchor, tag) => {
                check_tag(tag.as_deref(), place)?;
                self.begin(place, anchor, Collected::List(Vec::new()))
            }
            Event::MappingStart(anchor, tag) => {
                check_tag(tag.as_deref(), place)?;
                let map = Collected::Map {
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    key: None,
                    merged: Vec::new(),
                };
                self.begin(place, anchor, map)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(open) = self.open.pop() else {
                    return Ok(None);
                };
                let anchor = open.anchor;
                let node = self.close(open, end)?;
                self.finished(Rc::new(node), anchor)
            }
            _ => Ok(None),
        }
    }

    fn begin(
        &mut self,
        place: Place,
        anchor: usize,
        collected: Collected,
    ) -> Result<Option<Rc<Node>>, Problem> {
        if self.open.len() >= DEEPEST {
            return Err(too_deep(place));
        }
        self.open.push(Open {
            place,
            anchor,
            depth: 0,
            weight: 1,
            collected,
        });
        Ok(None)
    }

    fn close(&mut self, open: Open, end: Place) -> Result<Node, Problem> {
        let mut weight = open.weight;
        let value = match open.collected {
            Collected::List(list) => Value::List(list),
            Collected::Map {
                mut entries,
                mut seen,
                merged,
                ..
            } => {
                for from in merged {
                    weight += self.merge(&from, &mut entries, &mut seen);
                }
                Value::Map(entries)
            }
        };
        check_size(weight, open.depth, open.place)?;
        Ok(Node {
            value,
            place: open.place,
            end,
            depth: open.depth,
            weight,
        })
    }

    /// `<<: *defaults`, or a list of such: fields that are not there already. Gives what they weigh.
    fn merge(
        &mut self,
        from: &Node,
        entries: &mut Vec<Entry>,
        seen: &mut HashMap<String, usize>,
    ) -> usize {
        match &from.value {
            Value::Map(others) => {
                let mut weight = 0;
                for entry in others {
                    if !seen.contains_key(&entry.key) {
                        seen.insert(entry.key.clone(), entry.place.line);
                        weight += entry.node.weight;
                        entries.push(entry.clone());
                    }
                }
                weight
            }
            Value::List(maps) => maps
                .iter()
                .filter(|map| !matches!(map.value, Value::List(_)))
                .map(|map| self.merge(map, entries, seen))
                .sum(),
            Value::Scalar { .. } => {
                let text = "'<<' takes a map, or a list of maps, to take fields from";
                self.problems.push(Problem::new(from.place, text));
                0
            }
        }
    }

    fn finished(&mut self, node: Rc<Node>, anchor: usize) -> Result<Option<Rc<Node>>, Problem> {
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        self.add(node)
    }

    /// Puts a value where it belongs; gives it back if it is the whole document.
    fn add(&mut self, node: Rc<Node>) -> Result<Option<Rc<Node>>, Problem> {
        let Some(open) = self.open.last_mut() else {
            return Ok(Some(node));
        };
        open.depth = open.depth.max(node.depth + 1);
        open.weight += node.weight;
        check_size(open.weight, open.depth, node.place)?;
        match &mut open.collected {
            Collected::List(list) => list.push(node),
            Collected::Map {
                entries,
                seen,
                key,
                merged,
            } => match key.take() {
                None => {
                    let Value::Scalar { text, plain } = &node.value else {
                        let text = "a key is text here, not a list or a map";
                        return Err(Problem::new(node.place, text));
                    };
                    if *plain && text.is_empty() {
                        return Err(Problem::new(node.place, "a key is missing before the ':'"));
                    }
                    *key = Some((text.clone(), node.place));
                }
                Some((text, _)) if text == "<<" => merged.push(node),
                Some((text, place)) => match seen.get(&text) {
                    None => {
                        seen.insert(text.clone(), place.line);
                        entries.push(Entry {
                            key: text,
                            place,
                            node,
                        });
                    }
                    Some(line) => {
                        let text = shown(&text);
                        let what = format!("'{text}' is there twice, first at line {line}");
                        self.problems.push(Problem::new(place, what));
                    }
                },
            },
        }
        Ok(None)
    }
}

fn too_deep(place: Place) -> Problem {
    Problem::new(place, format!("nested more than {DEEPEST} deep"))
}

fn check_size(weight: usize, depth: usize, place: Place) -> Result<(), Problem> {
    if depth >= DEEPEST {
        return Err(too_deep(place));
    }
    if weight > MOST {
        let what = "with its aliases followed the file is too large";
        return Err(Problem::new(place, what));
    }
    Ok(())
}

fn check_tag(tag: Option<&Tag>, place: Place) -> Result<(), Problem> {
    match tag {
        Some(tag) if !tag.is_yaml_core_schema() && !tag.suffix.is_empty() => Err(Problem::new(
            place,
            format!("the tag '{}' has no meaning here", shown(&tag.to_string())),
        )),
        _ => Ok(()),
    }
}
