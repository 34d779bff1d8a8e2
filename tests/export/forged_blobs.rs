//! Blobs forged byte by byte.

use std::collections::HashMap;
use std::ops::Range;

use harness_fs::error::Result;
use harness_fs::export::chunked::Blob;
use nix::errno::Errno;
use serde_json::{Value, json};

use super::forge::digest;
use super::frames::{blob, bytes, everything, noise};
use super::random_access::Store;

const POSITION: &str = "io.github.containers.zstd-chunked.manifest-position";
const CHECKSUM: &str = "io.github.containers.zstd-chunked.manifest-checksum";

/// A blob whose TOC is this JSON; the frames lie at the beginning.
struct Forged {
    frames: Vec<u8>,
    entries: Vec<Value>,
}

impl Forged {
    fn new() -> Forged {
        Forged {
            frames: Vec::new(),
            entries: Vec::new(),
        }
    }

    /// Appends a frame.
    fn frame(&mut self, content: &[u8]) -> Range<usize> {
        let start = self.frames.len();
        self.frames
            .extend(zstd::encode_all(content, 3).expect("zstd"));
        start..self.frames.len()
    }

    fn file(&mut self, name: &str, content: &[u8]) -> usize {
        // In the real thing a header comes first.
        self.frame(b"header");
        let frame = self.frame(content);
        self.entries.push(json!({
            "type": "reg", "name": name, "size": content.len(),
            "digest": format!("sha256:{}", digest(content)),
            "offset": frame.start, "endOffset": frame.end,
        }));
        self.entries.len() - 1
    }

    fn chunked(&mut self, name: &str, contents: &[&[u8]]) {
        let whole = contents.concat();
        self.frame(b"header");
        let first = self.entries.len();
        let mut at = 0;
        for content in contents {
            let frame = self.frame(content);
            self.entries.push(json!({
                "type": "chunk", "name": name, "offset": frame.start, "chunkOffset": at,
                "chunkSize": content.len(), "chunkDigest": format!("sha256:{}", digest(content)),
            }));
            at += content.len();
        }
        let reg = &mut self.entries[first];
        reg["type"] = "reg".into();
        reg["size"] = whole.len().into();
        reg["digest"] = format!("sha256:{}", digest(&whole)).into();
        reg["endOffset"] = self.frames.len().into();
    }

    fn pack(&self, toc: &[u8], unpacked: Option<usize>) -> (Store, HashMap<String, String>) {
        let packed = zstd::encode_all(toc, 3).expect("zstd");
        let mut bytes = self.frames.clone();
        bytes.extend([0x50, 0x2a, 0x4d, 0x18]);
        bytes.extend(u32::try_from(packed.len()).expect("small").to_le_bytes());
        let at = bytes.len();
        bytes.extend(&packed);
        let unpacked = unpacked.unwrap_or(toc.len());
        let annotations = HashMap::from([
            (
                POSITION.to_owned(),
                format!("{at}:{}:{unpacked}:1", packed.len()),
            ),
            (CHECKSUM.to_owned(), format!("sha256:{}", digest(&packed))),
        ]);
        (Store::new(bytes), annotations)
    }

    fn finish(&self) -> (Store, HashMap<String, String>) {
        let toc = json!({"version": 1, "entries": self.entries}).to_string();
        self.pack(toc.as_bytes(), None)
    }

    /// Opens it and expects a refusal.
    fn refused(&self, why: &str) {
        let (store, annotations) = self.finish();
        refused(&store, &annotations, why);
    }
}

fn refused(store: &Store, annotations: &HashMap<String, String>, why: &str) {
    let error = Blob::open(store, annotations).err().expect(why);
    assert_eq!(error.errno(), Errno::EINVAL, "{error}");
    let error = error.to_string();
    assert!(error.contains(why), "{why}: {error}");
}

fn good() -> Forged {
    let mut forged = Forged::new();
    forged
        .entries
        .push(json!({"type": "dir", "name": "d/", "mode": 0o755}));
    forged.file("d/a", b"content of a");
    forged.chunked("d/b", &[&noise(1, 5000), &[0; 3000], &noise(2, 100)]);
    forged.file("d/c", &noise(3, 70_000));
    forged
        .entries
        .push(json!({"type": "reg", "name": "d/empty"}));
    forged
}

