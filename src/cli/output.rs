//! What commands say, and the codes they end with.

use std::io::{ErrorKind, Write};

use serde::Serialize;
use serde_json::Value;

use crate::control::{Problem, Reply};
use crate::drive::Refused;
use crate::error::Error;
use crate::stage::Failure;

/// A conflict in `step run`.
pub const CONFLICT_OF_RUN: u8 = 121;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub struct Trouble {
    /// The exit code.
    pub code: u8,
    message: String,
    json: Option<Value>,
}

impl Trouble {
    /// Trouble with an exit code and a sentence.
    pub fn new(code: u8, message: impl Into<String>) -> Trouble {
        Trouble {
            code,
            message: message.into(),
            json: None,
        }
    }

    /// The sentence.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Says it on standard error; what programs read goes to standard output.
    pub fn tell(&self) {
        if let Some(json) = &self.json {
            let _ = print_json(json);
        }
        note(&self.message);
    }
}

impl From<Problem> for Trouble {
    fn from(problem: Problem) -> Trouble {
        match problem {
            Problem::NoStage(text) => Trouble::new(3, text),
            Problem::Gone(text) => Trouble::new(5, text),
            Problem::Version(text) => Trouble::new(1, text),
            Problem::Other(error) => error.into(),
        }
    }
}

impl From<Refused> for Trouble {
    fn from(refused: Refused) -> Trouble {
        Trouble::new(refused.code, refused.message)
    }
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Trouble {
        Trouble::new(1, error.to_string())
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Trouble {
        let code = match failure {
            Failure::Usage(_) => 2,
            Failure::NotFound(_) => 3,
            Failure::Conflict(_) => 4,
            Failure::Failed(_) => 1,
        };
        Trouble::new(code, failure.to_string())
    }
}

/// Says a sentence on standard error.
pub fn note(text: &str) {
    let mut all = String::new();
    for (index, line) in text.trim_end().lines().enumerate() {
        // Reports keep their own shape below the first line.
        let lead = if index == 0 { "harness-fs: " } else { "" };
        all.push_str(&format!("{lead}{line}\n"));
    }
    let _ = std::io::stderr().write_all(all.as_bytes());
}

/// Prints to standard output, ending the line. A reader that has left (`| head`)
/// is no failure.
///
/// # Errors
/// As write(2), but for `EPIPE`: a full disk must not pass for success.
pub fn print(text: &str) -> Result<(), Trouble> {
    let text = text.trim_end_matches('\n');
    if text.is_empty() {
        return Ok(());
    }
    let mut out = std::io::stdout().lock();
    let written = out
        .write_all(text.as_bytes())
        .and_then(|()| out.write_all(b"\n"))
        .and_then(|()| out.flush());
    match written {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            let error = Error::from(error);
            let text = format!("the command is done, but its output could not be written: {error}");
            Err(Trouble::new(1, text))
        }
        _ => Ok(()),
    }
}

/// Prints a value for programs.
///
/// # Errors
/// As [`print`].
pub fn print_json(value: &impl Serialize) -> Result<(), Trouble> {
    let text = serde_json::to_string_pretty(value).map_err(Error::from)?;
    print(&text)
}

/// Prints what the daemon replied, for people or for programs.
///
/// # Errors
/// The failure that it replied, and as [`print`].
pub fn show(reply: Reply, json: bool) -> Result<u8, Trouble> {
    let (text, data) = expect_report(reply, json)?;
    if json && data.is_null() {
        // Done, and nothing to tell; `null` would be no object to ask for fields.
        print("{}")?;
    } else if json {
        print_json(&data)?;
    } else {
        print(&text)?;
    }
    Ok(0)
}

/// The text and the data of a report.
///
/// # Errors
/// The failure, if the reply is one.
pub fn expect_report(reply: Reply, json: bool) -> Result<(String, Value), Trouble> {
    match reply {
        Reply::Report { text, data } => Ok((text, data)),
        other => Err(unexpected(other, json)),
    }
}

/// A reply that is not what was asked for: a failure, or nonsense.
pub fn unexpected(reply: Reply, json: bool) -> Trouble {
    match reply {
        Reply::Failure {
            code,
            message,
            data,
        } => Trouble {
            code,
            message,
            json: (json && !data.is_null()).then_some(data),
        },
        _ => Trouble::new(1, "the daemon gave an answer that makes no sense"),
    }
}
