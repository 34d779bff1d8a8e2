//! File descriptors that travel with the bytes of a UNIX socket (unix(7),
//! `SCM_RIGHTS`).

use std::collections::VecDeque;
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg};

use crate::error::{Error, Result};

/// How many descriptors one message can carry: the kernel's `SCM_MAX_FD` is 253.
pub const MOST: usize = 64;
/// How many are held that nobody has taken; more are closed.
const HELD: usize = 2 * MOST;

/// A socket whose reader keeps the descriptors that come along.
#[derive(Debug)]
pub struct Passing {
    stream: UnixStream,
    received: VecDeque<OwnedFd>,
}

impl Passing {
    /// Of this socket.
    pub fn new(stream: UnixStream) -> Passing {
        Passing {
            stream,
            received: VecDeque::new(),
        }
    }

    /// The socket.
    pub fn stream(&self) -> &UnixStream {
        &self.stream
    }

    /// The descriptors that have come and were not taken, in order.
    pub fn take_received(&mut self) -> Vec<OwnedFd> {
        self.received.drain(..).collect()
    }

    /// Sends bytes, the first of them with these descriptors.
    ///
    /// # Errors
    /// As sendmsg(2); `EINVAL` for more than [`MOST`].
    pub fn send_with(&mut self, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<()> {
        if fds.len() > MOST || (bytes.is_empty() && !fds.is_empty()) {
            return Err(Error::new(Errno::EINVAL, "too many descriptors at once"));
        }
        let mut rest = bytes;
        if !fds.is_empty() {
            let raw: Vec<_> = fds.iter().map(AsRawFd::as_raw_fd).collect();
            let sent = loop {
                let sent = sendmsg::<()>(
                    self.stream.as_raw_fd(),
                    &[IoSlice::new(bytes)],
                    &[ControlMessage::ScmRights(&raw)],
                    MsgFlags::MSG_NOSIGNAL,
                    None,
                );
                match sent {
                    Err(Errno::EINTR) => {}
                    other => break other?,
                }
            };
            rest = &bytes[sent..];
        }
        Ok(self.stream.write_all(rest)?)
    }
}

impl Read for Passing {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut space = cmsg_space!([std::os::fd::RawFd; MOST]);
        let mut slices = [IoSliceMut::new(buffer)];
        let message = recvmsg::<()>(
            self.stream.as_raw_fd(),
            &mut slices,
            Some(&mut space),
            MsgFlags::MSG_CMSG_CLOEXEC,
        )?;
        let bytes = message.bytes;
        for control in message.cmsgs()? {
            if let ControlMessageOwned::ScmRights(fds) = control {
                for fd in fds {
                    // SAFETY: recvmsg(2) has just made it for us, and nobody else knows it.
                    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
                    if self.received.len() < HELD {
                        self.received.push_back(fd);
                    }
                }
            }
        }
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Seek;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_file_arrives_with_the_bytes() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut one, mut two) = (Passing::new(one), Passing::new(two));
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"content").unwrap();
        one.send_with(b"first", &[]).unwrap();
        one.send_with(b"second", &[file.as_fd(), file.as_fd()])
            .unwrap();
        drop(one);
        let mut text = String::new();
        two.read_to_string(&mut text).unwrap();
        assert_eq!(text, "firstsecond");
        let mut fds = two.take_received().into_iter();
        let mut got = File::from(fds.next().unwrap());
        got.rewind().unwrap();
        text.clear();
        got.read_to_string(&mut text).unwrap();
        assert_eq!(text, "content");
        assert_eq!((fds.count(), two.take_received().len()), (1, 0));
    }

    #[test]
    fn nobody_can_make_us_hold_any_number() {
        let (one, two) = UnixStream::pair().unwrap();
        let (mut one, mut two) = (Passing::new(one), Passing::new(two));
        let file = tempfile::tempfile().unwrap();
        let many = [file.as_fd(); MOST + 1];
        assert!(one.send_with(b"x", &many).is_err());
        let sender = std::thread::spawn(move || {
            for _ in 0..5 {
                one.send_with(b"x", &[tempfile::tempfile().unwrap().as_fd(); MOST])
                    .unwrap();
            }
        });
        two.read_to_end(&mut Vec::new()).unwrap();
        sender.join().unwrap();
        assert_eq!(two.take_received().len(), HELD);
    }
}
