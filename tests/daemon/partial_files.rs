//! Large files that are written without being copied first: their content is
//! taken over block by block, and no snapshot, crash or reader can tell.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::poll::{PollFd, PollFlags, PollTimeout};
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};

use crate::rig::{LIMIT, Rig, alone, tool};

const MIB: u64 = 1 << 20;
const SIZE: u64 = 5 * MIB + 1234;

/// A file, and what it should hold.
struct Twin {
    file: File,
    content: Vec<u8>,
}

impl Twin {
    /// Opens `big` in the stage view.
    fn open(rig: &Rig, content: Vec<u8>) -> Twin {
        let mut how = File::options();
        let file = how.read(true).write(true).open(rig.ws().join("big"));
        let file = file.unwrap();
        Twin { file, content }
    }

    fn write(&mut self, at: u64, text: &[u8]) {
        self.file.write_all_at(text, at).unwrap();
        let at = usize::try_from(at).unwrap();
        let end = at + text.len();
        self.content.resize(self.content.len().max(end), 0);
        self.content[at..end].copy_from_slice(text);
    }

    fn truncate(&mut self, size: u64) {
        self.file.set_len(size).unwrap();
        self.content.resize(usize::try_from(size).unwrap(), 0);
    }

    fn punch(&mut self, at: u64, length: u64) {
        let mode = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        fallocate(&self.file, mode, at.cast_signed(), length.cast_signed()).unwrap();
        let at = usize::try_from(at).unwrap();
        self.content[at..][..usize::try_from(length).unwrap()].fill(0);
    }

    /// Compares with a new open, with what the handle reads, and in a step.
    #[track_caller]
    fn compare(&self, rig: &Rig, step: &str) {
        let mut read = vec![1; self.content.len()];
        self.file.read_exact_at(&mut read, 0).unwrap();
        same(&read, &self.content);
        same(&fs::read(rig.ws().join("big")).unwrap(), &self.content);
        let expected = rig.path().join("expected");
        fs::write(&expected, &self.content).unwrap();
        let script = format!("cmp {} big", expected.display());
        let ran = rig.step(step, &[], &script);
        assert_eq!(ran.code, 0, "{ran:?}");
    }
}

/// Without printing megabytes.
#[track_caller]
fn same(got: &[u8], expected: &[u8]) {
    assert_eq!(got.len(), expected.len());
    let differs = (0..got.len()).find(|at| got[*at] != expected[*at]);
    assert_eq!(differs, None);
}

fn letters(size: u64) -> Vec<u8> {
    (0..size).map(|at| b'a' + (at / 1000 % 26) as u8).collect()
}

fn with_big(rig: &Rig, size: u64) -> Vec<u8> {
    let content = letters(size);
    fs::write(rig.ws().join("big"), &content).unwrap();
    content
}

/// What the rig compares at the end is without it.
fn without_big(rig: &Rig) {
    fs::remove_file(rig.ws().join("big")).unwrap();
}

/// Larger than what a step copies as a whole.
const LARGE: u64 = 300 * MIB;

/// A `big` that has little in it: a MiB at 10 MiB, and its end.
fn sparse(rig: &Rig) {
    let big = File::create(rig.ws().join("big")).unwrap();
    big.set_len(LARGE).unwrap();
    big.write_all_at(&letters(MIB), 10 * MIB).unwrap();
    big.write_all_at(b"the end", LARGE - 7).unwrap();
}

/// The maps of the stage's own open layer.
fn maps(rig: &Rig) -> usize {
    let views = fs::read_dir(rig.state().join("views")).unwrap();
    let maps = views.map(|view| view.unwrap().path().join("open/maps"));
    maps.filter_map(|maps| Some(fs::read_dir(maps).ok()?.count()))
        .sum()
}

/// The directories of maps of sealed layers.
fn maps_of_layers(rig: &Rig) -> Vec<PathBuf> {
    let layers = fs::read_dir(rig.state().join("layers")).unwrap();
    let maps = layers.map(|layer| layer.unwrap().path().join("maps"));
    maps.filter(|maps| maps.is_dir()).collect()
}

