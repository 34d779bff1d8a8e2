//! One JSON value per line.

use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::errno::Errno;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::sys::passing::Passing;

/// What a client says names steps and paths. Longer lines are refused: nobody
/// may fill the daemon's memory.
pub const LONGEST_REQUEST: u64 = 16 << 20;
/// What the daemon says may list every path of a tree.
const LONGEST_REPLY: u64 = 256 << 20;

/// Both directions of a connection.
#[derive(Debug)]
pub struct Wire {
    reader: BufReader<Passing>,
    longest: u64,
}

impl Wire {
    /// Speaks to a daemon over this socket.
    pub fn new(stream: UnixStream) -> Wire {
        let reader = BufReader::new(Passing::new(stream));
        Wire {
            reader,
            longest: LONGEST_REPLY,
        }
    }

    /// Speaks to a client over this socket.
    pub fn to_client(stream: UnixStream) -> Wire {
        Wire {
            longest: LONGEST_REQUEST,
            ..Wire::new(stream)
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        self.reader.get_ref().stream()
    }

    /// Whether something has come that was not received yet.
    pub fn has_more(&self) -> bool {
        !self.reader.buffer().is_empty()
    }

    /// Sends one message.
    ///
    /// # Errors
    /// As write(2); `EPIPE` when the other side is gone.
    pub fn send(&mut self, message: &impl Serialize) -> Result<()> {
        self.send_with(message, &[])
    }

    /// Sends one message with open files.
    ///
    /// # Errors
    /// As [`Wire::send`]; `EINVAL` for too many files.
    pub fn send_with(&mut self, message: &impl Serialize, files: &[BorrowedFd<'_>]) -> Result<()> {
        let mut line = serde_json::to_vec(message)?;
        line.push(b'\n');
        self.reader.get_mut().send_with(&line, files)
    }

    /// The files that came with the messages received since the last time.
    pub fn take_files(&mut self) -> Vec<OwnedFd> {
        self.reader.get_mut().take_received()
    }

    /// Sends bytes that belong to the message before them.
    ///
    /// # Errors
    /// As [`Wire::send`].
    pub fn send_bytes(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.get_mut().send_with(bytes, &[])
    }

    /// Receives so many bytes, piece by piece; `None` when the other side has
    /// closed before the last.
    ///
    /// # Errors
    /// As read(2), or what `take` reports.
    pub fn receive_bytes(
        &mut self,
        mut length: usize,
        take: &mut dyn FnMut(&[u8]) -> Result<()>,
    ) -> Result<Option<()>> {
        while length > 0 {
            let bytes = match self.reader.fill_buf() {
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                read => read?,
            };
            if bytes.is_empty() {
                return Ok(None);
            }
            let now = length.min(bytes.len());
            take(&bytes[..now])?;
            self.reader.consume(now);
            length -= now;
        }
        Ok(Some(()))
    }

    /// Receives one message, or `None` when the other side has closed.
    ///
    /// # Errors
    /// As read(2), or `EINVAL` when it is not understood.
    pub fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<T>> {
        let line = self.receive_line()?;
        Ok(match line {
            Some(line) => Some(serde_json::from_slice(&line)?),
            None => None,
        })
    }

    /// Receives one line, or `None` when the other side has closed.
    ///
    /// # Errors
    /// As read(2), or `EMSGSIZE`; nothing can be received after that.
    pub fn receive_line(&mut self) -> Result<Option<Vec<u8>>> {
        let mut line = Vec::new();
        let read = (&mut self.reader)
            .take(self.longest)
            .read_until(b'\n', &mut line);
        match read {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error.into()),
        }
        match line.last() {
            Some(b'\n') => Ok(Some(line)),
            // The other side ended in the middle of a message, or before one.
            _ if (line.len() as u64) < self.longest => Ok(None),
            _ => {
                let text = format!("a message of more than {} MiB", self.longest >> 20);
                Err(Error::new(Errno::EMSGSIZE, text))
            }
        }
    }
}
