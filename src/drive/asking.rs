//! What is asked of the stage's daemon.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout};
use parking_lot::Mutex;
use serde_json::Value;

use super::halt::Halt;
use super::report::Layer;
use crate::control::{Client, Patience, Problem, Reply, Request};
use crate::tree::shown::path_of;

/// So many looks pass before it is told that a step waits.
const LOOKS_UNTOLD: u32 = 10;
/// How often, in milliseconds, it is looked whether the stage has been ended, while a step waits to begin.
const LOOKS_MS: u8 = 100;

/// Why the daemon did not do what was asked.
#[derive(Clone, Debug)]
pub struct Refused {
    /// As the exit codes of commands: 4 is a conflict.
    pub code: u8,
    /// One sentence, or a report.
    pub message: String,
    /// For programs.
    pub data: Value,
}

impl From<Problem> for Refused {
    fn from(problem: Problem) -> Refused {
        let (code, message) = match problem {
            Problem::NoStage(text) => (3, text),
            Problem::Gone(text) => (5, text),
            Problem::Version(text) => (1, text),
            Problem::Other(error) => (1, error.to_string()),
        };
        let data = Value::Null;
        Refused {
            code,
            message,
            data,
        }
    }
}

/// The daemon of a stage.
pub struct Asking {
    /// Where the stage's state lies.
    pub state_dir: PathBuf,
    /// What messages call the stage.
    pub label: String,
    tell: fn(&str),
    /// By step: the connection that it is tied to until it is merged. They end with this
    /// process, and the steps with them.
    ties: Mutex<BTreeMap<String, Client>>,
}

impl Asking {
    /// Of the stage in this state directory; what takes long is told.
    pub fn new(state_dir: PathBuf, label: String, tell: fn(&str)) -> Asking {
        Asking {
            state_dir,
            label,
            tell,
            ties: Mutex::default(),
        }
    }

    fn connect(&self) -> Result<Client, Refused> {
        let patience = Patience {
            tell: self.tell,
            limit: None,
        };
        Ok(Client::connect(&self.state_dir, &self.label, patience)?)
    }

    /// Asks for one thing, on a connection of its own.
    ///
    /// # Errors
    /// What the daemon refuses it for, or that there is none any more.
    pub fn ask(&self, request: &Request) -> Result<(String, Value), Refused> {
        report(self.connect()?.ask(request)?)
    }

    /// Begins a step, which ends with this process. That may have to wait for others, but not
    /// longer than until the stage is ended.
    ///
    /// # Errors
    /// As [`Asking::ask`].
    pub fn begin(&self, step: &str, origin: &Origin, halt: &Halt) -> Result<(), Refused> {
        let (like, after, private) = match origin {
            Origin::Stage => (None, None, Vec::new()),
            Origin::Like(step) => (Some(step.clone()), None, Vec::new()),
            Origin::After(step) => (None, Some(step.clone()), Vec::new()),
            Origin::Marked => (None, None, self.shared_paths()?),
        };
        let mut client = self.connect()?;
        client.send(&Request::StepBegin {
            step: step.to_owned(),
            tied: true,
            like,
            after,
            private,
            slot: None,
        })?;
        let mut looks = 0;
        while !can_be_read(&client) {
            looks += 1;
            if looks == LOOKS_UNTOLD {
                (self.tell)(&format!(
                    "step '{step}' waits for its turn at a locked path"
                ));
            }
            if halt.why().is_some() {
                // It is answered all the same.
                let _ = client.give_up();
                break;
            }
        }
        report(client.reply()?)?;
        self.ties.lock().insert(step.to_owned(), client);
        Ok(())
    }

    /// Those of the stage, which may have more than the file.
    fn shared_paths(&self) -> Result<Vec<PathBuf>, Refused> {
        let (_, status) = self.ask(&Request::Status {})?;
        let modes = status["sharing"].as_object();
        let paths = modes.into_iter().flat_map(|modes| modes.keys());
        Ok(paths.map(|path| path_of(path)).collect())
    }

    /// What has become of a step's layer when its merge failed, other than by a conflict.
    pub fn what_is_left(&self, step: &str) -> Layer {
        let listed = self.ask(&Request::StepList { reads: false });
        let listed = listed.map(|(_, steps)| steps).unwrap_or_default();
        let mut sealed = listed.as_array().into_iter().flatten();
        match sealed.any(|other| other["name"] == step && other["state"] != "open") {
            true => Layer::Kept,
            // It is tied to this process, and goes with it.
            false => Layer::Discarded,
        }
    }

    /// A step is merged or kept, and does not end with this process any more.
    pub fn untie(&self, step: &str) {
        self.ties.lock().remove(step);
    }

    /// Ends what runs in a step, and forgets it.
    ///
    /// # Errors
    /// As [`Asking::ask`].
    pub fn discard(&self, step: &str, grace: Duration) -> Result<(), Refused> {
        let request = Request::StepDiscard {
            step: step.to_owned(),
            grace_ms: millis(grace),
        };
        let discarded = self.ask(&request);
        self.untie(step);
        discarded.map(drop)
    }
}

/// Waits for a moment; says whether something has come.
fn can_be_read(client: &Client) -> bool {
    let mut polled = [PollFd::new(client.as_fd(), PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, PollTimeout::from(LOOKS_MS)) != Ok(0)
}

/// What a step begins on.
#[derive(Clone, Debug)]
pub enum Origin {
    /// The stage as it is.
    Stage,
    /// What this step began on.
    Like(String),
    /// What this step has left.
    After(String),
    /// The stage as it is, and nothing is run there: it waits for nobody's turn.
    Marked,
}

/// Milliseconds, as they are sent.
pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn report(reply: Reply) -> Result<(String, Value), Refused> {
    match reply {
        Reply::Report { text, data } => Ok((text, data)),
        Reply::Failure {
            code,
            message,
            data,
        } => Err(Refused {
            code,
            message,
            data,
        }),
        _ => Err(Refused {
            code: 1,
            message: "the daemon gave an answer that makes no sense".to_owned(),
            data: Value::Null,
        }),
    }
}
