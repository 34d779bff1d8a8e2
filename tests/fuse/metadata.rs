//! Attributes, xattrs, ACLs, special files, and what inheritance does.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, lchown, symlink};
use std::path::Path;
use std::process::Command;

use crate::mounted::Mounted;

fn fill(base: &Path) {
    fs::create_dir(base.join("dir")).expect("mkdir");
    fs::write(base.join("f"), "0123456789".repeat(10_000)).expect("write");
    fs::write(base.join("dir/g"), "g").expect("write");
    symlink("f", base.join("link")).expect("symlink");
    chown(base.join("f"), Some(1000), Some(1001)).expect("chown");
    fs::set_permissions(base.join("f"), Permissions::from_mode(0o640)).expect("chmod");
    let old = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000, 123_456_789);
    let times = fs::FileTimes::new().set_modified(old).set_accessed(old);
    fs::File::open(base.join("f"))
        .expect("open")
        .set_times(times)
        .expect("utimens");
    fs::File::open(base.join("dir"))
        .expect("open")
        .set_times(times)
        .expect("utimens");
}

fn run(command: &str, path: &Path) -> bool {
    let script = command.replace("{}", &path.display().to_string());
    Command::new("sh")
        .args(["-ec", &script])
        .status()
        .expect("sh")
        .success()
}

#[test]
fn chmod_copies_no_content_and_keeps_the_rest() {
    let mut view = Mounted::over(fill);
    fs::set_permissions(view.path("f"), Permissions::from_mode(0o600)).expect("chmod");
    let check = |view: &Mounted| {
        let meta = fs::metadata(view.path("f")).expect("stat");
        assert_eq!(meta.mode() & 0o7777, 0o600);
        assert_eq!((meta.uid(), meta.gid(), meta.len()), (1000, 1001, 100_000));
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000, 123_456_789));
        assert_eq!(
            fs::read_to_string(view.path("f")).expect("read"),
            "0123456789".repeat(10_000)
        );
    };
    check(&view);
    let copy = fs::metadata(view.open_layer().join("tree/0/f")).expect("stat");
    // Attributes may take a block of their own.
    assert!(copy.blocks() * 512 < 16 << 10);
    view.seal_and_remount();
    check(&view);
    let file = fs::OpenOptions::new()
        .append(true)
        .open(view.path("f"))
        .expect("open");
    drop(file);
    check(&view);
    view.seal_and_remount();
    check(&view);
}

#[test]
fn copying_a_file_up_leaves_its_directorys_times() {
    let view = Mounted::over(fill);
    let file = fs::OpenOptions::new()
        .append(true)
        .open(view.path("dir/g"))
        .expect("open");
    drop(file);
    let meta = fs::metadata(view.path("dir")).expect("stat");
    assert_eq!((meta.mtime(), meta.mtime_nsec()), (1_000_000, 123_456_789));
}

#[test]
fn xattrs_come_along_and_markers_do_not_show() {
    let mut view = Mounted::over(|base| {
        fill(base);
        assert!(run("setfattr -n user.lower -v 1 {}", &base.join("f")));
    });
    let f = view.path("f");
    assert!(run(
        "test \"$(getfattr --only-values -n user.lower {})\" = 1",
        &f
    ));
    assert!(run("setfattr -n user.upper -v 2 {}", &f));
    assert!(run("setfattr -n trusted.overlay.opaque -v y {}", &f));
    let check = |view: &Mounted| {
        let f = view.path("f");
        assert!(run(
            "test \"$(getfattr --only-values -n user.lower {})\" = 1",
            &f
        ));
        assert!(run(
            "test \"$(getfattr --only-values -n user.upper {})\" = 2",
            &f
        ));
        assert!(run(
            "test \"$(getfattr --only-values -n trusted.overlay.opaque {})\" = y",
            &f
        ));
        assert!(run(
            "test \"$(getfattr -m- --absolute-names {} | grep -c =)\" = 0",
            &f
        ));
        assert!(run(
            "test \"$(getfattr -m- --absolute-names {} | grep -cv '^#\\|^$')\" = 3",
            &f
        ));
    };
    check(&view);
    view.seal_and_remount();
    check(&view);
    assert!(run("setfattr -x user.lower {}", &view.path("f")));
    assert!(!run(
        "getfattr -n user.lower {} 2>/dev/null",
        &view.path("f")
    ));
}

