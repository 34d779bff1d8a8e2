//! A file's content, sent to who asked for it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::requests::Requests;
use crate::control::{Connection, Reply};
use crate::error::Context;
use crate::stage::Failure;
use crate::tree::shown::shown;

/// What is sent at a time, whatever the size of the file.
const PIECE: usize = 128 << 10;

impl Requests {
    /// Sends a file as of a layer. Who reads slowly holds nothing of the stage
    /// but the file.
    ///
    /// # Errors
    /// As [`Stage::file_as_of`](crate::stage::Stage::file_as_of), and what reading
    /// reports.
    pub(super) fn cat(
        &self,
        layer: &str,
        path: &Path,
        connection: &mut Connection,
    ) -> Result<Reply, Failure> {
        let file = self.stage()?.file_as_of(layer, path)?;
        send(file, connection).context(|| shown(path).into_owned())?;
        Ok(Reply::done())
    }
}

fn send(mut file: File, connection: &mut Connection) -> crate::error::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = match file.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(length) => length,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error.into()),
        };
        if connection.send_content(&piece[..length]).is_err() {
            // Who asked has left, and is told nothing more.
            return Ok(());
        }
    }
}
