//! What only a bound that is out of reach can show.

use std::io::Read;

use super::super::tar::{Member, What};
use super::archive::{Form, Written};
use super::assemble::Assembler;
use super::batch::Batch;
use super::{LEVEL, MAX_TOC};
use crate::tree::Time;

/// A blob of empty files whose TOC may have so many bytes.
fn blob(files: u32, mtime: Time, max_toc: u64) -> Written {
    let file = || tempfile::tempfile().unwrap();
    let assembler = Assembler::chunked(file(), file(), file()).unwrap();
    let mut assembler = assembler.with_max_toc(max_toc);
    let mut compressor = zstd::bulk::Compressor::new(LEVEL).unwrap();
    for serial in 0..files {
        let member = Member {
            mtime,
            ..Member::plain(format!("{serial}").into_bytes(), What::File(0), 0o644)
        };
        let mut batch = Batch::new();
        batch.between(&super::super::tar::header(&member).unwrap());
        batch.member(member);
        batch.pack(Some(&mut compressor)).unwrap();
        assembler.take(&mut batch).unwrap();
    }
    assembler.finish().unwrap()
}

fn tar(written: Written) -> Vec<u8> {
    let mut file = written.file;
    std::io::Seek::rewind(&mut file).unwrap();
    let mut tar = Vec::new();
    zstd::Decoder::new(file)
        .unwrap()
        .read_to_end(&mut tar)
        .unwrap();
    tar
}

#[test]
fn a_toc_that_nobody_would_read_is_not_written() {
    let now = Time { sec: 1, nsec: 0 };
    let with = blob(100, now, MAX_TOC);
    assert_eq!((with.form, with.note), (Form::Chunked, None));
    assert_eq!(with.annotations.len(), 3);
    // Too large while it grows, or only with what comes at its end.
    let toc = with
        .annotations
        .iter()
        .find(|(key, _)| key.ends_with("manifest-position"));
    let sizes = toc.unwrap().1.split(':');
    let size: u64 = sizes.clone().nth(2).unwrap().parse().unwrap();
    assert_eq!(blob(100, now, size).digest, with.digest);
    for most in [1, size / 2, size - 1] {
        let without = blob(100, now, most);
        assert_eq!(without.form, Form::Zstd);
        assert!(without.annotations.is_empty());
        assert!(without.note.unwrap().contains("too many entries"));
        assert_eq!(without.diff_id, with.diff_id);
        assert_eq!(without.tree_digest, with.tree_digest);
        assert!(without.size < with.size);
        assert_eq!(tar(without).len(), 100 * 512);
    }
    assert_eq!(tar(with).len(), 100 * 512);
}

#[test]
fn what_others_cannot_read_is_said_of_a_toc_that_is_there() {
    // In the year 36812.
    let later = Time {
        sec: 1 << 40,
        nsec: 0,
    };
    let with = blob(3, later, MAX_TOC);
    assert_eq!(with.form, Form::Chunked);
    assert!(with.note.unwrap().contains("harness-fs alone"));
    assert!(
        with.annotations
            .keys()
            .all(|key| key.starts_with("io.harness.fs."))
    );
    let without = blob(3, later, 1);
    assert!(without.note.unwrap().contains("too many entries"));
}