#[test]
fn setgid_and_default_acls_are_inherited_also_over_whiteouts() {
    let view = Mounted::over(|base| {
        fill(base);
        fs::create_dir(base.join("shared")).expect("mkdir");
        fs::write(base.join("shared/old"), "").expect("write");
        fs::create_dir(base.join("shared/olddir")).expect("mkdir");
        chown(base.join("shared"), None, Some(4242)).expect("chown");
        fs::set_permissions(base.join("shared"), Permissions::from_mode(0o2775)).expect("chmod");
    });
    let meta = |path: &str| fs::metadata(view.path(path)).expect("stat");
    fs::remove_file(view.path("shared/old")).expect("unlink");
    fs::remove_dir(view.path("shared/olddir")).expect("rmdir");
    for name in ["shared/old", "shared/new"] {
        fs::write(view.path(name), "").expect("write");
        assert_eq!(meta(name).gid(), 4242, "{name}");
    }
    for name in ["shared/olddir", "shared/newdir"] {
        fs::create_dir(view.path(name)).expect("mkdir");
        assert_eq!(
            (meta(name).gid(), meta(name).mode() & 0o2000),
            (4242, 0o2000),
            "{name}"
        );
    }
    if run("command -v setfacl >/dev/null", Path::new("")) {
        assert!(run("setfacl -d -m u:1234:rwx {}", &view.path("shared")));
        fs::remove_file(view.path("shared/old")).expect("unlink");
        for name in ["shared/old", "shared/third"] {
            assert!(run("umask 077; : > {}", &view.path(name)));
            assert!(
                run(
                    "getfacl -cnp {} | grep -q '^user:1234:rw'",
                    &view.path(name)
                ),
                "{name}"
            );
        }
    }
}

#[test]
fn every_kind_of_file_can_be_made_and_survives() {
    let mut view = Mounted::over(fill);
    assert!(run("mkfifo {}", &view.path("fifo")));
    assert!(run("mknod {} c 1 3", &view.path("null")));
    assert!(run("mknod {} c 0 0", &view.path("zero")));
    symlink("target", view.path("sym")).expect("symlink");
    let _socket = std::os::unix::net::UnixListener::bind(view.path("sock")).expect("bind");
    let check = |view: &Mounted| {
        let kind = |path: &str| fs::symlink_metadata(view.path(path)).expect("lstat");
        assert!(kind("fifo").file_type().is_fifo());
        assert!(kind("null").file_type().is_char_device());
        assert_eq!(kind("null").rdev(), nix::sys::stat::makedev(1, 3));
        assert!(kind("zero").file_type().is_char_device());
        assert_eq!(kind("zero").rdev(), 0);
        assert!(kind("sock").file_type().is_socket());
        assert_eq!(
            fs::read_link(view.path("sym")).expect("readlink"),
            Path::new("target")
        );
        assert_eq!(
            fs::read_link(view.path("link")).expect("readlink"),
            Path::new("f")
        );
    };
    check(&view);
    view.seal_and_remount();
    check(&view);
}

