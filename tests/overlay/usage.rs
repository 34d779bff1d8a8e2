//! The command line: what is taken, and what is refused in one sentence.

use std::fs;
use std::os::unix::ffi::OsStrExt;

use super::rig::{Rig, is_in_order, shown};

#[test]
fn several_lower_directories_one_with_a_colon_and_relative_names() {
    let rig = Rig::with(&["a:b", "c,d", "up", "work", "mnt"]);
    fs::write(rig.at("a:b/one"), "upper of the two").unwrap();
    fs::write(rig.at("c,d/one"), "lower").unwrap();
    fs::write(rig.at("c,d/two"), "two").unwrap();
    let mounted = rig.mount_with(r"lowerdir=a\:b:c\,d,upperdir=up,workdir=work");
    let read = |name: &str| fs::read_to_string(mounted.path(name)).unwrap();
    assert_eq!(read("one"), "upper of the two");
    assert_eq!(read("two"), "two");
    fs::write(mounted.path("two"), "2").unwrap();
    mounted.end();
    assert_eq!(fs::read_to_string(rig.at("up/two")).unwrap(), "2");
    assert_eq!(fs::read_to_string(rig.at("c,d/two")).unwrap(), "two");
    let mounted = rig.mount_with("lowerdir+=a:b,lowerdir+=c\\,d");
    assert_eq!(fs::read_dir(mounted.path("")).unwrap().count(), 2);
    mounted.end();
}

#[test]
fn names_need_not_be_utf8() {
    let rig = Rig::with(&["work", "mnt"]);
    let name = |bytes: &[u8]| {
        rig.at("x")
            .with_file_name(std::ffi::OsStr::from_bytes(bytes))
    };
    let (lower, upper) = (name(b"low\xff"), name(b"up\xfe \n"));
    fs::create_dir(&lower).unwrap();
    fs::create_dir(&upper).unwrap();
    fs::write(lower.join("file"), "").unwrap();
    let options = [
        b"lowerdir=".as_slice(),
        lower.as_os_str().as_bytes(),
        b",upperdir=",
        upper.as_os_str().as_bytes(),
        b",workdir=work",
    ];
    let options = options.concat();
    let mut command = super::rig::program();
    command.args(["overlay", "-o"]);
    command
        .arg(std::ffi::OsStr::from_bytes(&options))
        .arg("mnt");
    let status = command.current_dir(rig.at("")).status().unwrap();
    assert!(status.success());
    fs::rename(rig.at("mnt/file"), rig.at("mnt/moved")).unwrap();
    super::rig::umount(&rig.at("mnt"));
    super::rig::until("in order", || is_in_order(&upper, &rig.at("work")));
    assert!(upper.join("moved").is_file());
}

