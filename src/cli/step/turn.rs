//! The wait for a turn at locked paths, told to the user.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use serde_json::Value;

use crate::cli::output::note;
use crate::cli::place::Place;
use crate::control::{Client, Patience, Problem, Reply, Request};

/// The way around the wait for a step that does without the path.
pub const PRIVATE: &str = " (--private PATH gives the step one of its own)";
/// For so long nothing is said, and so often it is looked again.
const PAUSE: Duration = Duration::from_secs(1);

/// Asks for a view of a step, and tells for whom it waits while there is no reply.
/// `hint` is what to add, once.
///
/// # Errors
/// As [`Client::ask`].
pub fn ask(
    client: &mut Client,
    request: &Request,
    (step, hint): (&str, &str),
    place: &Place,
) -> Result<Reply, Problem> {
    client.send(request)?;
    let mut told = None;
    let mut look = None;
    while !answers(client) {
        // A connection of its own: on the other one the next word is the reply.
        if look.is_none() {
            let patience = Patience {
                tell: |_| {},
                limit: Some(PAUSE),
            };
            look = Client::connect(&place.state_dir, &place.label, patience).ok();
        }
        let Some(other) = &mut look else { continue };
        let Ok(Reply::Report { data, .. }) = other.ask(&Request::StepList { reads: false }) else {
            break;
        };
        let waits = waits_for(&data, step);
        if let Some(waits) = &waits
            && told != Some(waits.clone())
        {
            let hint = if told.is_none() { hint } else { "" };
            note(&format!("step '{step}' waits for its turn: {waits}{hint}"));
            told = Some(waits.clone());
        }
    }
    client.reply()
}

/// Waits for a reply for a while; says whether there is one.
fn answers(client: &Client) -> bool {
    let mut polled = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    let pause = PollTimeout::try_from(PAUSE).unwrap_or(PollTimeout::MAX);
    nix::poll::poll(&mut polled, pause) != Ok(0)
}

/// `/root/.m2 (locked) after step 'a'`, if the step waits, or a shell in what it left.
fn waits_for(steps: &Value, step: &str) -> Option<String> {
    let is_it = |known: &&Value| {
        let name = known["name"]
            .as_str()
            .and_then(|name| name.strip_prefix(step));
        let name = name.is_some_and(|rest| rest.is_empty() || rest.starts_with("/shell-"));
        name && known["state"] == "waiting"
    };
    let known = steps.as_array()?.iter().find(is_it)?;
    let before = known["waits_for"].as_array()?.iter();
    let before = before.map(|before| {
        let word = |field| before[field].as_str().unwrap_or_default().to_owned();
        format!("{} (locked) after step '{}'", word("path"), word("step"))
    });
    let before: Vec<String> = before.collect();
    (!before.is_empty()).then(|| before.join(", "))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_who_waits_is_told_of() {
        let before = json!([{ "path": "/root/.m2", "step": "a" }]);
        let steps = json!([
            { "name": "b", "state": "open" },
            { "name": "c/shell-1", "state": "waiting", "waits_for": before },
            { "name": "d", "state": "waiting", "waits_for": before },
        ]);
        let said = Some("/root/.m2 (locked) after step 'a'".to_owned());
        assert_eq!(waits_for(&steps, "c"), said);
        assert_eq!(waits_for(&steps, "d"), said);
        assert_eq!(waits_for(&steps, "b"), None);
        assert_eq!(waits_for(&Value::Null, "b"), None);
    }
}