/// Waits until no sealed layer has a map any more.
fn completed(rig: &Rig) {
    for maps in maps_of_layers(rig) {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC).unwrap();
        inotify.add_watch(&maps, AddWatchFlags::IN_DELETE).unwrap();
        while fs::read_dir(&maps).unwrap().next().is_some() {
            let mut polled = [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(LIMIT).unwrap();
            assert!(
                nix::poll::poll(&mut polled, timeout).unwrap() > 0,
                "{maps:?}"
            );
            inotify.read_events().unwrap();
        }
    }
}

/// True where the disk shares blocks between files: nothing is partial there.
fn reflinks(dir: &Path) -> bool {
    let (from, to) = (dir.join("reflink-from"), dir.join("reflink-to"));
    fs::write(&from, "content").unwrap();
    let cp = std::process::Command::new("cp")
        .arg("--reflink=always")
        .args([&from, &to])
        .output();
    cp.unwrap().status.success()
}

#[test]
fn each_snapshot_has_what_was_written_before_it() {
    alone(|rig| {
        let content = with_big(rig, SIZE);
        rig.mount();
        let mut twin = Twin::open(rig, content);
        let mut kept = Vec::new();
        for round in 0..4_u64 {
            twin.write(MIB + round * 100_000, format!("round {round}").as_bytes());
            twin.write(round * 65_536, &[b'0' + round as u8; 65_536]);
            match round {
                1 => twin.punch(2 * MIB - 10, 200_000),
                2 => twin.truncate(3 * MIB + 5),
                3 => twin.write(SIZE + 10_000, b"behind the end"),
                _ => {}
            }
            if round == 0 {
                assert_eq!(maps(rig), usize::from(!reflinks(&rig.path())));
            }
            let meta = twin.file.metadata().unwrap();
            kept.push((twin.content.clone(), meta.mtime(), meta.mtime_nsec()));
            rig.ok(&["snapshot", "create", &format!("s{round}")]);
            twin.compare(rig, &format!("look-{round}"));
        }
        let out = rig.path().join("out");
        rig.ok(&["apply", out.to_str().unwrap()]);
        same(&fs::read(out.join("big")).unwrap(), &twin.content);
        let layout = rig.path().join("layout");
        rig.ok(&["export", "s2", "--to", layout.to_str().unwrap()]);
        for (round, (content, mtime, nanoseconds)) in kept.iter().enumerate() {
            rig.ok(&["snapshot", "restore", &format!("s{round}")]);
            same(&fs::read(rig.ws().join("big")).unwrap(), content);
            let meta = fs::metadata(rig.ws().join("big")).unwrap();
            assert_eq!((meta.mtime(), meta.mtime_nsec()), (*mtime, *nanoseconds));
        }
        drop(twin);
        rig.ok(&["unmount"]);
        let ws = rig.ws();
        let mount = ["mount", "--workspace", ws.to_str().unwrap(), "--from"];
        let base = with_big(rig, SIZE);
        rig.ok(&[&mount[..], &[layout.to_str().unwrap()]].concat());
        same(&fs::read(rig.ws().join("big")).unwrap(), &kept[2].0);
        rig.ok(&["unmount"]);
        same(&fs::read(rig.ws().join("big")).unwrap(), &base);
        without_big(rig);
    });
}

