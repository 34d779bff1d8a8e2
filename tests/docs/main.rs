//! The examples in the documents do what is written below them.
//!
//! A block fenced as `sh` is run, also one that HTML hides (`<!-- sh … -->`): its lines that begin
//! with `$ ` are commands, `> ` continues one, and what follows is what it has to print, on either
//! output. In it a line `...` stands for any number of lines, and `…` for any text on a line.
//! All blocks of a document are one session of bash, with a root directory and a process
//! namespace of its own, so the commands can be those that a reader types. Blocks fenced otherwise
//! are not run.
//!
//! `HARNESS_FS_DOCS=print` prints the sessions as they were. Needs root and /dev/fuse.
#![allow(clippy::unwrap_used)] // what is missing here is a failure

mod differences;
mod document;
mod json;
mod names;
mod protocol;
mod session;

use document::Document;

#[test]
fn readme() {
    check("README.md");
}

#[test]
fn semantics() {
    check("docs/semantics.md");
}

#[test]
fn caches() {
    check("docs/caches.md");
}

#[test]
fn containers() {
    check("docs/containers.md");
}

#[test]
fn overlay() {
    check("docs/overlay.md");
}

#[test]
fn merge() {
    check("docs/merge.md");
}

#[test]
fn stage_run() {
    check("docs/stage-run.md");
}

#[test]
fn json_fields() {
    let (text, document, printed) = check("docs/json.md");
    json::check(&text, &document, &printed);
}

/// Returns the document, and what its commands have printed.
#[track_caller]
fn check(name: &str) -> (String, Document, Vec<String>) {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let document = Document::parse(&text);
    assert!(!document.commands.is_empty(), "{name} has no examples");
    let commands: Vec<&str> = document.commands.iter().map(|c| c.text.as_str()).collect();
    let printed = session::run(&commands);
    if std::env::var_os("HARNESS_FS_DOCS").is_some() {
        for (command, printed) in document.commands.iter().zip(&printed) {
            println!("$ {}\n{printed}", command.text);
        }
    }
    let mut wrong = String::new();
    for (index, command) in document.commands.iter().enumerate() {
        let Some(printed) = printed.get(index) else {
            wrong += &format!("{name}:{}: the session did not get here\n", command.line);
            break;
        };
        if !document::matches(&command.expected, printed) {
            wrong += &format!(
                "{name}:{}: $ {}\n--- expected\n{}\n--- printed\n{printed}\n",
                command.line,
                command.text,
                command.expected.join("\n")
            );
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
    (text, document, printed)
}
