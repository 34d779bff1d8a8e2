//! `docs/protocol.md` describes every message and every field that there is, and
//! no other; its examples are messages; and what clients of this protocol rely on
//! stays as it is.

use std::collections::{BTreeMap, BTreeSet};

use harness_fs::control::{Hello, OnFailure, Outcome, PROTOCOL, Reply, Request};
use harness_fs::merge::Policy;
use harness_fs::stage::survivors::Survivor;
use harness_fs::stage::{IfOneFails, StepView};
use serde_json::{Map, Value, json};

use super::names::{fields, variants};

/// A field in a table.
#[derive(Debug)]
struct Row<'a> {
    name: &'a str,
    what: &'a str,
}

/// The sections below a heading such as "### `status`": their tables and their text.
fn sections(text: &str) -> BTreeMap<&str, (Vec<Row<'_>>, &str)> {
    let parts = text.split("\n### `").skip(1);
    let sections = parts.map(|part| {
        let part = part.split("\n## ").next().unwrap();
        let (name, body) = part.split_once('`').unwrap();
        let rows = body.lines().filter_map(|line| {
            let (name, what) = line.strip_prefix("| `")?.split_once("` | ")?;
            Some(Row { name, what })
        });
        (name, (rows.collect(), body))
    });
    sections.collect()
}

fn document() -> String {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/protocol.md");
    std::fs::read_to_string(path).unwrap()
}

/// The messages that a client of this protocol may send and receive, by their kind.
fn relied_on() -> Vec<(String, Value)> {
    let dir = env!("CARGO_MANIFEST_DIR");
    let path = format!("{dir}/tests/docs/protocol-{PROTOCOL}.jsonl");
    let text = std::fs::read_to_string(&path)
        .unwrap_or_else(|error| panic!("{path}, the messages of a new protocol: {error}"));
    let line = |line: &str| {
        let message: Map<String, Value> = serde_json::from_str(line).unwrap();
        message.into_iter().next().unwrap()
    };
    text.lines().map(line).collect()
}

/// All messages: what the document calls them, and their fields.
fn messages() -> Vec<(&'static str, BTreeSet<String>)> {
    let mut all = vec![("hello", fields::<Hello>())];
    all.extend(variants::<Request>());
    all.extend(variants::<Reply>());
    let with_inner = |field: &'static str| {
        let inner = match field {
            "view" => fields::<StepView>(),
            "survivors" => fields::<Survivor>(),
            _ => return vec![field.to_owned()],
        };
        let list = if field == "view" { "" } else { "[]" };
        let inner = inner.iter().map(|name| format!("{field}{list}.{name}"));
        inner.collect()
    };
    let all = all.into_iter();
    let all = all.map(|(name, fields)| (name, fields.into_iter().flat_map(with_inner).collect()));
    all.collect()
}