#[test]
fn a_daemon_that_is_killed_loses_none_of_its_blocks() {
    alone(|rig| {
        let content = with_big(rig, SIZE);
        rig.mount();
        let mut twin = Twin::open(rig, content);
        twin.write(700_000, b"in the head over the base");
        rig.ok(&["snapshot", "create", "s"]);
        twin.write(900_000, b"over a layer that is partial itself");
        twin.punch(2 * MIB, 300_000);
        rig.daemon().kill_server();
        rig.ok(&["mount", "--resume"]);
        let mut twin = Twin::open(rig, twin.content);
        twin.compare(rig, "look-1");
        twin.write(900_010, b"again");
        rig.ok(&["snapshot", "create", "t"]);
        twin.write(4 * MIB, &[b'-'; 100_000]);
        let written = twin.content;
        drop(twin.file);
        rig.ok(&["unmount", "--keep-state"]);
        rig.ok(&["mount", "--resume"]);
        let twin = Twin::open(rig, written);
        twin.compare(rig, "look-2");
        drop(twin);
        rig.ok(&["unmount"]);
        without_big(rig);
    });
}

#[test]
fn other_names_open_files_without_one_and_emptied_ones_go_along() {
    alone(|rig| {
        let content = with_big(rig, SIZE);
        fs::hard_link(rig.ws().join("big"), rig.ws().join("same")).unwrap();
        fs::write(rig.ws().join("gone"), &content).unwrap();
        fs::write(rig.ws().join("emptied"), &content).unwrap();
        rig.mount();
        let mut twin = Twin::open(rig, content.clone());
        twin.write(MIB, b"through one name");
        let mut how = File::options();
        let gone = how.read(true).write(true);
        let gone = gone.open(rig.ws().join("gone")).unwrap();
        gone.write_all_at(b"still there", 2 * MIB).unwrap();
        fs::remove_file(rig.ws().join("gone")).unwrap();
        rig.ok(&["snapshot", "create", "s"]);
        same(&fs::read(rig.ws().join("same")).unwrap(), &twin.content);
        twin.write(2 * MIB, b"after the seal");
        same(&fs::read(rig.ws().join("same")).unwrap(), &twin.content);
        gone.write_all_at(b"and after", 3 * MIB).unwrap();
        let mut expected = content;
        for (at, text) in [(2, &b"still there"[..]), (3, b"and after")] {
            expected[at << 20..][..text.len()].copy_from_slice(text);
        }
        let mut read = vec![0; expected.len()];
        gone.read_exact_at(&mut read, 0).unwrap();
        same(&read, &expected);
        fs::write(rig.ws().join("emptied"), "short").unwrap();
        rig.ok(&["snapshot", "create", "t"]);
        assert_eq!(fs::read(rig.ws().join("emptied")).unwrap(), b"short");
        twin.compare(rig, "look");
        drop((twin, gone));
        rig.ok(&["unmount"]);
        for name in ["same", "gone", "emptied"] {
            fs::remove_file(rig.ws().join(name)).unwrap();
        }
        without_big(rig);
    });
}

/// Only what is known to be on the disk counts in another boot of the machine, and
/// all is that was there when the stage was unmounted.
#[test]
fn a_restarted_machine_has_all_that_was_unmounted() {
    alone(|rig| {
        let content = with_big(rig, SIZE);
        rig.mount();
        let mut twin = Twin::open(rig, content);
        twin.write(MIB, b"in a layer");
        rig.ok(&["snapshot", "create", "s"]);
        twin.write(2 * MIB, b"in the head");
        let content = twin.content;
        drop(twin.file);
        rig.ok(&["unmount", "--keep-state"]);
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
        let files = "grep -rl \"$0\" \"$1\" | xargs sed -i \"s/$0/$2/\"";
        let other = "00000000-0000-0000-0000-000000000000";
        let state = rig.state();
        let state = state.to_str().unwrap();
        tool("sh", &["-ec", files, boot.trim(), state, other]);
        let told = rig.ok(&["mount", "--resume"]);
        assert!(told.out.contains("restarted") || told.err.contains("restarted"));
        let twin = Twin::open(rig, content);
        twin.compare(rig, "look");
        drop(twin);
        rig.ok(&["unmount"]);
        without_big(rig);
    });
}

