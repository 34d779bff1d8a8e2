//! Reading and writing for as long as that is wanted.

use std::io::{Read, Write};

use crate::error::Result;

/// Asked all the time; its failure ends what is under way.
pub type Wanted<'a> = &'a dyn Fn() -> Result<()>;

/// A reader or a writer that asks before each call.
pub struct Wanting<'a, T> {
    /// What is read or written.
    pub inner: T,
    /// Who is asked.
    pub wanted: Wanted<'a>,
}

impl<T> Wanting<'_, T> {
    fn ask(&self) -> std::io::Result<()> {
        (self.wanted)().map_err(|error| std::io::Error::from_raw_os_error(error.errno() as i32))
    }
}

impl<R: Read> Read for Wanting<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.ask()?;
        self.inner.read(buffer)
    }
}

impl<W: Write> Write for Wanting<'_, W> {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.ask()?;
        self.inner.write(buffer)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.inner.flush()
    }
}