#[test]
fn what_others_write_is_read() {
    let mut forged = good();
    forged.entries[1]["modtime"] = "2024-07-01T14:00:00.5+02:00".into();
    forged.entries[1]["accesstime"] = "2024-07-01T14:00:00Z".into();
    forged.entries[1]["mode"] = 0o100_644.into();
    let (store, annotations) = forged.finish();
    let opened = Blob::open(&store, &annotations)
        .expect("open")
        .expect("a TOC");
    let names: Vec<_> = opened
        .entries()
        .iter()
        .map(|entry| entry.member.shown())
        .collect();
    assert_eq!(names, ["d", "d/a", "d/b", "d/c", "d/empty"]);
    let a = opened.find(b"d/a").expect("a");
    assert_eq!(
        (a.member.mtime.sec, a.member.mtime.nsec),
        (1_719_835_200, 500_000_000)
    );
    assert_eq!(a.member.perm, 0o644);
    let b = opened.find(b"d/b").expect("b");
    assert_eq!(b.chunks.len(), 3);
    let mut all = Vec::new();
    opened.copy(b, &mut all).expect("copy");
    assert_eq!(all.len(), 8100);
}

#[test]
fn a_toc_that_is_not_consistent_is_refused() {
    type Spoil = fn(&mut Forged);
    let table: &[(&str, Spoil)] = &[
        ("no digest", |f| f.entries[1]["digest"] = "".into()),
        ("no digest", |f| f.entries[1]["digest"] = "sha512:00".into()),
        ("no digest", |f| {
            f.entries[1]["digest"] = format!("sha256:{}", "g".repeat(64)).into()
        }),
        ("no digest", |f| {
            f.entries[1]["digest"] = format!("sha256:{}", "\u{fc}".repeat(32)).into()
        }),
        ("an unknown type", |f| {
            f.entries[1]["type"] = "socket".into()
        }),
        ("an unknown type", |f| {
            drop(f.entries[1].as_object_mut().unwrap().remove("type"))
        }),
        ("is there twice", |f| f.entries[5]["name"] = "d/a".into()),
        ("is there twice", |f| f.entries[1]["name"] = "d".into()),
        ("a NUL", |f| f.entries[1]["name"] = "d/\0".into()),
        (
            "a NUL",
            |f| f.entries[0] = json!({"type": "symlink", "name": "l", "linkName": "a\0"}),
        ),
        ("a bad modtime", |f| {
            f.entries[1]["modtime"] = "yesterday".into()
        }),
        ("a bad modtime", |f| {
            f.entries[1]["io.harness.fs"] = json!({"modtime": "--1"})
        }),
        ("no base64", |f| {
            f.entries[1]["io.harness.fs"] = json!({"name": "*"})
        }),
        ("no base64", |f| {
            f.entries[1]["xattrs"] = json!({"user.x": "*"})
        }),
        ("64 KiB", |f| {
            f.entries[1]["xattrs"] = json!({"user.x": "AAAA".repeat(30_000)})
        }),
        ("expected u64", |f| f.entries[1]["size"] = (-1).into()),
        ("expected u64", |f| f.entries[1]["offset"] = (-1).into()),
        ("expected u32", |f| {
            f.entries[1]["uid"] = (1_u64 << 32).into()
        }),
        // A size that its chunks do not have.
        ("not the whole file", |f| f.entries[2]["size"] = 8101.into()),
        ("out of place", |f| f.entries[2]["size"] = 8099.into()),
        ("not the whole file", |f| drop(f.entries.remove(4))),
        ("out of place", |f| drop(f.entries.remove(3))),
        ("out of place", |f| {
            f.entries[3]["chunkOffset"] = 4999.into()
        }),
        ("out of place", |f| {
            f.entries[3]["chunkSize"] = u64::MAX.into()
        }),
        ("out of place", |f| f.entries[3]["chunkSize"] = 0.into()),
        ("without a digest", |f| {
            f.entries[3]["chunkDigest"] = "".into()
        }),
        ("of an unknown type", |f| {
            f.entries[3]["chunkType"] = "ones".into()
        }),
        ("a chunk of no file", |f| {
            f.entries[3]["name"] = "d/a".into()
        }),
        ("a chunk of no file", |f| f.entries.swap(0, 3)),
        ("a chunk of no file", |f| {
            let chunk = f.entries[3].clone();
            f.entries.push(chunk);
        }),
        // Ranges.
        ("an empty chunk", |f| {
            f.entries[1]["endOffset"] = f.entries[1]["offset"].clone()
        }),
        ("an empty chunk", |f| f.entries[1]["endOffset"] = 0.into()),
        ("an empty chunk", |f| f.entries[3]["offset"] = 0.into()),
        ("outside of the archive", |f| {
            f.entries[5]["endOffset"] = u64::MAX.into()
        }),
        ("outside of the archive", |f| {
            f.entries[5]["endOffset"] = (f.frames.len() + 1).into();
        }),
        ("over each other", |f| {
            f.entries[5]["offset"] = f.entries[1]["offset"].clone()
        }),
        ("over each other", |f| {
            f.entries[1]["endOffset"] = (f.entries[2]["offset"].as_u64().unwrap() + 1).into();
        }),
    ];
    for (why, spoil) in table {
        let mut forged = good();
        spoil(&mut forged);
        forged.refused(why);
    }
    let (store, annotations) = good().finish();
    assert!(
        Blob::open(&store, &annotations).expect("open").is_some(),
        "the good one is good"
    );
}