#[test]
fn without_an_upper_directory_nothing_can_be_changed() {
    let rig = Rig::with(&["a", "b", "mnt"]);
    fs::write(rig.at("a/file"), "a").unwrap();
    fs::create_dir(rig.at("b/dir")).unwrap();
    let mounted = rig.mount_with("lowerdir=a:b");
    let refused = |made: std::io::Result<()>| {
        assert_eq!(
            made.unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
    };
    refused(fs::write(mounted.path("file"), ""));
    refused(fs::create_dir(mounted.path("new")));
    // Nor when the flag is taken off.
    let flags = nix::mount::MsFlags::MS_REMOUNT;
    let none = None::<&str>;
    nix::mount::mount(none, &mounted.path(""), none, flags, none).unwrap();
    refused(fs::write(mounted.path("file"), ""));
    refused(fs::create_dir(mounted.path("dir/new")));
    refused(fs::remove_file(mounted.path("file")));
    refused(fs::rename(mounted.path("file"), mounted.path("other")));
    refused(fs::hard_link(mounted.path("file"), mounted.path("other")));
    assert_eq!(fs::read_to_string(mounted.path("file")).unwrap(), "a");
    mounted.end();
    assert_eq!(fs::read_dir(rig.at("b/dir")).unwrap().count(), 0);
}

#[test]
fn an_upper_directory_can_be_shown_without_being_written() {
    let rig = Rig::over(|lower| fs::write(lower.join("file"), "lower").unwrap());
    fs::write(rig.at("up/more"), "").unwrap();
    let mounted = rig.mount_with("ro,lowerdir=lower,upperdir=up");
    assert_eq!(fs::read_dir(mounted.path("")).unwrap().count(), 2);
    assert!(!super::rig::is_marked(&rig.at("up")));
    mounted.end();
}

/// What statfs(2) says is of the disk that changes go to, or of the uppermost directory's.
#[test]
fn how_much_room_there_is() {
    let rig = Rig::over(|_| {});
    let flags = nix::mount::MsFlags::empty();
    let (kind, size) = (Some("tmpfs"), Some("size=20m"));
    nix::mount::mount(kind, &rig.at("lower"), kind, flags, size).unwrap();
    let small = Unmounted(rig.at("lower"));
    let room = |at: &std::path::Path| nix::sys::statvfs::statvfs(at).unwrap().blocks();
    let mounted = rig.mount();
    assert_eq!(room(&mounted.path("")), room(&rig.at("up")));
    mounted.end();
    let mounted = rig.mount_with("lowerdir=lower:up");
    assert_eq!(room(&mounted.path("")), room(&rig.at("lower")));
    // And it keeps nobody from unmounting them.
    super::rig::umount(&rig.at("lower"));
    std::mem::forget(small);
    mounted.end();
}

#[test]
fn what_it_is_called_and_how_it_is_mounted() {
    let rig = Rig::over(|_| {});
    let options = rig.options(&["lower"]) + ",fsname=my disk,nosuid,nodev,noexec,noatime";
    let mounted = rig.mount_with(&options);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let at = shown(&mounted.path(""));
    let line = mounts.lines().find(|line| line.contains(&at)).unwrap();
    assert!(
        line.contains(&format!(" / {at} rw,nosuid,nodev,noexec,noatime ")),
        "{line}"
    );
    assert!(line.contains(r"fuse.harness-fs my\040disk "), "{line}");
    mounted.end();
}

#[test]
fn what_happens_is_logged_where_it_is_wanted() {
    let rig = Rig::over(|_| {});
    let options = rig.options(&["lower"]) + ",log_file=log";
    let mounted = rig.mount_with(&options);
    let log = fs::read_to_string(rig.at("log")).unwrap();
    assert!(
        log.contains(&format!("serving {}", rig.at("mnt").display())),
        "{log}"
    );
    mounted.end();
}

/// What is unmounted also when the test fails.
struct Unmounted(std::path::PathBuf);

impl Drop for Unmounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let rig = Rig::with(&["a/in", "b", "up/in", "work", "full/x", "mnt"]);
    fs::write(rig.at("file"), "").unwrap();
    fs::create_dir(rig.at("other")).unwrap();
    let (none, flags) = (None::<&str>, nix::mount::MsFlags::empty());
    nix::mount::mount(Some("other"), &rig.at("other"), Some("tmpfs"), flags, none).unwrap();
    let _other = Unmounted(rig.at("other"));
    let rest = "upperdir=up,workdir=work";
    for (options, code, part) in [
        (rest, 2, "lowerdir= is missing"),
        ("lowerdir=a,upperdir=up", 2, "workdir= is missing"),
        ("lowerdir=a,frob", 2, "'frob' is not known"),
        (
            "lowerdir=a,squash_to_uid=1",
            2,
            "'squash_to_uid' of fuse-overlayfs is not known",
        ),
        ("lowerdir=a::b", 2, "data-only"),
        (
            "lowerdir=none",
            1,
            "lowerdir none: No such file or directory",
        ),
        ("lowerdir=file", 1, "is not a directory"),
        ("lowerdir=a:a", 1, "are one directory"),
        ("lowerdir=a:a/in", 1, "lies in"),
        (&format!("lowerdir=up,{rest}"), 1, "are one directory"),
        (&format!("lowerdir=up/in,{rest}"), 1, "lies in"),
        ("lowerdir=b,upperdir=a/in,workdir=a", 1, "lies in"),
        ("lowerdir=b,upperdir=up,workdir=up", 1, "are one directory"),
        ("lowerdir=b,upperdir=up,workdir=full", 1, "holds 'x'"),
        (
            "lowerdir=b,upperdir=up,workdir=other",
            1,
            "do not lie on one mount",
        ),
        (
            &format!("lowerdir=a,{rest},fsname=harness-fs:x"),
            1,
            "cannot be the source",
        ),
        (
            &format!("lowerdir=a,{rest},log_file=/"),
            2,
            "log_file: / is not a regular file",
        ),
        ("remount,ro", 1, "no overlay of harness-fs is mounted at"),
    ] {
        rig.overlay(options).refused(code, part);
    }
    assert!(is_in_order(&rig.at("up"), &rig.at("work")));
    fs::remove_dir(rig.at("mnt")).unwrap();
    rig.overlay("lowerdir=a")
        .refused(1, "No such file or directory");
    fs::write(rig.at("mnt"), "").unwrap();
    rig.overlay("lowerdir=a").refused(1, "is not a directory");
}

#[test]
fn what_a_bind_mount_shows_is_known_by_its_other_name() {
    let rig = Rig::with(&["a", "seen", "up", "work", "mnt"]);
    let flags = nix::mount::MsFlags::MS_BIND;
    let none = None::<&str>;
    nix::mount::mount(Some(&rig.at("a")), &rig.at("seen"), none, flags, none).unwrap();
    let _seen = Unmounted(rig.at("seen"));
    let ran = rig.overlay("lowerdir=a:seen,upperdir=up,workdir=work");
    ran.refused(1, "are one directory");
}

#[test]
fn others_than_root_are_told_so() {
    let rig = Rig::with(&["a", "mnt"]);
    fs::set_permissions(
        rig.at(""),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let copy = rig.at("harness-fs");
    // Not by this process, or it is busy as long as something that another test starts.
    let mut install = std::process::Command::new("install");
    install.args(["-m755", env!("CARGO_BIN_EXE_harness-fs")]);
    assert!(install.arg(&copy).status().unwrap().success());
    let mut command = std::process::Command::new(&copy);
    std::os::unix::process::CommandExt::uid(&mut command, 65534);
    command.args(["overlay", "-o", "lowerdir=a", "mnt"]);
    let output = command.current_dir(rig.at("")).output().unwrap();
    super::rig::ran(output).refused(1, "needs root");
}