#[test]
fn owners_umask_and_permissions_of_other_users() {
    let view = Mounted::over(|base| {
        fill(base);
        fs::set_permissions(base, Permissions::from_mode(0o777)).expect("chmod");
    });
    let as_user = |script: &str| {
        Command::new("setpriv")
            .args([
                "--reuid=1000",
                "--regid=1000",
                "--clear-groups",
                "sh",
                "-ec",
            ])
            .arg(format!("cd {}; {script}", view.root().display()))
            .status()
            .expect("setpriv")
            .success()
    };
    // The temporary directory is the test's own: let others through.
    fs::set_permissions(
        view.base().parent().expect("parent"),
        Permissions::from_mode(0o755),
    )
    .expect("chmod");
    assert!(as_user("umask 027; echo x > mine; mkdir d"));
    let meta = fs::metadata(view.path("mine")).expect("stat");
    assert_eq!(
        (meta.uid(), meta.gid(), meta.mode() & 0o777),
        (1000, 1000, 0o640)
    );
    assert!(!as_user("echo x >> dir/g 2>/dev/null"));
    assert!(!as_user("chown 0 mine 2>/dev/null"));
    fs::set_permissions(view.path("mine"), Permissions::from_mode(0o4777)).expect("chmod");
    chown(view.path("mine"), Some(0), None).expect("chown");
    fs::set_permissions(view.path("mine"), Permissions::from_mode(0o4777)).expect("chmod");
    assert!(as_user("echo y >> mine"));
    assert_eq!(
        fs::metadata(view.path("mine")).expect("stat").mode() & 0o7000,
        0
    );
}

#[test]
fn a_capability_stays_until_the_file_is_written() {
    const CAP: &str = "0x0100000200040000000000000000000000000000";
    let has = |path: &Path| run("getfattr -n security.capability {} >/dev/null 2>&1", path);
    for (name, open_first) in [("f", false), ("dir/g", true)] {
        let mut view = Mounted::over(fill);
        let path = view.path(name);
        // First a copy of the metadata alone, then the content.
        assert!(run(
            &format!("setfattr -n security.capability -v {CAP} {{}}"),
            &path
        ));
        if open_first {
            drop(
                fs::OpenOptions::new()
                    .append(true)
                    .open(&path)
                    .expect("open"),
            );
            assert!(has(&path), "opened, not written");
        }
        fs::hard_link(&path, view.path("other")).expect("link");
        assert!(has(&path) && has(&view.path("other")));
        view.seal_and_remount();
        assert!(has(&path) && has(&view.path("other")), "sealed");
        fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("chmod");
        assert!(has(&path), "chmod");
        fs::write(&path, "written").expect("write");
        assert!(!has(&path) && !has(&view.path("other")), "written");
    }
}

/// Runs Python as user 1000 in the view, whose root everybody may enter.
fn python_as_user(view: &Mounted, script: &str) -> bool {
    let through = view.base().parent().expect("parent").to_path_buf();
    fs::set_permissions(through, Permissions::from_mode(0o755)).expect("chmod");
    Command::new("setpriv")
        .args(["--reuid=1000", "--regid=1000", "--clear-groups"])
        .args(["/usr/bin/python3", "-c", script])
        .current_dir(view.root())
        .status()
        .expect("setpriv")
        .success()
}

#[test]
fn every_change_of_content_by_others_drops_setuid_and_setgid() {
    let changes = [
        (
            "falloc",
            "os.posix_fallocate(os.open(f, os.O_RDWR), 0, 500)",
        ),
        (
            "copy",
            "os.copy_file_range(os.open('from', 0), os.open(f, os.O_RDWR), 5, 0, 0)",
        ),
        ("chown", "os.chown(f, -1, -1)"),
        // Opened before it has them: the kernel may write it by itself.
        (
            "late",
            "h = os.open(f, os.O_RDWR); os.chmod(f, 0o6755); os.write(h, b'x')",
        ),
    ];
    for passthrough in [true, false] {
        let view = Mounted::with(passthrough, |base| {
            fs::write(base.join("from"), "source").expect("write");
            for (name, _) in changes {
                let file = base.join(name);
                fs::write(&file, "content").expect("write");
                chown(&file, Some(1000), Some(1000)).expect("chown");
                fs::set_permissions(&file, Permissions::from_mode(0o6755)).expect("chmod");
            }
        });
        for (name, change) in changes {
            let script = format!("import os; f = '{name}'; {change}");
            assert!(python_as_user(&view, &script), "{name}");
            let mode = fs::metadata(view.path(name)).expect("stat").mode();
            assert_eq!(mode & 0o7777, 0o755, "{name}, passthrough {passthrough}");
        }
    }
}

