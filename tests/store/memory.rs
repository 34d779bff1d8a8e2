//! A blob may be of any size; memory is not.

use std::io::{Read, Seek, SeekFrom, Write};
use std::process::Command;

use harness_fs::store::{Digest, Store};
use sha2::{Digest as _, Sha256};

use super::rig::{KINDS, shared};

/// Larger than all that may be held of it.
const SIZE: u64 = 192 << 20;
/// What a store may take, and the rest of the process.
const MOST: u64 = (64 << 20) + (16 << 20);

/// Content that is nowhere in memory.
struct Made(u64);

impl Read for Made {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let wanted = buffer.len().min((SIZE - self.0) as usize);
        for byte in &mut buffer[..wanted] {
            *byte = (self.0 >> 12) as u8;
            self.0 += 1;
        }
        Ok(wanted)
    }
}

impl Seek for Made {
    fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
        assert_eq!(to, SeekFrom::Start(0));
        self.0 = 0;
        Ok(0)
    }
}

struct Counted(u64);

impl Write for Counted {
    fn write(&mut self, buffer: &[u8]) -> std::io::Result<usize> {
        self.0 += buffer.len() as u64;
        Ok(buffer.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A part of the test below, in a process of its own: the others' memory is not its.
#[test]
#[ignore = "a part of another test"]
fn one_large_blob() {
    let store = Store::open(&std::env::var("HARNESS_FS_TEST_STORE").unwrap()).unwrap();
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    let mut made = Made(0);
    while let got @ 1.. = made.read(&mut buffer).unwrap() {
        hash.update(&buffer[..got]);
    }
    let hex: String = hash
        .finalize()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let digest = Digest::from_hex(&hex).unwrap();
    store.put_blob(&digest, SIZE, &mut made).unwrap();
    let mut counted = Counted(0);
    store.get_blob(&digest, SIZE, &mut counted).unwrap();
    assert_eq!(counted.0, SIZE);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    let peak = peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10;
    println!("{} MiB at most", peak >> 20);
    assert!(peak < MOST, "{} MiB", peak >> 20);
}

#[test]
fn a_large_blob_takes_a_small_part_of_memory() {
    for kind in KINDS {
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "memory::one_large_blob",
                "--nocapture",
            ])
            .env("HARNESS_FS_TEST_STORE", shared(kind).url("memory", ""))
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        println!(
            "{kind:?}: {}",
            said.lines()
                .find(|line| line.contains("MiB"))
                .unwrap_or_default()
        );
        assert!(
            child.status.success() && said.contains("1 passed"),
            "{kind:?}: {said}{}",
            String::from_utf8_lossy(&child.stderr)
        );
    }
}