#[test]
fn every_message_and_every_field_is_described_and_no_other() {
    let text = document();
    let sections = sections(&text);
    let mut wrong = String::new();
    let messages = messages();
    for (message, fields) in &messages {
        let Some((rows, _)) = sections.get(message) else {
            wrong += &format!("docs/protocol.md has no section '### `{message}`'\n");
            continue;
        };
        let described: BTreeSet<String> = rows.iter().map(|row| row.name.to_owned()).collect();
        for missing in fields.difference(&described) {
            wrong += &format!("docs/protocol.md: '{missing}' of '{message}' is not described\n");
        }
        for odd in described.difference(fields) {
            wrong += &format!("docs/protocol.md: '{message}' has no field '{odd}'\n");
        }
    }
    let known: BTreeSet<&str> = messages.iter().map(|(name, _)| *name).collect();
    for odd in sections.keys().filter(|name| !known.contains(*name)) {
        wrong += &format!("docs/protocol.md: there is no message '{odd}'\n");
    }
    for (message, words) in [
        ("step_run", variants::<OnFailure>()),
        ("step_run", variants::<Policy>()),
        ("step_done", variants::<Outcome>()),
        ("group_declare", variants::<IfOneFails>()),
    ] {
        for (word, _) in words {
            let named = |(_, body): &(_, &str)| body.contains(&format!("`{word}`"));
            if !sections.get(message).is_some_and(named) {
                wrong += &format!("docs/protocol.md: '{message}' does not name `{word}`\n");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Which fields may be left out is tried with each message that has them all.
#[test]
fn what_is_required_is_said() {
    let text = document();
    let sections = sections(&text);
    let mut wrong = String::new();
    for (kind, message) in relied_on() {
        let (name, body) = match kind.as_str() {
            "request" => message.as_object().unwrap().iter().next().unwrap(),
            "hello" => (&kind, &message),
            _ => continue,
        };
        for field in body.as_object().unwrap().keys() {
            let mut less = body.clone();
            less.as_object_mut().unwrap().remove(field);
            let read = match kind.as_str() {
                "hello" => serde_json::from_value::<Hello>(less).map(drop),
                _ => serde_json::from_value::<Request>(json!({ name.as_str(): less })).map(drop),
            };
            let Some(row) = sections[name.as_str()]
                .0
                .iter()
                .find(|row| row.name == *field)
            else {
                continue; // Another test says so.
            };
            if row.what.starts_with("required") != read.is_err() {
                wrong += &format!("docs/protocol.md: is '{field}' of '{name}' required?\n");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// Lines `C: …` are what a client says, `D: …` what the daemon does.
#[test]
fn the_examples_are_messages() {
    let text = document();
    let mut shown = BTreeSet::new();
    for (index, line) in text.lines().enumerate() {
        let read = if let Some(said) = line.strip_prefix("C: ") {
            said_by_a_client(said)
        } else if let Some(said) = line.strip_prefix("D: ") {
            said_by_the_daemon(said)
        } else {
            continue;
        };
        match read {
            Ok(name) => shown.insert(name),
            Err(error) => panic!("docs/protocol.md:{}: {error}", index + 1),
        };
    }
    for (message, _) in messages() {
        assert!(shown.contains(message), "no example of '{message}'");
    }
}

fn said_by_a_client(said: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(said).map_err(|error| error.to_string())?;
    if value.get("protocol").is_some() {
        let hello: Hello = serde_json::from_value(value).map_err(|error| error.to_string())?;
        assert!(hello.fits(&Hello::own(0)));
        return Ok("hello".to_owned());
    }
    serde_json::from_value::<Request>(value.clone()).map_err(|error| error.to_string())?;
    Ok(value.as_object().unwrap().keys().next().unwrap().clone())
}

/// What a daemon says is whole: written again it is the same.
fn said_by_the_daemon(said: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(said).map_err(|error| error.to_string())?;
    let again = match value.get("protocol") {
        Some(_) => serde_json::from_value::<Hello>(value.clone()).map(|hello| json!(hello)),
        None => serde_json::from_value::<Reply>(value.clone()).map(|reply| json!(reply)),
    };
    let again = again.map_err(|error| error.to_string())?;
    if again != value {
        return Err(format!("a daemon would say {again}"));
    }
    Ok(match value.get("protocol") {
        Some(_) => "hello".to_owned(),
        None => value.as_object().unwrap().keys().next().unwrap().clone(),
    })
}

/// `tests/docs/protocol-N.jsonl` may grow while N stays. Where a line of it is to
/// change, clients of others break: then the number has to be another one.
#[test]
fn clients_of_this_protocol_are_understood_and_find_what_they_look_for() {
    let mut recorded = BTreeMap::<String, BTreeSet<String>>::new();
    for (kind, message) in relied_on() {
        let broken = format!("protocol {PROTOCOL} promises {message}");
        let (name, body) = match kind.as_str() {
            "hello" => ("hello".to_owned(), message.clone()),
            _ => {
                let (name, body) = message.as_object().unwrap().iter().next().unwrap();
                (name.clone(), body.clone())
            }
        };
        match kind.as_str() {
            "hello" => drop(serde_json::from_value::<Hello>(message).expect(&broken)),
            "request" => drop(serde_json::from_value::<Request>(message).expect(&broken)),
            "reply" => {
                let reply: Reply = serde_json::from_value(message).expect(&broken);
                let said = &json!(reply)[&name];
                assert!(keeps(said, &body), "{broken}, but now it is {said}");
            }
            other => panic!("what is a {other}?"),
        }
        let fields = recorded.entry(name).or_default();
        fields.extend(body.as_object().unwrap().keys().cloned());
    }
    // What is new is promised too.
    let mut all = vec![("hello", fields::<Hello>())];
    all.extend(variants::<Request>());
    all.extend(variants::<Reply>());
    for (name, fields) in all {
        let known = recorded.get(name);
        let has = |field: &&str| known.is_some_and(|known| known.contains(*field));
        let lacking: Vec<&str> = fields.into_iter().filter(|field| !has(field)).collect();
        assert!(
            known.is_some() && lacking.is_empty(),
            "tests/docs/protocol-{PROTOCOL}.jsonl has no '{name}' with {lacking:?}"
        );
    }
}

/// Whether all of `old` is still there in `new`.
fn keeps(new: &Value, old: &Value) -> bool {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => old
            .iter()
            .all(|(key, old)| new.get(key).is_some_and(|new| keeps(new, old))),
        (Value::Array(new), Value::Array(old)) => {
            new.len() == old.len() && new.iter().zip(old).all(|(new, old)| keeps(new, old))
        }
        (new, old) => new == old,
    }
}
