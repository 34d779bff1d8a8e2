//! `step shell`: a look at what a step has left.

use std::os::fd::AsFd;
use std::time::Duration;

use serde_json::json;

use super::queue::By;
use super::render;
use super::requests::Requests;
use super::steps::{exec, with_survivors};
use crate::control::{Connection, Reply};
use crate::stage::{Failure, survivors};

/// A copy of what a step has left, for a command that the client runs; thrown
/// away when it has ended, or the client is gone. An open step has its own view.
pub fn shell(
    requests: &Requests,
    step: &str,
    grace: Duration,
    connection: &mut Connection,
) -> Result<Reply, Failure> {
    let (shell, note) = {
        let stage = requests.stage_to_enter()?;
        let shell = stage.open_shell(step)?;
        if let Some(shell) = &shell {
            // While the stage is lent, or its end would not see the view.
            let mount = shell.view.mount.clone();
            requests.steps.add(&shell.name, mount, None);
        }
        let known = stage.steps().into_iter().find(|known| known.name == step);
        let live = shell.as_ref().map(|shell| shell.view.live.clone());
        (
            shell,
            render::entered(step, known.as_ref(), &live.unwrap_or_default()),
        )
    };
    let Some(shell) = shell else {
        return exec(requests, step, note, connection);
    };
    let views = [shell.view.mount.clone()];
    let entered = Reply::Entered {
        view: shell.view,
        others: Vec::new(),
        note,
    };
    let locked = requests.stage().map(|stage| stage.locked_paths_of(step));
    let turn = locked.and_then(|locked| {
        let turn = requests
            .queue
            .enter(&shell.name, locked, By::Any, connection.as_fd());
        Ok(turn?)
    });
    let ended = match turn {
        Err(failure) => Err(failure),
        Ok(_turn) => match connection.ended(&entered) {
            Some(_) => survivors::end_until(&views, grace, connection.as_fd()),
            None => survivors::end(&views, grace),
        }
        .map_err(Failure::from),
    };
    // Whoever has not ended gets errors. The end of the stage is that of the view.
    let closed = match requests.stage() {
        Ok(stage) => stage.close_shell(&shell.name),
        Err(_) => Ok(()),
    };
    if closed.is_ok() {
        requests.steps.remove(&shell.name);
    }
    closed?;
    let ended = ended?;
    let data = json!({ "survivors": ended });
    Ok(Reply::report(with_survivors(&ended, ""), &data))
}