#[test]
fn times_before_the_epoch_keep_their_nanoseconds() {
    let mut view = Mounted::over(fill);
    let at = std::time::UNIX_EPOCH - std::time::Duration::new(4, 999_999_993);
    let times = fs::FileTimes::new().set_modified(at).set_accessed(at);
    fs::File::open(view.path("f"))
        .expect("open")
        .set_times(times)
        .expect("utimens");
    let check = |view: &Mounted| {
        let meta = fs::metadata(view.path("f")).expect("stat");
        assert_eq!((meta.mtime(), meta.mtime_nsec()), (-5, 7));
    };
    check(&view);
    view.seal_and_remount();
    check(&view);
}

#[test]
fn only_root_is_told_of_trusted_xattrs() {
    let view = Mounted::over(fill);
    let f = view.path("dir/g");
    assert!(run(
        "setfattr -n user.a -v 1 {}; setfattr -n trusted.b -v 1 {}",
        &f
    ));
    assert!(run(
        "getfattr -m- --absolute-names {} | grep -q trusted.b",
        &f
    ));
    assert!(python_as_user(
        &view,
        "import os; assert os.listxattr('dir/g') == ['user.a'], os.listxattr('dir/g')"
    ));
}

#[test]
fn an_xattr_that_no_disk_has_is_refused_not_missing() {
    let view = Mounted::over(fill);
    let script = r#"
import errno, os
def errno_of(function, *arguments):
    try: function(*arguments)
    except OSError as error: return error.errno
open('new', 'w').close()
for path in ['f', 'dir', 'new']:
    for name in ['system.x', 'unknown.x', 'user', 'trusted', 'x']:
        assert errno_of(os.getxattr, path, name) == errno.EOPNOTSUPP, (path, name)
        assert errno_of(os.removexattr, path, name) == errno.EOPNOTSUPP, (path, name)
    for name in ['user.x', 'trusted.x', 'security.x', 'system.posix_acl_access']:
        assert errno_of(os.getxattr, path, name) == errno.ENODATA, (path, name)
"#;
    let mut python = Command::new("/usr/bin/python3");
    let status = python
        .args(["-c", script])
        .current_dir(view.root())
        .status();
    assert!(status.expect("python").success());
}

#[test]
fn a_change_of_owner_to_nobody_is_one_of_the_link_itself() {
    let aside = tempfile::NamedTempFile::new().expect("a file outside");
    let own = || fs::metadata(aside.path()).expect("stat").mode();
    let before = own();
    let target = aside.path().to_path_buf();
    let view = Mounted::over(move |base| {
        symlink(&target, base.join("to-outside")).expect("symlink");
        symlink("nowhere", base.join("dangling")).expect("symlink");
    });
    symlink(aside.path(), view.path("new")).expect("symlink");
    for name in ["to-outside", "dangling", "new"] {
        lchown(view.path(name), None, None).expect(name);
        lchown(view.path(name), None, None).expect(name);
    }
    assert_eq!(own(), before, "who follows the link is the server");
}

#[test]
fn a_change_of_owner_to_nobody_is_a_change_of_status() {
    let view = Mounted::over(fill);
    fs::write(view.path("new"), "new").expect("write");
    for name in ["new", "dir", "f"] {
        chown(view.path(name), None, Some(1)).expect("chown");
        let before = fs::metadata(view.path(name)).expect("stat");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        // Times of a disk have the granularity of a tick.
        loop {
            chown(view.path(name), None, None).expect("chown");
            let after = fs::metadata(view.path(name)).expect("stat");
            if (after.ctime(), after.ctime_nsec()) > (before.ctime(), before.ctime_nsec()) {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "{name}");
        }
    }
}
