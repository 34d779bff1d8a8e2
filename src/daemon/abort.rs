//! The end of what runs of a group that is given up.

use std::time::Duration;

use super::requests::Requests;
use super::steps::end_and_discard;
use crate::control::{Connection, Reply};
use crate::stage::{Failure, Stage};

/// How long what others run by hand in a member has to end.
const GRACE: Duration = Duration::from_secs(10);
/// Between looks whether the client still waits.
const LOOK: Duration = Duration::from_millis(200);

/// Gives up a group, and waits until all of it has ended, or nobody waits for
/// that any more.
pub fn abort(requests: &Requests, group: &str, connection: &Connection) -> Result<Reply, Failure> {
    let running = {
        let stage = requests.stage()?;
        stage.abort_group(group)?;
        end_members(requests, &stage, group)?
    };
    while !requests.steps.wait_for(&running, LOOK) && !connection.given_up() {}
    let text = match running.is_empty() {
        true => "",
        false => &format!("ended {}\n", running.join(", ")),
    };
    let data = serde_json::json!({ "ended": running });
    Ok(Reply::Report {
        text: text.to_owned(),
        data,
    })
}

/// Has all end that still runs of an aborted group, and names it. Whoever runs a
/// member puts it away; one that nobody runs is discarded here.
pub fn end_members(
    requests: &Requests,
    stage: &Stage,
    group: &str,
) -> Result<Vec<String>, Failure> {
    let mut ended = Vec::new();
    // All are told before one is waited for.
    let (running, idle): (Vec<String>, Vec<String>) = stage
        .open_members(group)
        .into_iter()
        .partition(|member| requests.steps.alarm(member));
    for member in idle {
        let views: Vec<_> = requests.steps.idle(&member, false)?.into_iter().collect();
        end_and_discard(requests, stage, &member, &views, GRACE)?;
        ended.push(member);
    }
    ended.extend(running);
    Ok(ended)
}
