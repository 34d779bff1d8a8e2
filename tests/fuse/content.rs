//! open, read, write, truncate, mmap, fallocate, lseek, copy_file_range.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};

use crate::mounted::Mounted;

fn both_ways(test: impl Fn(Mounted)) {
    for passthrough in [true, false] {
        test(Mounted::with(passthrough, |base| {
            fs::write(base.join("f"), "lower content\n").expect("write");
            fs::write(base.join("big"), vec![7; 3 << 20]).expect("write");
        }));
    }
}

#[test]
fn a_new_file_reads_back() {
    both_ways(|view| {
        let data: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        fs::write(view.path("new"), &data).expect("write");
        assert_eq!(fs::read(view.path("new")).expect("read"), data);
        assert_eq!(
            fs::metadata(view.path("new")).expect("stat").len(),
            data.len() as u64
        );
    });
}

#[test]
fn append_copies_up_and_keeps_the_inode_number() {
    both_ways(|view| {
        for name in ["f", "big"] {
            let path = view.path(name);
            let before = fs::metadata(&path).expect("stat");
            let mut file = OpenOptions::new().append(true).open(&path).expect("open");
            file.write_all(b"more").expect("write");
            drop(file);
            let after = fs::metadata(&path).expect("stat");
            assert_eq!(after.ino(), before.ino());
            assert_eq!(after.len(), before.len() + 4);
            assert!(fs::read(&path).expect("read").ends_with(b"more"));
        }
    });
}

#[test]
fn an_old_handle_sees_what_is_written_after_copy_up() {
    both_ways(|view| {
        let mut old = File::open(view.path("f")).expect("open");
        let mut text = String::new();
        old.read_to_string(&mut text).expect("read");
        fs::write(view.path("f"), "NEW").expect("write");
        old.seek(SeekFrom::Start(0)).expect("seek");
        text.clear();
        old.read_to_string(&mut text).expect("read");
        assert_eq!(text, "NEW");
        assert_eq!(
            fs::read_to_string(view.base().join("f")).expect("read"),
            "lower content\n"
        );
    });
}

#[test]
fn truncate_with_and_without_a_handle() {
    both_ways(|view| {
        let held = File::open(view.path("f")).expect("open");
        let file = OpenOptions::new()
            .write(true)
            .open(view.path("f"))
            .expect("open");
        file.set_len(5).expect("truncate");
        assert_eq!(held.metadata().expect("fstat").len(), 5);
        let mut buffer = [0; 16];
        assert_eq!(held.read_at(&mut buffer, 0).expect("read"), 5);
        nix::unistd::truncate(&view.path("big"), 10).expect("truncate");
        assert_eq!(fs::read(view.path("big")).expect("read"), vec![7; 10]);
    });
}

#[test]
fn an_unlinked_open_file_lives_on() {
    both_ways(|view| {
        for name in ["f", "new"] {
            let path = view.path(name);
            let mut file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .expect("open");
            fs::remove_file(&path).expect("unlink");
            assert!(!path.exists());
            file.write_all(b"written after unlink").expect("write");
            file.seek(SeekFrom::Start(0)).expect("seek");
            let mut text = String::new();
            file.read_to_string(&mut text).expect("read");
            assert!(text.starts_with("written after unlink"));
            assert_eq!(file.metadata().expect("fstat").nlink(), 0);
        }
    });
}

#[test]
fn holes_are_found_and_survive_copy_up() {
    let view = Mounted::over(|base| {
        let file = File::create(base.join("sparse")).expect("create");
        file.set_len(8 << 20).expect("truncate");
        file.write_at(b"data", 4 << 20).expect("write");
    });
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .open(view.path("sparse"))
        .expect("open");
    let data = nix::unistd::lseek(&file, 0, nix::unistd::Whence::SeekData).expect("lseek");
    assert_eq!(data, 4 << 20);
    assert!(file.metadata().expect("fstat").blocks() * 512 < 1 << 20);
}

#[test]
fn fallocate_and_copy_file_range() {
    both_ways(|view| {
        let source = File::open(view.path("big")).expect("open");
        let target = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(view.path("copy"))
            .expect("open");
        let copied =
            nix::fcntl::copy_file_range(&source, None, &target, None, 1 << 20).expect("copy");
        assert!(copied > 0);
        assert_eq!(fs::read(view.path("copy")).expect("read"), vec![7; copied]);
        let flags = nix::fcntl::FallocateFlags::FALLOC_FL_PUNCH_HOLE
            | nix::fcntl::FallocateFlags::FALLOC_FL_KEEP_SIZE;
        nix::fcntl::fallocate(&target, flags, 0, 4096).expect("punch");
        assert_eq!(
            &fs::read(view.path("copy")).expect("read")[..4096],
            &[0; 4096]
        );
    });
}

#[test]
fn a_running_program_is_busy_and_a_shared_mapping_is_seen() {
    both_ways(|view| {
        fs::copy("/bin/sleep", view.path("sleep")).expect("copy");
        let mut child = std::process::Command::new(view.path("sleep"))
            .arg("60")
            .spawn()
            .expect("spawn");
        let opened = OpenOptions::new().write(true).open(view.path("sleep"));
        let errno = opened.err().and_then(|error| error.raw_os_error());
        child.kill().expect("kill");
        child.wait().expect("wait");
        assert_eq!(errno, Some(libc::ETXTBSY));
        let script = "import mmap,os,sys\n\
            f=os.open(sys.argv[1],os.O_RDWR|os.O_CREAT); os.ftruncate(f,8192)\n\
            m=mmap.mmap(f,8192); m[0:5]=b'hello'; m.flush(); m.close(); os.close(f)\n";
        let done = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(view.path("mapped"))
            .status()
            .expect("python3");
        assert!(done.success());
        assert_eq!(&fs::read(view.path("mapped")).expect("read")[..5], b"hello");
    });
}
