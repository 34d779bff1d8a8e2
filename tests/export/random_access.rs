//! Reading single files of blobs.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;

use harness_fs::error::Result;
use harness_fs::export::What;
use harness_fs::export::chunked::{Blob, ReadAt};

use super::frames::{CHUNK, annotations, blob, bytes, everything, open};

/// Bytes in memory that know what was read of them.
pub struct Store {
    pub bytes: Vec<u8>,
    pub read: RefCell<Vec<Range<u64>>>,
}

impl Store {
    pub fn new(bytes: Vec<u8>) -> Store {
        Store {
            bytes,
            read: RefCell::default(),
        }
    }
}

impl ReadAt for &Store {
    fn size(&self) -> Result<u64> {
        Ok(self.bytes.len() as u64)
    }

    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> Result<()> {
        let end = offset + buffer.len() as u64;
        self.read.borrow_mut().push(offset..end);
        let from = usize::try_from(offset).expect("small");
        buffer.copy_from_slice(&self.bytes[from..from + buffer.len()]);
        Ok(())
    }
}

#[test]
fn every_file_comes_back() {
    let items = everything();
    let written = blob(&items, 2);
    let opened = open(&written);
    assert_eq!(opened.tree_digest(), written.tree_digest);
    assert_eq!(opened.entries().len(), items.len());
    for ((member, content), entry) in items.iter().zip(opened.entries()) {
        assert_eq!(entry.member, *member);
        assert_eq!(opened.find(&member.path), Some(entry));
        let mut all = Vec::new();
        opened.copy(entry, &mut all).expect("copy");
        let content = match member.what {
            What::File(_) => content.as_slice(),
            _ => &[],
        };
        assert!(all == content, "{}", member.shown());
        let size = content.len();
        let chunk = CHUNK.min(size);
        for (from, length) in [
            (0, size),
            (0, 1),
            (size / 2, 1000),
            (chunk.saturating_sub(3), 7),
            (size.saturating_sub(1), 5),
            (size, 5),
            (size + 1000, 5),
        ] {
            let mut buffer = vec![7; length];
            let got = opened
                .read_at(entry, &mut buffer, from as u64)
                .expect("read");
            let wanted = content.get(from..(from + length).min(size)).unwrap_or(&[]);
            assert!(
                buffer[..got] == *wanted,
                "{} {from} {length}",
                member.shown()
            );
        }
    }
    assert_eq!(opened.find(b"d/none"), None);
}

#[test]
fn a_read_takes_the_chunks_that_it_needs() {
    let written = blob(&everything(), 2);
    let store = Store::new(bytes(&written));
    let opened = Blob::open(&store, &annotations(&written))
        .expect("open")
        .expect("a TOC");
    assert_eq!(
        store.read.borrow().len(),
        1,
        "with annotations the TOC alone is read"
    );
    let entry = opened.find(b"d/two-chunks").expect("there");
    store.read.borrow_mut().clear();
    opened
        .read_at(entry, &mut [0; 5], CHUNK as u64 - 5)
        .expect("read");
    assert_eq!(*store.read.borrow(), [entry.chunks[0].packed.clone()]);
    store.read.borrow_mut().clear();
    // Holes cost nothing.
    let holes = opened.find(b"d/holes").expect("there");
    opened.copy(holes, &mut std::io::sink()).expect("copy");
    assert_eq!(*store.read.borrow(), [holes.chunks[1].packed.clone()]);
    // Without, the footer tells where it is.
    store.read.borrow_mut().clear();
    let by_footer = Blob::open(&store, &HashMap::new())
        .expect("open")
        .expect("a TOC");
    let size = store.bytes.len() as u64;
    assert_eq!(store.read.borrow()[0], size - 72..size);
    assert_eq!(by_footer.entries(), opened.entries());
}

#[test]
fn what_has_no_toc_is_no_error() {
    for other in [&b""[..], b"short", &[0; 5000]] {
        let store = Store::new(other.to_vec());
        assert!(Blob::open(&store, &HashMap::new()).expect("read").is_none());
    }
    let single = zstd::encode_all(&[1; 100_000][..], 3).expect("zstd");
    let store = Store::new(single);
    assert!(Blob::open(&store, &HashMap::new()).expect("read").is_none());
}
