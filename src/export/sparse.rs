//! Reading files with holes: what lies in a hole is not read.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;

use crate::error::Result;
use crate::sys::copy;

/// Reads a file from its start. Holes come out as zeros that no disk and no page
/// cache was asked for.
pub struct SparseReader {
    file: File,
    size: u64,
    at: u64,
    /// The data that `at` is in, or the next.
    data: (u64, u64),
}

impl SparseReader {
    /// Of an open file.
    ///
    /// # Errors
    /// As fstat(2).
    pub fn new(file: File) -> Result<SparseReader> {
        let size = file.metadata()?.len();
        Ok(SparseReader {
            file,
            size,
            at: 0,
            data: (0, 0),
        })
    }
}

impl Read for SparseReader {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at >= self.size {
            return Ok(0);
        }
        if self.at >= self.data.1 {
            self.data = copy::data(&self.file, self.at, self.size)
                .map_err(|error| std::io::Error::from_raw_os_error(error.errno() as i32))?;
        }
        let (start, end) = self.data;
        let in_hole = self.at < start;
        let until = if in_hole { start } else { end };
        let length = buffer
            .len()
            .min(usize::try_from(until - self.at).unwrap_or(usize::MAX));
        let buffer = &mut buffer[..length];
        let got = if in_hole {
            buffer.fill(0);
            length
        } else {
            self.file.read_at(buffer, self.at)?
        };
        self.at += got as u64;
        Ok(got)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_zeros() {
        let whole = |ranges: &[(u64, u64)], size: u64| {
            let file = tempfile::tempfile().unwrap();
            file.set_len(size).unwrap();
            for (start, end) in ranges {
                let bytes: Vec<u8> = (*start..*end).map(|at| at as u8 | 1).collect();
                file.write_all_at(&bytes, *start).unwrap();
            }
            let mut plain = vec![0; usize::try_from(size).unwrap()];
            file.read_exact_at(&mut plain, 0).unwrap();
            let mut read = Vec::new();
            SparseReader::new(file)
                .unwrap()
                .read_to_end(&mut read)
                .unwrap();
            assert!(read == plain, "{ranges:?} of {size}");
        };
        whole(&[], 0);
        whole(&[], 3_000_001);
        whole(&[(0, 5)], 5);
        whole(&[(0, 4096), (1 << 20, (1 << 20) + 3)], 2 << 20);
        whole(&[(1 << 20, 2 << 20)], 2 << 20);
        whole(&[(5, 7)], 100_000);
    }
}