/// Else a file that is written all the time would be read from ever more files.
#[test]
fn what_is_sealed_is_completed_in_the_background() {
    alone(|rig| {
        let content = with_big(rig, SIZE);
        rig.mount();
        let mut twin = Twin::open(rig, content);
        for round in 0..20 {
            twin.write(MIB / 5 * round, b"before the seal");
            rig.ok(&["snapshot", "create", &format!("s{round}")]);
        }
        // Between two seals, and across a restart.
        rig.daemon().kill_server();
        rig.ok(&["mount", "--resume"]);
        completed(rig);
        let twin = Twin::open(rig, twin.content);
        // Not on top of each other without end.
        let partial = if reflinks(&rig.path()) { 0 } else { 16 };
        assert!(maps_of_layers(rig).len() >= partial);
        twin.compare(rig, "look");
        drop(twin);
        rig.ok(&["unmount"]);
        without_big(rig);
    });
}

/// That there is no room is told by the write that begins the file, not by one
/// in its middle.
#[test]
fn a_full_disk_is_told_before_anything_is_written() {
    alone(|rig| {
        let content = with_big(rig, 8 * MIB);
        fs::create_dir(rig.state()).unwrap();
        let state = rig.state();
        let state = state.to_str().unwrap();
        tool("mount", &["-t", "tmpfs", "-o", "size=14m", "tmpfs", state]);
        rig.mount();
        let mut twin = Twin::open(rig, content);
        twin.write(MIB, b"there is room for one");
        rig.ok(&["snapshot", "create", "s"]);
        let refused = twin.file.write_all_at(b"but not for two", 2 * MIB);
        let errno = refused.unwrap_err().raw_os_error();
        assert_eq!(errno, Some(Errno::ENOSPC as i32));
        twin.compare(rig, "look");
        rig.ok(&["snapshot", "rm", "s"]);
        drop(twin);
        rig.ok(&["unmount"]);
        tool("umount", &[state]);
        without_big(rig);
    });
}

/// Steps copy what is not very large, since the kernel then reads and writes it
/// by itself. What they leave is whole.
#[test]
fn a_step_leaves_a_whole_file_with_its_holes() {
    alone(|rig| {
        sparse(rig);
        rig.mount();
        let script =
            "printf written | dd of=big bs=1 seek=$(((11 << 20) + 5)) conv=notrunc status=none
            printf more | dd of=big bs=1 seek=$((200 << 20)) conv=notrunc status=none";
        let ran = rig.step("s", &[], script);
        assert_eq!(ran.code, 0, "{ran:?}");
        let compare = "dd if=big bs=1M skip=10 count=1 status=none | cmp - mib
            dd if=big bs=1M skip=200 count=1 status=none | head -c 4; tail -c 7 big";
        fs::write(rig.ws().join("mib"), letters(MIB)).unwrap();
        let seen = rig.step("look", &[], compare);
        assert_eq!((seen.code, &seen.out[..]), (0, "morethe end"), "{seen:?}");
        let meta = fs::metadata(rig.ws().join("big")).unwrap();
        assert_eq!(meta.len(), LARGE);
        assert!(meta.blocks() * 512 < 8 * MIB, "{}", meta.blocks());
        rig.ok(&["unmount"]);
        without_big(rig);
    });
}

#[test]
fn an_interrupted_step_keeps_its_blocks() {
    alone(|rig| {
        sparse(rig);
        rig.mount();
        rig.ok(&["step", "begin", "s"]);
        let script =
            "printf written | dd of=big bs=1 seek=$(((10 << 20) + 5)) conv=notrunc status=none";
        rig.ok(&["step", "exec", "s", "--", "sh", "-ec", script]);
        rig.daemon().kill_server();
        rig.ok(&["mount", "--resume"]);
        rig.ok(&["step", "merge", "s"]);
        let mut expected = letters(MIB);
        expected[5..12].copy_from_slice(b"written");
        let big = File::open(rig.ws().join("big")).unwrap();
        let mut read = vec![0; expected.len()];
        big.read_exact_at(&mut read, 10 * MIB).unwrap();
        same(&read, &expected);
        drop(big);
        rig.ok(&["unmount"]);
        without_big(rig);
    });
}
