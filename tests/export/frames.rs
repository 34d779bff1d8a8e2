//! Blobs made of members by hand, for the tests of what reads and writes them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Seek};

use harness_fs::export::chunked::{Archive, Blob, Written, write};
use harness_fs::export::{Member, What};
use harness_fs::tree::Time;

/// The content of one chunk.
pub const CHUNK: usize = 2 << 20;

pub fn scratch() -> File {
    tempfile::tempfile().expect("a file")
}

/// Bytes with some pattern, others for each seed.
pub fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(size + 32);
    while bytes.len() < size {
        bytes.extend_from_slice(format!("{:x} some text ", next() % 5000).as_bytes());
    }
    bytes.truncate(size);
    bytes
}

pub fn member(path: &str, what: What) -> Member {
    Member {
        path: path.as_bytes().to_vec(),
        what,
        perm: 0o644,
        uid: 0,
        gid: 0,
        mtime: Time {
            sec: 1_700_000_000,
            nsec: 0,
        },
        xattrs: Default::default(),
    }
}

/// A member, and a file's content.
pub type Item = (Member, Vec<u8>);

pub fn file(path: &str, content: Vec<u8>) -> Item {
    (member(path, What::File(content.len() as u64)), content)
}

pub fn append(archive: &mut Archive<'_>, items: &[Item]) -> harness_fs::error::Result<()> {
    for (member, content) in items {
        archive.append(member.clone(), Some(&mut content.as_slice()))?;
    }
    Ok(())
}

pub fn blob(items: &[Item], threads: usize) -> Written {
    let mut make = || Ok(scratch());
    let fill = |archive: &mut Archive<'_>| append(archive, items);
    write(scratch(), false, threads, &mut make, &|| Ok(()), fill).expect("a blob")
}

pub fn bytes(written: &Written) -> Vec<u8> {
    let mut file = written.file.try_clone().expect("dup");
    file.rewind().expect("rewind");
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).expect("read");
    bytes
}

pub fn annotations(written: &Written) -> HashMap<String, String> {
    written.annotations.clone().into_iter().collect()
}

pub fn open(written: &Written) -> Blob<File> {
    let file = written.file.try_clone().expect("dup");
    let blob = Blob::open(file, &annotations(written)).expect("a blob");
    blob.expect("a TOC")
}

/// All that a tar can hold, in some order that is none of names.
pub fn everything() -> Vec<Item> {
    let mut items = vec![
        (member("d", What::Dir), Vec::new()),
        file("d/empty", Vec::new()),
        file("d/small", b"small".to_vec()),
        file("d/block", noise(1, 512)),
        file("d/one-chunk", noise(2, CHUNK)),
        file("d/two-chunks", noise(3, CHUNK + 1)),
        // Zeros, something, zeros.
        file("d/holes", {
            let mut content = vec![0; 3 * CHUNK + 77];
            content[CHUNK + 5..CHUNK + 300].copy_from_slice(&noise(4, 295));
            content
        }),
        file("d/zeros", vec![0; 5000]),
        (
            member("d/link", What::HardLink(b"d/small".to_vec())),
            Vec::new(),
        ),
        (
            member("d/symlink", What::Symlink("n\u{e4}chst".into())),
            Vec::new(),
        ),
        (member("d/fifo", What::Fifo), Vec::new()),
        (
            member("d/null", What::CharDevice(nix::sys::stat::makedev(1, 3))),
            Vec::new(),
        ),
        (
            member(
                "d/disk",
                What::BlockDevice(nix::sys::stat::makedev(259, 70_000)),
            ),
            Vec::new(),
        ),
        (member("d/.wh.gone", What::File(0)), Vec::new()),
        (member("d/.wh..wh..opq", What::File(0)), Vec::new()),
        file(&format!("d/{}", "long".repeat(80)), noise(5, 700)),
        file("d/\u{fc}ml\u{e4}ut \"quoted\"\n<&>", noise(6, 10_000)),
    ];
    let attributes = items.len();
    items.push(file("d/attributes", noise(7, 1000)));
    let it = &mut items[attributes].0;
    it.perm = 0o4755;
    (it.uid, it.gid) = (3_000_000, u32::MAX - 1);
    it.mtime = Time {
        sec: -7,
        nsec: 123_456_789,
    };
    it.xattrs = [
        ("user.binary".into(), b"a\0\xff\n=".to_vec()),
        ("user.empty".into(), Vec::new()),
        ("security.capability".into(), noise(8, 60_000)),
    ]
    .into();
    for number in 0..200 {
        items.push(file(&format!("d/many-{number}"), noise(number, 4000)));
    }
    items
}