#[test]
fn json_that_is_no_toc_is_refused() {
    let deep = "[".repeat(100_000);
    let many = format!("{{\"version\":1,\"entries\":[{}", "{},".repeat(3));
    for (text, why) in [
        ("", "EOF"),
        ("null", "a table of contents"),
        ("{}", "version"),
        ("{\"version\":2,\"entries\":[]}", "version 2"),
        ("{\"version\":1,\"entries\":{}}", "a list of entries"),
        ("{\"version\":1,\"entries\":[1]}", "expected struct"),
        ("{\"version\":1,\"entries\":[]} x", "trailing"),
        (&many, "unknown type"),
        (
            &format!("{{\"version\":1,\"more\":{deep}"),
            "EOF while parsing a list",
        ),
    ] {
        let (store, annotations) = Forged::new().pack(text.as_bytes(), None);
        refused(&store, &annotations, why);
    }
    // More entries than memory is for, in few bytes.
    let entry = "{\"type\":\"dir\",\"name\":\"";
    let all: Vec<_> = (0..1_000_001).map(|n| format!("{entry}{n}\"}}")).collect();
    let text = format!("{{\"version\":1,\"entries\":[{}]}}", all.join(","));
    let (store, annotations) = Forged::new().pack(text.as_bytes(), None);
    refused(&store, &annotations, "more than 1000000 entries");
}

#[test]
fn a_toc_elsewhere_or_of_another_size_is_refused() {
    let (store, good) = good().finish();
    let numbers: Vec<u64> = good[POSITION]
        .split(':')
        .map(|n| n.parse().unwrap())
        .collect();
    let (at, packed, unpacked) = (numbers[0], numbers[1], numbers[2]);
    let with = |at: u64, packed: u64, unpacked: u64| {
        let mut annotations = good.clone();
        annotations.insert(POSITION.to_owned(), format!("{at}:{packed}:{unpacked}:1"));
        annotations
    };
    for (annotations, why) in [
        (with(at + 1, packed, unpacked), "outside of the blob"),
        (with(u64::MAX, packed, unpacked), "outside of the blob"),
        (with(at, u64::MAX, unpacked), "outside of the blob"),
        (with(7, packed, unpacked), "outside of the blob"),
        (with(at - 1, packed, unpacked), "does not match its digest"),
        (with(at, packed - 1, unpacked), "does not match its digest"),
        (with(at, packed, (150 << 20) + 1), "has more than"),
        (with(at, packed, u64::MAX), "has more than"),
        (with(at, packed, unpacked + 1), "in place of"),
        (with(at, packed, unpacked - 1), "damaged zstd frames"),
        (with(at, packed, 0), "damaged zstd frames"),
    ] {
        refused(&store, &annotations, why);
    }
    let mut other = good.clone();
    other.insert(CHECKSUM.to_owned(), format!("sha256:{}", digest(b"other")));
    refused(&store, &other, "does not match its digest");
    other.remove(CHECKSUM);
    refused(&store, &other, "is damaged");
}

