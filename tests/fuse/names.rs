//! Names and paths at their limits.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use crate::mounted::{Mounted, names};

#[test]
fn long_and_strange_names() {
    let mut view = Mounted::over(|base| {
        fs::write(base.join("x".repeat(255)), "long").expect("write");
    });
    let strange = view.root().join(OsStr::from_bytes(b"\xff\xfe \n\t\x01"));
    fs::write(&strange, "strange").expect("write");
    fs::write(view.path(&"y".repeat(255)), "long").expect("write");
    fs::remove_file(view.path(&"x".repeat(255))).expect("unlink");
    let refused = fs::write(view.path(&"z".repeat(256)), "").expect_err("too long");
    assert_eq!(refused.raw_os_error(), Some(libc::ENAMETOOLONG));
    view.seal_and_remount();
    assert_eq!(fs::read_to_string(&strange).expect("read"), "strange");
    assert_eq!(names(&view.root()).len(), 2);
}

#[test]
fn a_tree_deeper_than_path_max() {
    let mut view = Mounted::over(|_| {});
    // 60 levels of 100 bytes: beyond PATH_MAX, so only by going down step by step.
    let script = "import os,sys\n\
        os.chdir(sys.argv[1])\n\
        for i in range(60):\n\
        \x20 n=('%03d'%i)+'d'*97\n\
        \x20 if sys.argv[2]=='make': os.mkdir(n)\n\
        \x20 os.chdir(n)\n\
        if sys.argv[2]=='make': open('leaf','w').write('deep')\n\
        assert open('leaf').read()=='deep'\n\
        os.chmod('leaf',0o600); open('leaf','a').write('')\n";
    for mode in ["make", "read"] {
        let done = std::process::Command::new("python3")
            .args(["-c", script])
            .arg(view.root())
            .arg(mode)
            .status()
            .expect("python3");
        assert!(done.success(), "{mode}");
        view.seal_and_remount();
    }
}
