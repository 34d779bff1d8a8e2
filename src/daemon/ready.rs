//! What a daemon says once: that its stage is ready, or why it is not.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::stage::Slot;

/// The one line that a daemon writes when it is ready, or cannot be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// The tree is usable.
    Yes {
        /// The mapped paths.
        #[serde(with = "crate::tree::shown::all")]
        mapped: Vec<PathBuf>,
        /// The slots.
        slots: Vec<Slot>,
        /// What the user should know.
        notes: Vec<String>,
        /// The process that serves it.
        pid: i32,
    },
    /// It is not going to be.
    No {
        /// The exit code.
        code: u8,
        /// One sentence.
        message: String,
    },
}

impl Ready {
    /// Says it; false if nobody listens any more.
    pub fn say(&self, to: &mut File) -> bool {
        let mut line = serde_json::to_vec(self).unwrap_or_default();
        line.push(b'\n');
        to.write_all(&line).is_ok()
    }
}

/// Waits for the line; a daemon that ends without one has failed.
pub fn wait(from: impl Read) -> Ready {
    let mut line = String::new();
    let read = BufReader::new(from).read_line(&mut line);
    let said = read.ok().and_then(|_| serde_json::from_str(&line).ok());
    said.unwrap_or_else(|| Ready::No {
        code: 1,
        message: "the daemon ended before its stage was ready; its log may tell why".to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_a_failure() {
        assert!(matches!(wait(&b""[..]), Ready::No { code: 1, .. }));
        assert!(matches!(wait(&b"{\"Yes"[..]), Ready::No { code: 1, .. }));
        let line = br#"{"No":{"code":2,"message":"so"}}"#;
        let expected = Ready::No {
            code: 2,
            message: "so".to_owned(),
        };
        assert_eq!(wait(&line[..]), expected);
    }
}