#[test]
fn a_bomb_does_not_go_off() {
    // 150 MiB of TOC in a few KiB: no more than was announced is made of it.
    let (store, annotations) = Forged::new().pack(&vec![b' '; 100 << 20], Some(1000));
    refused(&store, &annotations, "damaged zstd frames");
    let mut forged = Forged::new();
    let index = forged.file("bomb", &vec![0; 100 << 20]);
    forged.entries[index]["size"] = 10.into();
    let (store, annotations) = forged.finish();
    let opened = Blob::open(&store, &annotations)
        .expect("open")
        .expect("a TOC");
    let error = opened
        .copy(&opened.entries()[0], &mut std::io::sink())
        .expect_err("a bomb");
    assert!(
        error.to_string().contains("bomb: damaged zstd frames"),
        "{error}"
    );
    // A size that no memory has; and one that the frames do not have.
    for (size, why) in [(1_u64 << 60, "too large"), (50 << 20, "damaged zstd")] {
        forged.entries[index]["size"] = size.into();
        let (store, annotations) = forged.finish();
        let opened = Blob::open(&store, &annotations)
            .expect("open")
            .expect("a TOC");
        let error = opened
            .read_at(&opened.entries()[0], &mut [0; 8], 0)
            .expect_err(why);
        assert!(error.to_string().contains(why), "{error}");
    }
    // Much that is read for little: padded with frames that hold nothing.
    let mut forged = Forged::new();
    let index = forged.file("padded", b"x");
    let padding = vec![0; 1 << 20];
    forged.frames.extend([0x50, 0x2a, 0x4d, 0x18]);
    forged
        .frames
        .extend(u32::try_from(padding.len()).unwrap().to_le_bytes());
    forged.frames.extend(&padding);
    forged.entries[index]["endOffset"] = forged.frames.len().into();
    let (store, annotations) = forged.finish();
    let opened = Blob::open(&store, &annotations)
        .expect("open")
        .expect("a TOC");
    store.read.borrow_mut().clear();
    let error = opened
        .copy(&opened.entries()[0], &mut std::io::sink())
        .expect_err("padded");
    assert!(error.to_string().contains("for a chunk of 1"), "{error}");
    assert!(store.read.borrow().is_empty());
}

#[test]
fn content_is_not_seen_before_its_digest() {
    let mut forged = good();
    forged.entries[1]["digest"] = format!("sha256:{}", digest(b"other")).into();
    forged.entries[2]["digest"] = format!("sha256:{}", digest(b"other")).into();
    let (store, annotations) = forged.finish();
    let opened = Blob::open(&store, &annotations)
        .expect("open")
        .expect("a TOC");
    let entry = |name: &str| opened.find(name.as_bytes()).expect("there");
    let mut seen = Vec::new();
    let error = opened
        .copy(entry("d/a"), &mut seen)
        .expect_err("another digest");
    assert!(
        error.to_string().contains("d/a: a chunk does not match"),
        "{error}"
    );
    assert!(seen.is_empty());
    let mut buffer = [7; 4];
    opened
        .read_at(entry("d/a"), &mut buffer, 0)
        .expect_err("another digest");
    assert_eq!(buffer, [7; 4]);
    // Right chunks of a wrong whole.
    let error = opened
        .copy(entry("d/b"), &mut Vec::new())
        .expect_err("another digest");
    assert!(
        error
            .to_string()
            .contains("d/b: it does not match its digest"),
        "{error}"
    );
}

#[test]
fn damage_is_an_error_wherever_it_strikes() {
    let (store, annotations) = good().finish();
    let read = |store: &Store| -> Result<Vec<Vec<u8>>> {
        let opened = Blob::open(store, &annotations)?.expect("annotations tell of a TOC");
        let copy = |entry| {
            let mut all = Vec::new();
            opened.copy(entry, &mut all).map(|()| all)
        };
        opened.entries().iter().map(copy).collect()
    };
    let whole = read(&store).expect("whole");
    for at in (0..store.bytes.len()).step_by(3) {
        let mut damaged = Store::new(store.bytes.clone());
        damaged.bytes[at] ^= 0x41;
        // Headers, and some bits of a frame, hold nothing of the files.
        if let Ok(all) = read(&damaged) {
            assert!(all == whole, "{at}");
        }
    }
    for end in (0..store.bytes.len()).step_by(101) {
        let cut = Store::new(store.bytes[..end].to_vec());
        assert!(read(&cut).is_err(), "cut at {end}");
        assert!(
            Blob::open(&cut, &HashMap::new())
                .expect("no footer")
                .is_none()
        );
    }
    // The same of a TOC that only the footer tells of: never a panic.
    let written = blob(&everything()[..9], 1);
    let good = bytes(&written);
    for at in good.len() - 3000..good.len() {
        let mut damaged = Store::new(good.clone());
        damaged.bytes[at] ^= 0x41;
        if let Ok(Some(opened)) = Blob::open(&damaged, &HashMap::new()) {
            for entry in opened.entries().iter().take(4) {
                let _ = opened.copy(entry, &mut std::io::sink());
            }
        }
    }
}
