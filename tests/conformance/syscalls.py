#!/usr/bin/env python3
"""What system calls answer, case by case, to be compared with what they answer on ext4.

    syscalls.py populate DIR    makes the files that the cases of the kind `lower` work on
    syscalls.py run DIR [NAME…] runs every case once on those files and once on new ones, and prints a line for each:
                                kind/case, a tab, and what every step of it answered

An outcome holds no inode number and no time, only how they relate, so that two runs on ext4 print the same. Needs root.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import time

libc = ctypes.CDLL(None, use_errno=True)
AT_FDCWD = -100
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def name_of(number):
    return errno.errorcode.get(number, str(number))


class Log:
    """The outcome of one case, step by step."""

    def __init__(self):
        self.steps = []

    def say(self, what, value):
        self.steps.append(f"{what}={value}")

    def run(self, what, function, *arguments, show=True, **named):
        """Calls a function; its result, or the errno, is part of the outcome."""
        try:
            result = function(*arguments, **named)
        except OSError as error:
            self.say(what, name_of(error.errno))
            return None
        if show:
            self.say(what, result if isinstance(result, (int, str, list, tuple, type(None))) else repr(result))
        else:
            self.say(what, "ok")
        return result

    def open(self, what, path, flags, mode=0o666, **named):
        return self.run(what, os.open, path, flags, mode, show=False, **named)


def call(function, *arguments):
    """A call of the C library that Python does not have."""
    ctypes.set_errno(0)
    result = function(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def fallocate(fd, mode, offset, length):
    return call(libc.fallocate, fd, mode, ctypes.c_long(offset), ctypes.c_long(length))


def renameat2(old, new, flags):
    return call(libc.renameat2, AT_FDCWD, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def linkat(old_fd, old, new, flags):
    return call(libc.linkat, old_fd, os.fsencode(old), AT_FDCWD, os.fsencode(new), flags)


def utimensat(path, atime, mtime, flags=0):
    times = struct.pack("qqqq", *atime, *mtime)
    return call(libc.utimensat, AT_FDCWD, os.fsencode(path), times, flags)


def statx(path, flags=0, mask=0xFFF):
    buffer = ctypes.create_string_buffer(256)
    call(libc.statx, AT_FDCWD, os.fsencode(path), flags, mask, buffer)
    return buffer.raw


def write_file(path, data=b"content\n"):
    with open(path, "wb") as file:
        file.write(data)


def brief(path, follow=True):
    """What stat(2) says, without numbers and times."""
    meta = os.stat(path, follow_symlinks=follow) if not isinstance(path, int) else os.fstat(path)
    size = meta.st_size if not stat.S_ISDIR(meta.st_mode) else "-"
    links = meta.st_nlink if not stat.S_ISDIR(meta.st_mode) else "-"
    return f"{meta.st_mode:o},{meta.st_uid}:{meta.st_gid},{size},{links},{meta.st_rdev:x}"


class Times:
    """Which of a file's times a step changes."""

    def __init__(self, log, path, follow=True):
        self.log = log
        self.inode = os.open(path, os.O_PATH | (0 if follow else os.O_NOFOLLOW))
        self.before = self.take()

    def take(self):
        meta = os.fstat(self.inode)
        return meta.st_atime_ns, meta.st_mtime_ns, meta.st_ctime_ns

    def step(self, what, function, *arguments, **named):
        time.sleep(0.012)  # more than the granularity of a disk's times, a tick
        result = self.log.run(what, function, *arguments, show=False, **named)
        self.tell(what)
        return result

    def tell(self, what):
        after = self.take()
        changed = "".join(letter for letter, old, new in zip("amc", self.before, after) if old != new)
        self.log.say(f"{what}.times", changed or "none")
        self.before = after


def as_user(log, what, function, uid=1000, gid=1000, groups=()):
    """Runs a function, in a process without privileges; it returns what to show."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            os.setgroups(list(groups))
            os.setresgid(gid, gid, gid)
            os.setresuid(uid, uid, uid)
            try:
                answer = str(function())
            except OSError as error:
                answer = name_of(error.errno)
            os.write(write, answer.encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        log.say(what, answers.read().decode())
    os.waitpid(child, 0)


# --- The files ---------------------------------------------------------------------------------------------------------

def populate(at):
    os.makedirs(at)
    os.chmod(at, 0o777)
    write_file(f"{at}/file")
    os.chmod(f"{at}/file", 0o644)
    write_file(f"{at}/big", bytes(range(256)) * 4096)
    write_file(f"{at}/linked", b"two names\n")
    os.link(f"{at}/linked", f"{at}/other")
    with open(f"{at}/sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(4 << 20)
        file.write(b"data")
    os.symlink("file", f"{at}/symlink")
    os.symlink("nowhere", f"{at}/dangling")
    os.symlink("loop", f"{at}/loop")
    os.mkdir(f"{at}/dir")
    os.chmod(f"{at}/dir", 0o755)
    write_file(f"{at}/dir/inside")
    os.mkdir(f"{at}/dir/sub")
    os.mkdir(f"{at}/empty")
    os.mkfifo(f"{at}/fifo")
    os.chmod(f"{at}/fifo", 0o666)
    os.mknod(f"{at}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chmod(f"{at}/null", 0o666)
    os.mknod(f"{at}/zero-zero", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    with contextlib.closing(socket.socket(socket.AF_UNIX)) as server:
        directory = os.open(at, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)
    write_file(f"{at}/suid")
    os.chown(f"{at}/suid", 1000, 1000)
    os.chmod(f"{at}/suid", 0o6777)
    write_file(f"{at}/theirs")
    os.chown(f"{at}/theirs", 1000, 1000)
    os.chmod(f"{at}/theirs", 0o644)
    os.mkdir(f"{at}/sticky")
    os.chmod(f"{at}/sticky", 0o1777)
    write_file(f"{at}/sticky/roots")
    write_file(f"{at}/sticky/theirs")
    os.chown(f"{at}/sticky/theirs", 1000, 1000)
    os.mkdir(f"{at}/setgid")
    os.chown(f"{at}/setgid", 0, 2000)
    os.chmod(f"{at}/setgid", 0o2777)
    os.setxattr(f"{at}/file", "user.note", b"value")


# --- Opening -------------------------------------------------------------------------------------------------------------

@case
def open_flags(log):
    for path in ["file", "dir", "symlink", "dangling", "loop", "fifo", "null", "zero-zero", "socket", "missing", "file/x"]:
        for text in ["O_RDONLY", "O_WRONLY", "O_RDWR", "O_RDONLY|O_DIRECTORY", "O_RDONLY|O_NOFOLLOW", "O_PATH",
                     "O_PATH|O_NOFOLLOW", "O_PATH|O_DIRECTORY", "O_RDONLY|O_NOATIME", "O_WRONLY|O_NOFOLLOW",
                     "O_WRONLY|O_CREAT|O_EXCL", "O_RDONLY|O_CREAT|O_DIRECTORY", "O_WRONLY|O_APPEND", "O_RDONLY|O_TRUNC",
                     "O_WRONLY|O_TRUNC", "O_RDWR|O_SYNC", "O_RDWR|O_DSYNC", "O_RDONLY|O_ASYNC", "O_ACCMODE"]:
            if path == "missing" and "O_CREAT" in text:
                continue
            flags = 0
            for one in text.split("|"):
                flags |= getattr(os, one, 3)
            fd = log.open(f"{path}.{text}", path, flags | os.O_NONBLOCK)
            if fd is not None:
                os.close(fd)


@case
def open_again(log):
    fd = os.open("file", os.O_RDONLY)
    for text, flags in [("read", os.O_RDONLY), ("write", os.O_RDWR), ("truncate", os.O_WRONLY | os.O_TRUNC)]:
        again = log.open(text, f"/proc/self/fd/{fd}", flags)
        log.say("size", os.fstat(fd).st_size)
        if again is not None:
            os.close(again)
    os.unlink("file")
    again = log.open("unlinked", f"/proc/self/fd/{fd}", os.O_RDWR)
    if again is not None:
        log.run("write", os.write, again, b"late")
        log.run("read", os.pread, fd, 10, 0)
    log.run("link", linkat, AT_FDCWD, f"/proc/self/fd/{fd}", "back", 0x400)
    path = os.open("big", os.O_PATH)
    log.run("link by O_PATH", linkat, path, "", "another", 0x1000)
    log.run("links", lambda: os.fstat(path).st_nlink)
    for what, function in [("read", lambda: os.read(path, 1)), ("fchmod", lambda: os.fchmod(path, 0o600)),
                           ("fstat", lambda: brief(path)), ("getxattr", lambda: os.getxattr(path, "user.x"))]:
        log.run(f"O_PATH.{what}", function)


@case
def tmpfile(log):
    fd = log.open("open", ".", os.O_TMPFILE | os.O_RDWR)
    log.open("read only", ".", os.O_TMPFILE | os.O_RDONLY)
    log.open("on a file", "file", os.O_TMPFILE | os.O_RDWR)
    if fd is not None:
        log.run("link", linkat, AT_FDCWD, f"/proc/self/fd/{fd}", "named", 0x400)


@case
def create(log):
    for mask in [0, 0o022, 0o777]:
        os.umask(mask)
        for mode in [0o666, 0o777, 0o7777, 0]:
            log.run("mkdir", os.mkdir, f"d{mask:o}{mode:o}", mode)
            log.run("stat", brief, f"d{mask:o}{mode:o}")
            fd = log.open("open", f"f{mask:o}{mode:o}", os.O_CREAT | os.O_RDWR, mode)
            log.run("stat", brief, f"f{mask:o}{mode:o}")
            os.close(fd)
            log.run("mknod", os.mknod, f"p{mask:o}{mode:o}", stat.S_IFIFO | mode)
            log.run("stat", brief, f"p{mask:o}{mode:o}")
    os.umask(0o022)
    log.open("nothing may be done with it, but through this", "closed", os.O_CREAT | os.O_RDWR, 0)
    as_user(log, "closed", lambda: os.write(os.open("dir2", os.O_CREAT | os.O_WRONLY, 0), b"x"))


@case
def create_in_setgid(log):
    os.umask(0o022)
    for uid, gid, groups in [(0, 0, ()), (1000, 1000, ()), (1000, 1000, (2000,)), (1000, 2000, ())]:
        def make():
            base = f"setgid/{uid}.{gid}.{len(groups)}"
            os.umask(0)
            os.mkdir(f"{base}.d", 0o755)
            os.close(os.open(f"{base}.f", os.O_CREAT | os.O_RDWR, 0o2775))
            os.close(os.open(f"{base}.g", os.O_CREAT | os.O_RDWR, 0o2767))
            os.mknod(f"{base}.p", stat.S_IFIFO | 0o2777)
            os.symlink("x", f"{base}.l")
            return [brief(f"{base}.{end}", False) for end in "dfgpl"]
        as_user(log, f"{uid}.{gid}.{len(groups)}", make, uid, gid, groups)


@case
def mknod(log):
    for what, kind, device in [("regular", stat.S_IFREG, 0), ("none", 0, 0), ("char", stat.S_IFCHR, os.makedev(5, 1)),
                               ("block", stat.S_IFBLK, os.makedev(7, 255)), ("socket", stat.S_IFSOCK, 0),
                               ("char-0", stat.S_IFCHR, 0), ("block-0", stat.S_IFBLK, 0), ("wide", stat.S_IFCHR, 0xFFFFFFFFFF),
                               ("large", stat.S_IFBLK, os.makedev(4095, 1048575)), ("directory", stat.S_IFDIR, 0),
                               ("link", stat.S_IFLNK, 0)]:
        log.run(what, lambda: call(libc.mknod, what.encode(), kind | 0o640, ctypes.c_ulong(device)))
        log.run("stat", brief, what)
        as_user(log, "user", lambda: call(libc.mknod, f"user-{what}".encode(), kind | 0o640, ctypes.c_ulong(device)))
    log.run("names", lambda: sorted(os.listdir(".")))
    log.run("open char-0", os.open, "char-0", os.O_RDONLY)
    log.run("open block-0", os.open, "block-0", os.O_RDONLY)
    log.run("rename", os.rename, "char-0", "renamed")
    log.run("stat", brief, "renamed")
    log.run("link", os.link, "renamed", "second")
    log.run("stat", brief, "second")
    log.run("chmod", os.chmod, "second", 0o666)
    log.run("chown", os.chown, "second", 1, 2)
    log.run("setxattr", os.setxattr, "second", "trusted.x", b"1")
    log.run("list", os.listxattr, "second")
    log.run("stat", brief, "renamed")
    log.run("unlink", os.unlink, "renamed")
    log.run("stat", brief, "second")
    log.run("old", os.link, "zero-zero", "zero-two")
    log.run("old stat", brief, "zero-zero")
    log.run("old chmod", os.chmod, "zero-two", 0o600)
    log.run("old stat", brief, "zero-zero")


# --- Names -----------------------------------------------------------------------------------------------------------------

@case
def names(log):
    for length in [1, 251, 252, 253, 254, 255, 256, 300]:
        name = "n" * length
        log.run(f"create {length}", lambda: os.close(os.open(name, os.O_CREAT | os.O_WRONLY)))
        log.run("stat", brief, name)
        log.run("mkdir", os.mkdir, "d" * length)
        log.run("symlink", os.symlink, "x", "s" * length)
        log.run("link", os.link, "file", "l" * length)
        log.run("rename", os.rename, name, "r" * length)
        log.run("unlink", os.unlink, "r" * length)
        log.run("rmdir", os.rmdir, "d" * length)
    for name in [b"\xff\xfe", b"new\nline", b"back\\slash", b" ", b"...", b".wh.x", b".wh..wh..opq", b"\x01", "ü".encode(),
                 b"-", b"#1", b".fuse_hidden0001", b"work", b"index"]:
        log.run(f"create {name!r}", lambda: os.close(os.open(name, os.O_CREAT | os.O_WRONLY)))
        log.run("listed", lambda: name in os.listdir(b"."))
        log.run("unlink", os.unlink, name)
    for name in ["", ".", "..", "/", "dir/.", "dir/..", "missing/", "file/", "file/.", "dir/"]:
        log.run(f"mkdir {name}", os.mkdir, name)
        log.run("create", os.open, name, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        log.run("symlink", os.symlink, "x", name)
        log.run("link", os.link, "file", name)
        log.run("mknod", os.mknod, name, stat.S_IFIFO)
        log.run("unlink", os.unlink, name)
        if name not in ("/", "dir/"):
            log.run("rmdir", os.rmdir, name)
            log.run("rename from", os.rename, name, "new-name")
        if name not in ("missing/",):
            log.run("rename to", os.rename, "fifo", name)
    log.run("rename dir to missing/", os.rename, "empty", "missing/")


@case
def paths(log):
    for length in [4094, 4095, 4096]:
        log.run(f"stat {length}", brief, ("./" * 2048)[: length - 4] .rstrip("/") .ljust(length - 5, "/") + "/file")
    for length in [1, 60, 255, 256, 4094, 4095, 4096]:
        log.run(f"symlink {length}", os.symlink, "t" * length, f"target-{length}")
        log.run("readlink", lambda: len(os.readlink(f"target-{length}")))
        log.run("lstat", brief, f"target-{length}", False)
    log.run("empty target", os.symlink, "", "empty-target")
    deep = os.open(".", os.O_RDONLY)
    for depth in range(300):
        os.mkdir("deep", dir_fd=deep)
        below = os.open("deep", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    log.run("deep create", lambda: os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=deep)))
    log.run("deep rename", os.rename, "file", "renamed", src_dir_fd=deep, dst_dir_fd=deep)
    log.run("deep stat", lambda: os.stat("renamed", dir_fd=deep).st_size)
    log.run("rename the top", os.rename, "deep", "top")
    log.run("deep stat", lambda: os.stat("renamed", dir_fd=deep).st_size)
    os.close(deep)
    log.run("remove", shutil.rmtree, "top")


@case
def rename(log):
    ways = [("file", "new"), ("missing", "new"), ("dir", "empty"), ("empty", "dir"), ("file", "dir"), ("dir", "file"),
            ("dir", "dir/sub"), ("dir", "dir/sub/x"), ("dir/inside", "dir"), ("dir/sub", "dir"), ("linked", "other"),
            ("symlink", "file"), ("fifo", "socket"), ("dangling", "loop"), ("dir/", "x/"), ("file", "x/"), ("null", "fifo"),
            (".", "x"), ("..", "x"), ("x", "."), ("dir", "dir"), ("file", "file"), ("file", "missing/x"), ("file", "symlink/x")]
    for flags in [0, 1, 2]:
        for old, new in ways:
            os.mkdir("case")
            os.chdir("case")
            shutil.copytree("../dir", "dir")
            os.mkdir("empty")
            write_file("file")
            write_file("linked")
            os.link("linked", "other")
            for name in ["symlink", "dangling", "loop"]:
                os.symlink(os.readlink(f"../{name}"), name)
            os.mkfifo("fifo")
            os.mknod("socket", stat.S_IFSOCK | 0o600)
            os.mknod("null", stat.S_IFCHR | 0o600, os.makedev(1, 3))
            log.run(f"{flags} {old} {new}", renameat2, old, new, flags)
            log.say("left", ",".join(sorted(os.path.join(at, name) for at, dirs, files in os.walk(".")
                                            for name in dirs + files)))
            os.chdir("..")
            shutil.rmtree("case")


@case
def rename_flags(log):
    for flags in [3, 6, 8, 16]:
        log.run(flags, renameat2, "file", "new", flags)
        log.run(flags, renameat2, "file", "big", flags)


@case
def rename_whiteout(log):
    for old, new in [("file", "new"), ("dir", "empty"), ("dir", "file"), ("symlink", "fifo"), ("missing", "x"), ("big", "linked")]:
        log.run(f"{old} {new}", renameat2, old, new, 4)
        log.run("old", brief, old, False)
        log.run("new", brief, new, False)
    log.run("names", lambda: sorted(os.listdir(".")))


@case
def rename_below(log):
    """The same with what lies below."""
    for old, new, flags in [("file", "moved", 0), ("dir", "moved-dir", 0), ("moved-dir", "empty", 0), ("empty", "sticky", 2),
                            ("linked", "fifo", 2), ("linked", "other", 0), ("linked", "gone", 0), ("symlink", "null", 2),
                            ("socket", "dangling", 0), ("zero-zero", "big", 2), ("sticky", "empty", 1), ("empty", "dir", 1)]:
        log.run(f"{old} {new} {flags}", renameat2, old, new, flags)
        log.say("left", ",".join(sorted(os.path.join(at, name) for at, dirs, files in os.walk(".")
                                        for name in dirs + files)))
        for name in sorted(os.listdir(".")):
            log.run(name, brief, name, False)
    log.run("mkdir", os.mkdir, "file")
    log.run("empty", os.listdir, "file")


@case
def ctime_of_other_names(log):
    """A file that has been written loses one of its names."""
    os.chmod("linked", 0o640)
    os.link("other", "third")
    times = Times(log, "third")
    times.step("unlink", os.unlink, "linked")
    times.step("replace", os.rename, "big", "other")
    log.run("stat", brief, "third")


@case
def links(log):
    log.run("stat", brief, "linked")
    log.run("third", os.link, "other", "third")
    log.run("append", lambda: os.write(os.open("third", os.O_WRONLY | os.O_APPEND), b"more"))
    for name in ["linked", "other", "third"]:
        log.run(name, brief, name)
    log.say("same", os.path.samefile("linked", "third"))
    log.run("chmod", os.chmod, "linked", 0o600)
    log.run("other", brief, "other")
    held = os.open("other", os.O_RDONLY)
    for name in ["linked", "other", "third"]:
        log.run(f"unlink {name}", os.unlink, name)
        log.run("held", brief, held)
    log.run("content", os.read, held, 100)
    log.run("directory", os.link, "dir", "hard-dir")
    log.run("symlink", os.link, "symlink", "hard-symlink", follow_symlinks=False)
    log.run("symlink", brief, "hard-symlink", False)
    log.run("followed", linkat, AT_FDCWD, "symlink", "hard-file", 0x400)
    log.run("followed", brief, "file")
    log.run("fifo", os.link, "fifo", "hard-fifo")
    log.run("exists", os.link, "file", "fifo")
    log.run("missing", os.link, "missing", "x")
    log.run("bad flags", linkat, AT_FDCWD, "file", "y", 0x8000)
    as_user(log, "user, root's file", lambda: os.link("big", "big-2"))
    as_user(log, "user, own file", lambda: os.link("theirs", "theirs-2"))


@case
def unlinking(log):
    for path in ["dir", "file/x", "missing", ".", "..", "dir/", "file/", "symlink", "fifo", "null", "socket", "zero-zero"]:
        log.run(f"unlink {path}", os.unlink, path)
    for path in ["dir", "file", "fifo", "missing", ".", "dir/..", "empty/", "dangling", "dir/sub"]:
        log.run(f"rmdir {path}", os.rmdir, path)
    fd = os.open("file", os.O_RDWR)
    os.unlink("file")
    for what, function in [("stat", lambda: brief(fd)), ("write", lambda: os.write(fd, b"x")),
                           ("truncate", lambda: os.ftruncate(fd, 100)), ("chmod", lambda: os.fchmod(fd, 0o600)),
                           ("chown", lambda: os.fchown(fd, 5, 6)), ("utime", lambda: os.utime(fd, (1, 2))),
                           ("setxattr", lambda: os.setxattr(fd, "user.y", b"1")), ("list", lambda: os.listxattr(fd)),
                           ("get", lambda: os.getxattr(fd, "user.note")), ("fsync", lambda: os.fsync(fd)),
                           ("allocate", lambda: fallocate(fd, 0, 0, 8192)), ("punch", lambda: fallocate(fd, 3, 0, 4096)),
                           ("map", lambda: len(mmap.mmap(fd, 4096))), ("stat", lambda: brief(fd)),
                           ("seek", lambda: os.lseek(fd, 0, os.SEEK_DATA)), ("lock", lambda: fcntl.flock(fd, fcntl.LOCK_EX))]:
        log.run(f"unlinked {what}", function)
    os.mkdir("gone")
    directory = os.open("gone", os.O_RDONLY)
    os.rmdir("gone")
    for what, function in [("list", lambda: os.listdir(directory)), ("create", lambda: os.open("x", os.O_CREAT, dir_fd=directory)),
                           ("mkdir", lambda: os.mkdir("x", dir_fd=directory)), ("stat", lambda: brief(directory)),
                           ("lookup", lambda: os.stat("x", dir_fd=directory)), ("up", lambda: brief_at("..", directory)),
                           ("chmod", lambda: os.fchmod(directory, 0o700)), ("fsync", lambda: os.fsync(directory)),
                           ("rename into", lambda: os.rename("big", "big", dst_dir_fd=directory)),
                           ("link into", lambda: os.link("big", "big", dst_dir_fd=directory)),
                           ("symlink", lambda: os.symlink("x", "y", dir_fd=directory)), ("links", lambda: os.fstat(directory).st_nlink)]:
        log.run(f"removed {what}", function)


def brief_at(path, directory):
    return f"{os.stat(path, dir_fd=directory).st_mode:o}"


@case
def listing(log):
    def entries(path):
        with os.scandir(path) as found:
            return sorted((entry.name, entry.is_dir(follow_symlinks=False), entry.is_file(follow_symlinks=False),
                           entry.is_symlink(), entry.inode() == os.stat(entry.path, follow_symlinks=False).st_ino)
                          for entry in found)
    log.run("entries", lambda: entries("."))
    for number in range(500):
        write_file(f"dir/{number:04}", b"")
    with os.scandir("dir") as found:
        seen = []
        for entry in found:
            seen.append(entry.name)
            if entry.name[0].isdigit():
                os.unlink(entry.path)
    log.say("removed while listed", (len(seen), len(set(seen))))
    log.run("left", lambda: sorted(os.listdir("dir")))
    with os.scandir("dir") as found:
        next(found)
        os.rename("dir/inside", "dir/moved")
        rest = [entry.name for entry in found]
    log.say("after a rename", len(rest) >= 1)
    log.run("not a directory", os.listdir, "file")
    fd = os.open("dir", os.O_RDONLY)
    log.run("read", os.read, fd, 10)
    log.run("write", os.write, fd, b"x")
    log.run("truncate", os.ftruncate, fd, 0)
    log.run("fsync", os.fsync, fd)
    log.run("fdatasync", os.fdatasync, fd)
    log.run("seek", os.lseek, fd, 0, os.SEEK_SET)
    log.run("seek negative", os.lseek, fd, -1, os.SEEK_SET)
    log.run("allocate", fallocate, fd, 0, 0, 10)
    log.run("map", lambda: mmap.mmap(fd, 4096, prot=mmap.PROT_READ))


@case
def seeking_directories(log):
    """telldir(3) and seekdir(3), while names come and go."""
    for number in range(1000):
        write_file(f"dir/{number:03}", b"")
    libc.opendir.restype = libc.readdir64.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    stream = ctypes.c_void_p(libc.opendir(b"dir"))

    def read():
        entry = libc.readdir64(stream)
        return ctypes.string_at(entry + 19).decode() if entry else None

    def rest():
        return list(iter(read, None))

    positions, order = [libc.telldir(stream)], []
    while (name := read()) is not None:
        order.append(name)
        positions.append(libc.telldir(stream))
    log.say("all", (len(order), len(set(order)), len(set(positions)) == len(positions)))
    for index in [0, 1, 2, 150, 999, len(order) - 1, len(order)]:
        libc.seekdir(stream, ctypes.c_long(positions[index]))
        log.say(f"from {index}", rest() == order[index:])
    libc.seekdir(stream, ctypes.c_long(positions[100]))
    log.say("one", read() == order[100])
    ahead = {name for name in order[101:] if name.isdigit()}
    gone = {name for name in sorted(ahead)[::2]}
    for name in gone:
        os.unlink(f"dir/{name}")
    libc.seekdir(stream, ctypes.c_long(positions[101]))
    log.say("after some are gone", [name for name in rest() if name not in gone] == [name for name in order[101:] if name not in gone])
    os.unlink(f"dir/{min(ahead - gone)}")
    for number in range(50):
        write_file(f"dir/late{number}", b"")
    libc.seekdir(stream, ctypes.c_long(positions[50]))
    found = [name for name in rest() if name not in gone and name != min(ahead - gone)]
    old = [name for name in order[50:] if name not in gone and name != min(ahead - gone)]
    log.say("what stayed is there once", [name for name in found if not name.startswith("late")] == old)
    libc.rewinddir(stream)
    log.say("rewound", sorted(rest()) == sorted([".", ".."] + os.listdir("dir")))
    libc.closedir(stream)
    fd = os.open("dir", os.O_RDONLY)
    buffer = ctypes.create_string_buffer(64)
    log.run("short buffer", lambda: call(libc.getdents64, fd, buffer, 10))
    log.run("end", lambda: (os.lseek(fd, (1 << 63) - 1, os.SEEK_SET), call(libc.getdents64, fd, buffer, 64))[1])


@case
def seeking_back(log):
    """Whether who goes back in a directory sees names that are gone since."""
    libc.opendir.restype = libc.readdir64.restype = ctypes.c_void_p
    libc.telldir.restype = ctypes.c_long
    for number in range(10):
        write_file(f"dir/{number}", b"")
    stream = ctypes.c_void_p(libc.opendir(b"dir"))
    libc.readdir64(stream)
    position = libc.telldir(stream)
    while libc.readdir64(stream):
        pass
    for number in range(10):
        os.unlink(f"dir/{number}")
    libc.seekdir(stream, ctypes.c_long(position))
    names = [ctypes.string_at(entry + 19).decode() for entry in iter(lambda: libc.readdir64(stream), None)]
    log.say("gone", any(name.isdigit() for name in names))
    libc.closedir(stream)


@case
def removing_while_listing(log):
    """What rm -r and others do: they read a part, remove it, and read on."""
    for number in range(2000):
        write_file(f"dir/{number:04}", b"")
    seen = []
    with os.scandir("dir") as found:
        for entry in found:
            seen.append(entry.name)
            if entry.name.isdigit() and int(entry.name) % 3 == 0:
                os.unlink(entry.path)
            elif entry.name.isdigit() and int(entry.name) % 5 == 0:
                os.rename(entry.path, f"empty/{entry.name}")
    log.say("seen", (len(seen), len(set(seen))))
    log.run("left", lambda: (len(os.listdir("dir")), len(os.listdir("empty"))))


@case
def long_paths(log):
    """Paths of as many bytes as one may have, and one more."""
    names = []
    while sum(len(name) + 1 for name in names) < 4095 - 200:
        names.append("p" * 199)
    room = 4095 - sum(len(name) + 1 for name in names)
    at = os.open(".", os.O_RDONLY)
    for name in names:
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    path = "/".join([*names, "f" * room])
    longer = path + "f"
    for what, function in {
        "create": lambda: write_file(path), "stat": lambda: brief(path), "link": lambda: os.link(path, path[:-1]),
        "rename": lambda: os.rename(path[:-1], path[:-2]), "chmod": lambda: os.chmod(path, 0o600), "append": lambda: os.truncate(path, 3),
        "symlink": lambda: os.symlink(path, path[:-1]), "followed": lambda: os.stat(path[:-1]).st_size,
        "setxattr": lambda: os.setxattr(path, "user.x", b"1"), "access": lambda: os.access(path, os.R_OK),
        "unlink": lambda: os.unlink(path), "longer": lambda: brief(longer), "create longer": lambda: write_file(longer),
        "from within": lambda: os.close(os.open("f" * (room + 1), os.O_CREAT | os.O_WRONLY, dir_fd=at)),
        "not from above": lambda: os.unlink(longer), "names": lambda: [len(name) for name in sorted(os.listdir(at), key=len)],
        "link to longer": lambda: os.symlink(longer, "to-longer"),
    }.items():
        log.run(what, function)


@case
def far_down(log):
    """Directories below each other, further down than a path can say at full length."""
    depth, name = int(os.environ.get("SYSCALLS_DEPTH", "300")), "a-directory-name"
    top = os.open(".", os.O_RDONLY)
    at = os.dup(top)
    for level in range(depth):
        os.mkdir(name, dir_fd=at)
        below = os.open(name, os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    log.run("create", lambda: os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=at)))
    os.fchdir(at)
    write_file("leaf", b"far down\n")
    log.run("rename", os.rename, "leaf", "renamed")
    log.run("link", os.link, "renamed", "leaf")
    levels = 0
    while "a-directory-name" not in (found := os.listdir("..")) or levels < depth - 1:
        os.chdir("..")
        levels += 1
    log.say("climbed", levels)
    os.fchdir(top)
    log.run("rename the top", os.rename, name, "top")
    log.run("still there", lambda: os.stat("renamed", dir_fd=at).st_nlink)
    log.run("write", lambda: os.write(os.open("leaf", os.O_WRONLY | os.O_APPEND, dir_fd=at), b"more"))
    os.close(at)
    log.run("remove", lambda: os.waitstatus_to_exitcode(os.system("rm -rf top")))
    log.run("left", lambda: os.path.exists("top"))


# --- Attributes --------------------------------------------------------------------------------------------------------

@case
def times_of_files(log):
    times = Times(log, "file")
    times.step("chmod", os.chmod, "file", 0o600)
    times.step("same chmod", os.chmod, "file", 0o600)
    times.step("chown", os.chown, "file", 0, 0)
    times.step("nobody", os.chown, "file", -1, -1)
    times.step("link", os.link, "file", "file-2")
    times.step("unlink", os.unlink, "file-2")
    times.step("rename", os.rename, "file", "file-3")
    os.rename("file-3", "file")
    times.tell("back")
    times.step("truncate", os.truncate, "file", 3)
    times.step("same truncate", os.truncate, "file", 3)
    times.step("longer", os.truncate, "file", 30)
    times.step("setxattr", os.setxattr, "file", "user.t", b"1")
    times.step("removexattr", os.removexattr, "file", "user.t")
    fd = os.open("file", os.O_RDWR)
    times.step("ftruncate", os.ftruncate, fd, 30)
    times.step("write", os.pwrite, fd, b"data", 0)
    times.step("write nothing", os.pwrite, fd, b"", 0)
    times.step("write again", os.pwrite, fd, b"data", 0)
    times.step("append", os.pwrite, fd, b"data", 100)
    times.step("fsync", os.fsync, fd)
    times.step("allocate", fallocate, fd, 0, 0, 8192)
    times.step("allocate more", fallocate, fd, 1, 8192, 8192)
    times.step("punch", fallocate, fd, 3, 0, 4096)
    times.step("zero", fallocate, fd, 0x10, 0, 4096)
    times.step("copy range", os.copy_file_range, fd, fd, 10, 0, 4096)
    os.close(fd)
    times.tell("close")
    times.step("empty", lambda: os.close(os.open("file", os.O_WRONLY | os.O_TRUNC)))
    times.step("empty again", lambda: os.close(os.open("file", os.O_WRONLY | os.O_TRUNC)))
    times.step("open to write", lambda: os.close(os.open("file", os.O_WRONLY)))
    times.step("now", os.utime, "file")
    times.step("explicit", os.utime, "file", (1, 2))
    times.step("omit", utimensat, "file", (0, 0x3FFFFFFE), (0, 0x3FFFFFFE))
    times.step("atime now", utimensat, "file", (0, 0x3FFFFFFF), (0, 0x3FFFFFFE))


@case
def times_of_mappings(log):
    fd = os.open("big", os.O_RDWR)
    area = mmap.mmap(fd, 8192)
    for data in [b"abcd", b"efgh"]:
        before = os.fstat(fd)
        time.sleep(0.012)
        area[0:4] = data
        area.flush()  # mtime is allowed to wait for msync(2)
        after = os.fstat(fd)
        log.say("changed", (after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns))
    time.sleep(0.012)
    area[0:4] = b"ijkl"
    area.close()
    os.close(fd)
    os.sync()
    log.say("unmapped", os.stat("big").st_mtime_ns > after.st_mtime_ns)


@case
def stores_that_nobody_flushed(log):
    """What is done to a file while another process has stored in it, through a mapping, and not called msync(2)."""
    def storing(path, offset, function):
        ready, go = os.pipe(), os.pipe()
        child = os.fork()
        if child == 0:
            area = mmap.mmap(os.open(path, os.O_RDWR), 8 << 20)
            area[offset:offset + 6] = b"stored"
            os.write(ready[1], b"r")
            os.read(go[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        try:
            function()
        finally:
            os.write(go[1], b"g")
            os.waitpid(child, 0)

    def seek():
        fd = os.open("sparse", os.O_RDONLY)
        log.run("data", os.lseek, fd, 5 << 20, os.SEEK_DATA)
        log.run("hole", os.lseek, fd, 6 << 20, os.SEEK_HOLE)
        log.run("behind", os.lseek, fd, 7 << 20, os.SEEK_DATA)
        log.run("before", os.lseek, fd, 0, os.SEEK_HOLE)
    storing("sparse", 6 << 20, seek)
    os.truncate("sparse", 0)  # where cp(1) sees no data at all it copies none
    os.truncate("sparse", 8 << 20)
    storing("sparse", 1 << 20, lambda: log.run("cp", lambda: os.waitstatus_to_exitcode(os.system("cp sparse sparse-2"))))
    with open("sparse-2", "rb") as copy:
        content = copy.read()
    log.say("copied", content[1 << 20:][:6])
    for what, function in [("utime", lambda: os.utime("sparse", (1, 2))), ("mtime only", lambda: utimensat("sparse", (0, 0x3FFFFFFE), (3, 0)))]:
        storing("sparse", 2 << 20, lambda: log.run(what, function))
        os.sync()
        log.say("mtime", os.stat("sparse").st_mtime_ns)


@case
def ctime_of_an_open(log):
    times = Times(log, "big")
    fd = times.step("open to write", os.open, "big", os.O_RDWR)
    os.close(fd)
    mapped = mmap.mmap(os.open("big", os.O_RDONLY), 4096, prot=mmap.PROT_READ)
    log.say("mapped", len(mapped))
    fd = os.open("big", os.O_RDWR)
    os.pread(fd, 1, 0)
    log.say("ctime", os.fstat(fd).st_ctime_ns == times.before[2])


@case
def access_times(log):
    """What a first read changes, of a file whose times lie in the past."""
    for path in ["file", "dir", "symlink"]:
        os.utime(path, (1, 2), follow_symlinks=False)
    os.close(os.open("file", os.O_RDONLY))
    for path, function in [("file", lambda: open("file", "rb").read()), ("dir", lambda: os.listdir("dir")),
                           ("symlink", lambda: os.readlink("symlink"))]:
        function()
        log.say(path, os.stat(path, follow_symlinks=False).st_atime != 1)


@case
def times_of_directories(log):
    for name in ["dir", "empty"]:
        times = Times(log, name)
        times.step("create", write_file, f"{name}/new")
        times.step("write", write_file, f"{name}/new", b"longer")
        times.step("chmod", os.chmod, f"{name}/new", 0o600)
        times.step("link", os.link, f"{name}/new", f"{name}/new-2")
        times.step("rename", os.rename, f"{name}/new", f"{name}/new-3")
        times.step("replace", os.rename, f"{name}/new-2", f"{name}/new-3")
        times.step("same", os.rename, f"{name}/new-3", f"{name}/new-3")
        times.step("unlink", os.unlink, f"{name}/new-3")
        times.step("mkdir", os.mkdir, f"{name}/d")
        times.step("rmdir", os.rmdir, f"{name}/d")
        times.step("symlink", os.symlink, "x", f"{name}/s")
        times.step("away", os.rename, f"{name}/s", "s")
        times.step("here", os.rename, "s", f"{name}/s")
        times.step("exchange", lambda: renameat2("file", f"{name}/s", 2))
        times.step("mknod", os.mkfifo, f"{name}/p")
        times.step("fails", lambda: os.mkdir(f"{name}/p"))
        times.step("stat", os.stat, f"{name}/p")
        times.step("itself", os.rename, name, f"{name}-2")  # its parent's times change, its own ctime
        os.rename(f"{name}-2", name)
        times.tell("back")
        os.rename(f"{name}/s", "file")


@case
def times_of_links(log):
    times = Times(log, "symlink", False)
    times.step("lchown", os.lchown, "symlink", 5, 5)
    times.step("utime", os.utime, "symlink", (3, 4), follow_symlinks=False)
    times.step("rename", os.rename, "symlink", "symlink-2")
    os.rename("symlink-2", "symlink")
    times.tell("back")
    times.step("link", os.link, "symlink", "symlink-3", follow_symlinks=False)
    log.run("stat", brief, "symlink", False)
    fifo = Times(log, "fifo")
    fifo.step("chmod", os.chmod, "fifo", 0o644)
    fifo.step("utime", os.utime, "fifo", (5, 6))
    reader, writer = os.open("fifo", os.O_RDONLY | os.O_NONBLOCK), os.open("fifo", os.O_WRONLY)
    log.run("write", os.write, writer, b"x")
    log.run("read", os.read, reader, 5)


@case
def utimes(log):
    for what, atime, mtime in [("plain", (1, 2), (3, 4)), ("nanoseconds", (1, 999999999), (3, 123456789)),
                               ("too many", (1, 1000000000), (3, 0)), ("negative", (1, -1), (3, 0)),
                               ("before 1970", (-5, 5), (-1, 999999999)), ("1901", (-2147483648, 0), (-2147483649, 0)),
                               ("2038", (2147483648, 1), (4294967296, 1)), ("2446", (15032385535, 0), (15032385536, 0)),
                               ("never", (1 << 62, 0), (-(1 << 62), 0)),
                               ("omit both", (9, 0x3FFFFFFE), (9, 0x3FFFFFFE)), ("omit one", (7, 7), (9, 0x3FFFFFFE))]:
        log.run(what, utimensat, "file", atime, mtime)
        meta = os.stat("file")
        log.say("times", (meta.st_atime_ns, meta.st_mtime_ns))
    log.run("bad flags", utimensat, "file", (1, 2), (3, 4), 0x8000)
    log.run("symlink", utimensat, "symlink", (11, 12), (13, 14), 0x100)
    log.run("symlink", lambda: os.lstat("symlink").st_mtime_ns)
    log.run("dangling", utimensat, "dangling", (11, 12), (13, 14))
    for path in ["file", "theirs", "suid"]:
        as_user(log, f"user {path} now", lambda: os.utime(path))
        as_user(log, f"user {path} explicit", lambda: os.utime(path, (1, 2)))
    as_user(log, "user, one now, one kept", lambda: utimensat("suid", (0, 0x3FFFFFFF), (0, 0x3FFFFFFE)))
    os.chmod("suid", 0o666)
    as_user(log, "another user now", lambda: os.utime("suid"), 1001)
    as_user(log, "another user explicit", lambda: os.utime("suid", (1, 2)), 1001)
    as_user(log, "another user, now and now", lambda: utimensat("suid", (0, 0x3FFFFFFF), (0, 0x3FFFFFFF)), 1001)
    as_user(log, "another user, one now", lambda: utimensat("suid", (0, 0x3FFFFFFF), (0, 0x3FFFFFFE)), 1001)


@case
def modes(log):
    for path in ["file", "dir", "symlink", "fifo", "null", "socket", "suid", "dangling", "zero-zero"]:
        for mode in [0, 0o4755, 0o2755, 0o1777, 0o7777, 0o644]:
            log.run(f"chmod {path} {mode:o}", os.chmod, path, mode)
            log.run("stat", brief, path, False)
    log.run("fchmodat", lambda: call(libc.fchmodat, AT_FDCWD, b"symlink", 0o600, 0x100))
    os.chmod("theirs", 0o755)
    os.chown("theirs", 1000, 2000)
    for mode in [0o2755, 0o4755, 0o2644, 0o1644]:
        for groups in [(), (2000,)]:
            as_user(log, f"user {mode:o} {groups}", lambda: os.chmod("theirs", mode), groups=groups)
            log.run("stat", brief, "theirs")
    as_user(log, "not the owner", lambda: os.chmod("file", 0o777))


@case
def owners(log):
    for path, mode in [("suid", 0o6777), ("suid", 0o6666), ("suid", 0o2767), ("dir", 0o6777), ("file", 0o4755)]:
        for uid, gid in [(0, 0), (1000, 1000), (-1, 5), (5, -1), (-1, -1)]:
            os.chmod(path, mode)
            if (uid, gid) != (-1, -1):  # by root on a file: told of in docs/semantics.md
                log.run(f"chown {path} {mode:o} {uid} {gid}", os.chown, path, uid, gid)
                log.run("stat", brief, path)
    for path in ["symlink", "dangling", "fifo", "null", "socket", "dir"]:
        log.run(f"lchown {path}", os.lchown, path, 7, 8)
        log.run("stat", brief, path, False)
    log.run("large", os.chown, "file", 4294967294, 4294967294)
    log.run("stat", brief, "file")
    os.chown("theirs", 1000, 1000)
    for what, uid, gid, groups in [("to another", 1001, -1, ()), ("to a group", -1, 2000, ()), ("to own group", -1, 2000, (2000,)),
                                   ("to itself", 1000, -1, ()), ("to nobody", -1, -1, ())]:
        os.chmod("theirs", 0o6755)
        as_user(log, f"user {what}", lambda: os.chown("theirs", uid, gid), groups=groups)
        log.run("stat", brief, "theirs")


@case
def privileges(log):
    """What takes setuid, setgid and capabilities away, by whom."""
    capability = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    changes = {
        "write": lambda fd: os.write(fd, b"x"), "pwrite": lambda fd: os.pwrite(fd, b"x", 2), "empty write": lambda fd: os.write(fd, b""),
        "truncate": lambda fd: os.truncate("suid", 3), "ftruncate": lambda fd: os.ftruncate(fd, 5),
        "allocate": lambda fd: fallocate(fd, 0, 0, 9), "punch": lambda fd: fallocate(fd, 3, 0, 4),
        "copy range": lambda fd: os.copy_file_range(os.open("big", os.O_RDONLY), fd, 10),
        "sendfile": lambda fd: os.sendfile(fd, os.open("big", os.O_RDONLY), 0, 10),
        "open and truncate": lambda fd: os.close(os.open("suid", os.O_WRONLY | os.O_TRUNC)),
        "open": lambda fd: os.close(os.open("suid", os.O_WRONLY)),
        "setxattr": lambda fd: os.setxattr(fd, "user.n", b"1"), "utime": lambda fd: os.utime("suid"),
        "writev": lambda fd: os.writev(fd, [b"a", b"b"]), "append": lambda fd: os.write(os.open("suid", os.O_WRONLY | os.O_APPEND), b"z"),
    }
    for what, change in changes.items():
        for mode in [0o6777, 0o2767, 0o4666]:
            for uid in [0, 1000, 1001]:
                os.chown("suid", 1000, 1000)
                os.setxattr("suid", "security.capability", capability)
                os.chmod("suid", mode)
                as_user(log, f"{what} {mode:o} {uid}", lambda: change(os.open("suid", os.O_RDWR)), uid, uid)
                log.run("stat", lambda: f"{os.stat('suid').st_mode:o}")
                log.run("capability", lambda: len(os.getxattr("suid", "security.capability")))


@case
def privileges_of_mappings(log):
    """A store through a mapping takes nothing away."""
    capability = struct.pack("<IIIII", 0x02000001, 0x400, 0, 0, 0)
    for uid in [0, 1000, 1001]:
        os.chown("suid", 1000, 1000)
        os.setxattr("suid", "security.capability", capability)
        os.chmod("suid", 0o6777)
        as_user(log, f"map {uid}", lambda: store(os.open("suid", os.O_RDWR)), uid, uid)
        log.run("stat", lambda: f"{os.stat('suid').st_mode:o}")
        log.run("capability", lambda: len(os.getxattr("suid", "security.capability")))


def store(fd):
    with mmap.mmap(fd, 4) as area:
        area[0] = 65
        area.flush()


@case
def permissions(log):
    os.chmod("dir", 0o750)
    os.chmod("file", 0o640)
    for what, function in {
        "read": lambda: os.open("file", os.O_RDONLY), "write": lambda: os.open("theirs", os.O_WRONLY) > 0,
        "enter": lambda: os.stat("dir/inside"), "list": lambda: os.listdir("dir"), "create": lambda: os.mkdir("dir/x"),
        "sticky own": lambda: os.unlink("sticky/theirs"), "sticky root's": lambda: os.unlink("sticky/roots"),
        "sticky rename": lambda: os.rename("sticky/roots", "sticky/new"), "access": lambda: os.access("file", os.R_OK),
        "access own": lambda: os.access("theirs", os.R_OK | os.W_OK), "execute": lambda: os.access("theirs", os.X_OK),
        "noatime": lambda: os.open("suid", os.O_RDONLY | os.O_NOATIME) > 0, "noatime root's": lambda: os.open("big", os.O_NOATIME),
        "trusted": lambda: os.setxattr("theirs", "trusted.x", b"1"), "security": lambda: os.setxattr("theirs", "security.x", b"1"),
        "user": lambda: os.setxattr("theirs", "user.x", b"1"), "user of root's": lambda: os.setxattr("big", "user.x", b"1"),
        "sticky dir xattr": lambda: os.setxattr("sticky", "user.x", b"1"), "get trusted": lambda: os.getxattr("theirs", "trusted.x"),
        "chroot": lambda: os.chroot("sticky"), "device": lambda: os.open("null", os.O_WRONLY) > 0,
        "fifo": lambda: os.open("fifo", os.O_RDONLY | os.O_NONBLOCK) > 0, "protected": lambda: os.open("sticky/roots", os.O_CREAT | os.O_RDWR),
    }.items():
        as_user(log, what, function)
        as_user(log, f"other {what}", function, 1001, 1001)


@case
def xattrs(log):
    for path in ["file", "dir", "symlink", "fifo", "zero-zero"]:
        for name in ["user.a", "trusted.b", "security.c", "system.d", "unknown.e", "user.", "user", "", "trusted.overlay.opaque",
                     "user.overlay.opaque", "user." + "n" * 250, "user." + "n" * 251]:
            log.run(f"set {path} {name[:40]}", os.setxattr, path, name, b"value", follow_symlinks=False)
            log.run("get", os.getxattr, path, name, follow_symlinks=False)
        log.run("list", lambda: sorted(os.listxattr(path, follow_symlinks=False)))
        for name in ["user.a", "trusted.b", "security.c", "trusted.overlay.opaque", "user.none"]:
            log.run(f"remove {name}", os.removexattr, path, name, follow_symlinks=False)
        log.run("list", lambda: sorted(os.listxattr(path, follow_symlinks=False)))
    log.run("create again", os.setxattr, "file", "user.note", b"1", os.XATTR_CREATE)
    log.run("replace none", os.setxattr, "file", "user.none", b"1", os.XATTR_REPLACE)
    log.run("both flags", os.setxattr, "file", "user.note", b"1", 3)
    log.run("bad flags", os.setxattr, "file", "user.note", b"1", 8)
    log.run("empty", os.setxattr, "file", "user.nothing", b"")
    log.run("get", os.getxattr, "file", "user.nothing")
    for size in [1000, 3000, 65536, 65537]:
        log.run(f"size {size}", os.setxattr, "big", "user.large", b"v" * size)
    log.run("short get", lambda: call(libc.getxattr, b"file", b"user.note", ctypes.create_string_buffer(1), ctypes.c_size_t(0)))
    os.setxattr("file", "user.note", b"12345")
    log.run("short get", lambda: call(libc.getxattr, b"file", b"user.note", ctypes.create_string_buffer(9), ctypes.c_size_t(2)))
    log.run("short list", lambda: call(libc.listxattr, b"file", ctypes.create_string_buffer(9), ctypes.c_size_t(2)))


@case
def xattrs_of_ours(log):
    log.run("set", os.setxattr, "file", "trusted.harness.ino", b"1")
    log.run("get", os.getxattr, "file", "trusted.harness.ino")
    log.run("list", lambda: sorted(os.listxattr("file")))


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", tag, perm, who & 0xFFFFFFFF) for tag, perm, who in entries)


@case
def acls(log):
    access, default = "system.posix_acl_access", "system.posix_acl_default"
    minimal = acl((1, 6, -1), (4, 4, -1), (32, 4, -1))
    named = acl((1, 7, -1), (2, 6, 1001), (4, 5, -1), (16, 7, -1), (32, 1, -1))
    for path in ["file", "dir", "symlink", "fifo"]:
        for text, value in [("minimal", minimal), ("named", named), ("no mask", acl((1, 7, -1), (2, 6, 1001), (4, 5, -1), (32, 1, -1))),
                            ("short", b"\2\0\0\0\1"), ("version", b"\3\0\0\0"), ("empty", b"")]:
            for kind in [access, default]:
                log.run(f"{path} {text} {kind[17:]}", os.setxattr, path, kind, value, follow_symlinks=False)
                log.run("get", os.getxattr, path, kind, follow_symlinks=False)
                log.run("stat", brief, path, False)
    os.setxattr("file", access, named)
    for mode in [0o640, 0o777, 0o4711]:
        log.run(f"chmod {mode:o}", os.chmod, "file", mode)
        log.run("acl", os.getxattr, "file", access)
        log.run("stat", brief, "file")
    os.setxattr("dir", default, named)
    for mask in [0o022, 0o077]:
        os.umask(mask)
        for mode in [0o666, 0o600, 0o777]:
            log.run("create", lambda: os.close(os.open(f"dir/f{mask:o}{mode:o}", os.O_CREAT | os.O_RDWR, mode)))
            log.run("mkdir", os.mkdir, f"dir/d{mask:o}{mode:o}", mode)
            log.run("mknod", os.mknod, f"dir/p{mask:o}{mode:o}", stat.S_IFIFO | mode)
            for letter in "fdp":
                log.run("stat", brief, f"dir/{letter}{mask:o}{mode:o}")
                log.run("acl", lambda: sorted((name, os.getxattr(f"dir/{letter}{mask:o}{mode:o}", name))
                                              for name in os.listxattr(f"dir/{letter}{mask:o}{mode:o}")))
    os.umask(0o022)
    as_user(log, "named user", lambda: os.access("dir/f22666", os.W_OK), 1001)
    as_user(log, "another", lambda: os.access("dir/f22666", os.W_OK), 1002)
    as_user(log, "named user opens", lambda: os.open("dir/f22666", os.O_RDWR) > 0, 1001)
    as_user(log, "not the owner", lambda: os.setxattr("file", access, minimal), 1001)
    log.run("remove", os.removexattr, "dir", default)
    log.run("remove again", os.removexattr, "dir", default)
    log.run("list", os.listxattr, "dir")


@case
def extended_stat(log):
    for path in ["file", "dir", "symlink", "fifo", "null", "sparse"]:
        raw = log.run(f"statx {path}", statx, path, 0x100, show=False)
        if raw:
            mask, = struct.unpack_from("I", raw, 0)
            log.say("mask", f"{mask & 0x7ff:x}")
    log.run("bad flags", statx, "file", 0x8000, show=False)
    log.run("bad mask", statx, "file", 0, 0x80000000, show=False)
    log.run("empty", statx, "", 0x1000, show=False)
    log.say("block size", os.stat("file").st_blksize)
    for path in ["file", "big", "sparse", "symlink", "fifo"]:
        log.say(f"blocks {path}", os.lstat(path).st_blocks)
    found = os.statvfs("file")
    log.say("statvfs", (found.f_bsize, found.f_frsize, found.f_namemax, found.f_flag & 0xFFF, found.f_files > 0))
    log.say("devices", os.stat("file").st_dev == os.stat("dir").st_dev == os.stat("dir/inside").st_dev)


# --- Content -----------------------------------------------------------------------------------------------------------------

@case
def offsets(log):
    fd = os.open("file", os.O_RDWR)
    for what, function in {
        "seek past": lambda: os.lseek(fd, 1000, os.SEEK_SET), "seek negative": lambda: os.lseek(fd, -1, os.SEEK_SET),
        "seek end": lambda: os.lseek(fd, -3, os.SEEK_END), "seek before": lambda: os.lseek(fd, -100, os.SEEK_END),
        "seek odd": lambda: os.lseek(fd, 0, 99), "seek data": lambda: os.lseek(fd, 0, os.SEEK_DATA),
        "seek hole": lambda: os.lseek(fd, 0, os.SEEK_HOLE), "data at end": lambda: os.lseek(fd, 8, os.SEEK_DATA),
        "hole at end": lambda: os.lseek(fd, 8, os.SEEK_HOLE), "data past": lambda: os.lseek(fd, 100, os.SEEK_DATA),
        "hole past": lambda: os.lseek(fd, 100, os.SEEK_HOLE), "data negative": lambda: os.lseek(fd, -1, os.SEEK_DATA),
        "position": lambda: os.lseek(fd, 0, os.SEEK_CUR), "pread past": lambda: os.pread(fd, 10, 1000),
        "pread negative": lambda: os.pread(fd, 10, -1), "pwrite negative": lambda: os.pwrite(fd, b"x", -1),
        "pwrite too far": lambda: os.pwrite(fd, b"x", 1 << 45), "truncate negative": lambda: os.ftruncate(fd, -1),
        "truncate too far": lambda: os.ftruncate(fd, 1 << 45), "truncate far": lambda: os.ftruncate(fd, 1 << 43),
        "size": lambda: os.fstat(fd).st_size, "back": lambda: os.ftruncate(fd, 8), "content": lambda: os.pread(fd, 10, 0),
        "read only truncate": lambda: os.ftruncate(os.open("file", os.O_RDONLY), 1),
        "write only read": lambda: os.read(os.open("file", os.O_WRONLY), 1),
        "read only write": lambda: os.write(os.open("file", os.O_RDONLY), b"x"),
        "truncate dir": lambda: os.truncate("dir", 1), "truncate fifo": lambda: os.truncate("fifo", 1),
        "truncate null": lambda: os.truncate("null", 1), "truncate socket": lambda: os.truncate("socket", 1),
        "truncate loop": lambda: os.truncate("loop", 1), "truncate missing": lambda: os.truncate("missing", 1),
        "truncate dangling": lambda: os.truncate("dangling", 1),
    }.items():
        log.run(what, function)
    fd = os.open("sparse", os.O_RDWR)
    for at in [0, 1, 4096, 4 << 20, (4 << 20) + 1, (4 << 20) + 4096, (8 << 20) - 1, 8 << 20]:
        log.run(f"data {at}", os.lseek, fd, at, os.SEEK_DATA)
        log.run(f"hole {at}", os.lseek, fd, at, os.SEEK_HOLE)
    os.pwrite(fd, b"x", 100000)
    for at in [0, 98304, 100001, 106496]:
        log.run(f"data {at}", os.lseek, fd, at, os.SEEK_DATA)
        log.run(f"hole {at}", os.lseek, fd, at, os.SEEK_HOLE)
    log.say("blocks", os.fstat(fd).st_blocks)


@case
def allocation(log):
    modes = {"plain": 0, "keep": 1, "punch": 3, "punch without keep": 2, "collapse": 8, "zero": 0x10, "zero keep": 0x11,
             "insert": 0x20, "unshare": 0x40, "unknown": 0x1000, "punch zero": 0x13}
    for text, mode in modes.items():
        for offset, length in [(0, 4096), (4096, 8192), (100, 50), (0, 0), (-1, 10), (0, -1), (1 << 20, 4096), (0, 1 << 45),
                               (1 << 62, 1 << 62)]:
            if text in ("collapse", "insert") and length > 0 and offset >= 0 or (text, length) == ("unshare", 1 << 45):
                continue
            shutil.copy("big", "copy")
            fd = os.open("copy", os.O_RDWR)
            log.run(f"{text} {offset} {length}", fallocate, fd, mode, offset, length)
            meta = os.fstat(fd)
            log.say("size", meta.st_size)
            log.say("sum", sum(os.pread(fd, 20000, 0)))
            os.close(fd)
    fd = os.open("big", os.O_RDWR)
    log.run("punch below", fallocate, fd, 3, 4096, 4096)
    log.run("hole", os.lseek, fd, 0, os.SEEK_HOLE)
    log.run("data", os.lseek, fd, 4096, os.SEEK_DATA)
    log.say("sum", sum(os.pread(fd, 20000, 0)))
    log.run("read only", lambda: fallocate(os.open("big", os.O_RDONLY), 0, 0, 10))
    log.run("fifo", lambda: fallocate(os.open("fifo", os.O_RDWR | os.O_NONBLOCK), 0, 0, 10))
    log.run("posix", os.posix_fallocate, fd, 0, 2 << 20)
    log.say("size", os.fstat(fd).st_size)
    log.say("blocks", os.fstat(fd).st_blocks)
    append = os.open("big", os.O_WRONLY | os.O_APPEND)
    log.run("append punch", fallocate, append, 3, 0, 4096)
    log.run("append zero", fallocate, append, 0x10, 0, 4096)


@case
def collapse_and_insert(log):
    fd = os.open("big", os.O_RDWR)
    for mode in [8, 0x20]:
        log.run("shift", fallocate, fd, mode, 4096, 8192)
        log.say("size", os.fstat(fd).st_size)


@case
def copying(log):
    source, target = os.open("big", os.O_RDONLY), os.open("new", os.O_CREAT | os.O_RDWR)
    def copy(*arguments, flags=0):
        source, at, target, to, length = arguments
        at, to = ctypes.c_long(at), ctypes.c_long(to)
        return call(libc.copy_file_range, source, ctypes.byref(at), target, ctypes.byref(to), ctypes.c_size_t(length), flags)
    for what, function in {
        "whole": lambda: copy(source, 0, target, 0, 1 << 20), "past the end": lambda: copy(source, 1 << 20, target, 0, 10),
        "over the end": lambda: copy(source, (1 << 20) - 5, target, 0, 10), "flags": lambda: copy(source, 0, target, 0, 10, flags=1),
        "itself": lambda: copy(target, 0, target, 100, 50), "overlap": lambda: copy(target, 0, target, 10, 50),
        "nothing": lambda: copy(source, 0, target, 0, 0), "to read only": lambda: copy(target, 0, source, 0, 10),
        "from write only": lambda: copy(os.open("file", os.O_WRONLY), 0, target, 0, 5),
        "append": lambda: copy(source, 0, os.open("new", os.O_WRONLY | os.O_APPEND), 0, 5),
        "directory": lambda: copy(os.open("dir", os.O_RDONLY), 0, target, 0, 5), "negative": lambda: copy(source, -1, target, 0, 5),
        "fifo": lambda: copy(os.open("fifo", os.O_RDWR), 0, target, 0, 5), "wrap": lambda: copy(source, 0, target, (1 << 63) - 5, 50),
        "hole": lambda: copy(os.open("sparse", os.O_RDONLY), 0, target, 0, 8 << 20), "size": lambda: os.fstat(target).st_size,
        "onto the old": lambda: copy(target, 0, os.open("file", os.O_RDWR), 4, 100), "text": lambda: sum(open("file", "rb").read()),
        "sendfile": lambda: os.sendfile(target, source, 0, 5000), "sendfile end": lambda: os.sendfile(target, source, 1 << 20, 50),
        "sendfile append": lambda: os.sendfile(os.open("new", os.O_WRONLY | os.O_APPEND), source, 0, 5),
    }.items():
        log.run(what, function)
    log.say("sum", sum(os.pread(target, 10000, 0)))
    read, write = os.pipe()
    def splice(fd_in, off_in, fd_out, off_out, length):
        off_in = None if off_in is None else ctypes.byref(ctypes.c_long(off_in))
        off_out = None if off_out is None else ctypes.byref(ctypes.c_long(off_out))
        return call(libc.splice, fd_in, off_in, fd_out, off_out, ctypes.c_size_t(length), 0)
    log.run("splice out", splice, source, 0, write, None, 4096)
    log.run("splice in", splice, read, None, target, 50, 4096)
    log.run("splice end", splice, source, 1 << 20, write, None, 4096)
    log.say("sum", sum(os.pread(target, 10000, 0)))
    for what, number, argument in [("FICLONE", 0x40049409, source), ("FIGETBSZ", 2, None), ("FIONREAD", 0x541B, None)]:
        log.run(what, lambda: fcntl.ioctl(target, number, argument) if argument is not None
                else struct.unpack("i", fcntl.ioctl(target, number, b"\0\0\0\0")))


@case
def writing(log):
    one, two = os.open("file", os.O_WRONLY | os.O_APPEND), os.open("file", os.O_WRONLY | os.O_APPEND)
    log.run("one", os.write, one, b"one")
    log.run("two", os.write, two, b"two")
    log.run("pwrite appends", os.pwrite, one, b"three", 0)
    log.run("content", lambda: open("file", "rb").read())
    fcntl.fcntl(one, fcntl.F_SETFL, os.O_APPEND | os.O_NONBLOCK)
    log.run("still appends", os.pwrite, one, b"Y", 0)
    log.run("content", lambda: open("file", "rb").read())
    log.run("position", os.lseek, one, 0, os.SEEK_CUR)
    rw = os.open("file", os.O_RDWR)
    for text, flags in [("none", 0), ("hipri", os.RWF_HIPRI), ("dsync", os.RWF_DSYNC), ("sync", os.RWF_SYNC),
                        ("append", getattr(os, "RWF_APPEND", 0x10)), ("unknown", 0x8000)]:
        log.run(f"pwritev2 {text}", os.pwritev, rw, [b"ab", b"cd"], 1, flags)
        log.run(f"preadv2 {text}", os.preadv, rw, [bytearray(3), bytearray(4)], 0, flags)
    log.run("content", lambda: open("file", "rb").read())
    log.run("many vectors", os.writev, rw, [b"x"] * 1024)
    log.run("too many", os.writev, rw, [b"x"] * 1025)
    log.run("fsync", os.fsync, rw)
    log.run("range", lambda: call(libc.sync_file_range, rw, ctypes.c_long(0), ctypes.c_long(10), 7))
    log.run("syncfs", lambda: call(libc.syncfs, rw))
    log.run("advice", os.posix_fadvise, rw, 0, 10, os.POSIX_FADV_DONTNEED)
    log.run("odd advice", os.posix_fadvise, rw, 0, 10, 77)
    log.run("readahead", lambda: call(libc.readahead, rw, ctypes.c_long(0), ctypes.c_size_t(10)))
    page = mmap.mmap(-1, 8192)
    page.write(b"d" * 8192)
    direct = log.open("direct", "big", os.O_RDWR | os.O_DIRECT)
    log.run("direct write", lambda: os.pwritev(direct, [memoryview(page)[:4096]], 4096))
    log.run("direct read", lambda: os.preadv(direct, [memoryview(page)[:4096]], 0))
    log.run("cached read", lambda: os.pread(os.open("big", os.O_RDONLY), 3, 4095))
    log.run("poll", lambda: select.select([rw], [rw], [], 0) == ([rw], [rw], []))
    log.run("dup", lambda: os.lseek(os.dup(rw), 0, os.SEEK_CUR) == os.lseek(rw, 0, os.SEEK_CUR))


@case
def append_taken_off(log):
    fd = os.open("file", os.O_WRONLY | os.O_APPEND)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    log.run("write", os.pwrite, fd, b"X", 0)
    log.run("content", lambda: open("file", "rb").read())


@case
def append_not_for_once(log):
    """pwritev2(2) with RWF_NOAPPEND."""
    fd = os.open("file", os.O_WRONLY | os.O_APPEND)
    log.run("write", os.pwritev, fd, [b"X"], 0, 0x20)
    log.run("content", lambda: open("file", "rb").read())


@case
def append_put_on(log):
    fd = os.open("file", os.O_WRONLY)
    fcntl.fcntl(fd, fcntl.F_SETFL, os.O_APPEND)
    log.run("write", os.pwrite, fd, b"X", 0)
    log.run("content", lambda: open("file", "rb").read())


@case
def direct_taken_off(log):
    fd = os.open("big", os.O_WRONLY | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    log.run("aligned", os.pwritev, fd, [page], 4096)
    fcntl.fcntl(fd, fcntl.F_SETFL, 0)
    log.run("rest", os.pwrite, fd, b"rest", 8192)
    log.run("content", lambda: os.pread(os.open("big", os.O_RDONLY), 5, 8191))


@case
def direct_unaligned(log):
    fd = os.open("big", os.O_RDWR | os.O_DIRECT)
    log.run("write", os.pwrite, fd, b"x", 1)
    log.run("read", lambda: len(os.pread(fd, 5, 3)))


@case
def not_waiting(log):
    fd = os.open("file", os.O_RDWR)
    log.run("read", os.preadv, fd, [bytearray(3)], 0, os.RWF_NOWAIT)


@case
def readiness(log):
    with select.epoll() as epoll:
        log.run("epoll", epoll.register, os.open("file", os.O_RDWR))


@case
def file_flags(log):
    log.run("get", lambda: len(fcntl.ioctl(os.open("file", os.O_RDONLY), 0x80086601, b"\0" * 8)))
    log.run("extents", lambda: len(fcntl.ioctl(os.open("file", os.O_RDONLY), 0xC020660B, b"\0" * 32)))


@case
def limits(log):
    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10000, 10000))
        fd = os.open("big-new", os.O_CREAT | os.O_RDWR, 0o666)
        answers = []
        for function in [lambda: os.pwrite(fd, b"x" * 8000, 0), lambda: os.pwrite(fd, b"x" * 8000, 8000), lambda: os.pwrite(fd, b"x", 10000),
                         lambda: os.ftruncate(fd, 10001), lambda: os.ftruncate(fd, 10000), lambda: fallocate(fd, 0, 0, 20000),
                         lambda: os.truncate("file", 20000), lambda: os.posix_fallocate(fd, 0, 9000),
                         lambda: os.copy_file_range(os.open("big", os.O_RDONLY), fd, 5000, 0, 9000)]:
            try:
                answers.append(str(function()))
            except OSError as error:
                answers.append(name_of(error.errno))
        return answers
    as_user(log, "file size", limited, 0, 0)


@case
def mapping(log):
    fd = os.open("big", os.O_RDWR)
    area = mmap.mmap(fd, 8192)
    area[0:4] = b"MAPP"
    log.run("read sees the store", os.pread, fd, 4, 0)
    os.pwrite(fd, b"WRIT", 4096)
    log.say("mapping sees the write", area[4096:4100])
    other = mmap.mmap(os.open("big", os.O_RDONLY), 8192, prot=mmap.PROT_READ)
    area[100:104] = b"more"
    log.say("another mapping", other[100:104])
    private = mmap.mmap(fd, 8192, flags=mmap.MAP_PRIVATE)
    private[0:4] = b"priv"
    log.run("file", os.pread, fd, 4, 0)
    log.run("flush", area.flush)
    log.run("read only", lambda: mmap.mmap(os.open("big", os.O_RDONLY), 4096))
    log.run("write only", lambda: mmap.mmap(os.open("big", os.O_WRONLY), 4096))
    log.run("private of read only", lambda: mmap.mmap(os.open("big", os.O_RDONLY), 4096, flags=mmap.MAP_PRIVATE)[:4])
    log.run("past the end", lambda: len(mmap.mmap(os.open("file", os.O_RDWR), 8, offset=0)))
    log.run("validated", lambda: mmap.mmap(fd, 4096, flags=3)[:4])
    log.run("synchronous", lambda: mmap.mmap(fd, 4096, flags=3 | 0x80000)[:4])
    log.run("executable", lambda: mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC)[:4])
    os.unlink("big")
    area[0:4] = b"gone"
    log.run("unlinked", os.pread, fd, 4, 0)

    def fault():
        small = os.open("file", os.O_RDWR)
        mapped = mmap.mmap(small, 8)
        os.ftruncate(small, 0)
        mapped[0]
    child = os.fork()
    if child == 0:
        fault()
        os._exit(0)
    log.say("fault", os.waitpid(child, 0)[1])


@case
def before_copy_up(log):
    """Handles and mappings that are older than the first write."""
    old = os.open("big", os.O_RDONLY)
    area = mmap.mmap(old, 8192, prot=mmap.PROT_READ)
    log.say("before", area[0:4])
    number = os.fstat(old).st_ino
    new = os.open("big", os.O_RDWR)
    os.pwrite(new, b"NEW!", 0)
    log.run("handle", os.pread, old, 4, 0)
    log.say("mapping", area[0:4])
    log.say("same inode", number == os.stat("big").st_ino == os.fstat(old).st_ino)
    os.ftruncate(new, 100)
    log.run("size", lambda: os.fstat(old).st_size)
    log.run("end", os.pread, old, 10, 95)
    fcntl.flock(old, fcntl.LOCK_EX)
    log.run("lock", fcntl.flock, os.open("big", os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)
    with open("linked", "rb") as held:
        with open("other", "ab") as file:
            file.write(b"added")
        log.say("other name", held.read())
    here = os.open("dir", os.O_RDONLY)
    write_file("dir/new")
    log.run("directory", lambda: sorted(os.listdir(here)))
    os.rename("dir", "moved")
    log.run("directory", lambda: sorted(os.listdir(here)))
    log.run("created in it", lambda: os.close(os.open("late", os.O_CREAT | os.O_RDWR, dir_fd=here)))
    log.run("moved", lambda: sorted(os.listdir("moved")))


@case
def locks(log):
    def try_lock(kind, *arguments):
        child = os.fork()
        if child == 0:
            try:
                fd = os.open("file", os.O_RDWR)
                if kind == "flock":
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                else:
                    fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, *arguments)
                os._exit(0)
            except OSError as error:
                os._exit(error.errno)
        return name_of(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    fd = os.open("file", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_SH)
    log.say("flock", try_lock("flock"))
    fcntl.flock(fd, fcntl.LOCK_UN)
    log.say("flock", try_lock("flock"))
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 5)
    log.say("overlap", try_lock("lockf", 10, 0))
    log.say("beside", try_lock("lockf", 5, 0))
    os.close(os.open("file", os.O_RDONLY))
    log.say("closed", try_lock("lockf", 10, 0))
    description = struct.pack("hhlllxxxx", fcntl.F_WRLCK, 0, 0, 0, 0)
    log.run("ofd", fcntl.fcntl, fd, 37, description, show=False)
    log.say("ofd", try_lock("lockf", 1, 0))
    log.run("lease", fcntl.fcntl, os.open("big", os.O_RDONLY), fcntl.F_SETLEASE, fcntl.F_RDLCK)
    log.run("write lease", fcntl.fcntl, os.open("linked", os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK)
    log.run("notify", fcntl.fcntl, os.open("dir", os.O_RDONLY), fcntl.F_NOTIFY, fcntl.DN_MODIFY)
    log.run("hint", fcntl.fcntl, fd, 1035, b"\0" * 8)


@case
def watching(log):
    fd = call(libc.inotify_init1, os.O_NONBLOCK)
    for path in [b".", b"file", b"dir", b"linked"]:
        call(libc.inotify_add_watch, fd, path, 0xFFF & ~0x39)  # all but access, open and close without writing
    def events():
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            watch, mask, cookie, length = struct.unpack_from("iIII", data, at)
            found.append(f"{watch}:{mask:x}:{data[at + 16:at + 16 + length].rstrip(bytes(1)).decode()}")
            at += 16 + length
        return found
    for what, function in {
        "write": lambda: os.write(os.open("file", os.O_WRONLY), b"x"), "chmod": lambda: os.chmod("file", 0o600),
        "truncate": lambda: os.truncate("file", 3), "utime": lambda: os.utime("file"), "link": lambda: os.link("file", "file-2"),
        "rename": lambda: os.rename("file", "file-3"), "unlink one": lambda: os.unlink("file-2"), "create": lambda: write_file("dir/n"),
        "remove": lambda: os.unlink("dir/n"), "mkdir": lambda: os.mkdir("dir/m"), "rmdir": lambda: os.rmdir("dir/m"),
        "move dir": lambda: os.rename("dir", "dir-2"), "linked": lambda: os.unlink("other"), "last": lambda: os.unlink("linked"),
        "unlink": lambda: os.unlink("file-3"), "setxattr": lambda: os.setxattr("big", "user.w", b"1"),
    }.items():
        log.run(what, function)
        log.say("events", events())


@case
def kept_by_each_change(log):
    """What a first change of each kind leaves as it was: all that it is not about."""
    def all_of(path):
        meta = os.stat(path)
        ends = []
        with contextlib.closing(os.fdopen(os.open(path, os.O_RDONLY), "rb")) as file:
            at = 0
            while True:
                try:
                    data = os.lseek(file.fileno(), at, os.SEEK_DATA)
                except OSError:
                    break
                at = os.lseek(file.fileno(), data, os.SEEK_HOLE)
                ends += [data, at]
        return {"mode": f"{meta.st_mode:o}", "owner": (meta.st_uid, meta.st_gid), "links": meta.st_nlink, "size": meta.st_size,
                "mtime": meta.st_mtime_ns, "atime": meta.st_atime_ns, "ino": meta.st_ino, "holes": ends,
                "xattrs": [(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path))]}

    changes = {
        "open": lambda path: os.close(os.open(path, os.O_RDWR)),
        "chmod": lambda path: os.chmod(path, 0o4750), "chown": lambda path: os.chown(path, 7, 8),
        "utime": lambda path: os.utime(path, ns=(10**18 + 1, 10**18 + 2)), "setxattr": lambda path: os.setxattr(path, "user.b", b"2"),
        "removexattr": lambda path: os.removexattr(path, "user.a"), "link": lambda path: os.link(path, path + "-2"),
        "rename": lambda path: (os.rename(path, path + "-2"), os.rename(path + "-2", path)),
        "write": lambda path: os.pwrite(os.open(path, os.O_WRONLY), b"x", 5 << 20),
        "append": lambda path: os.write(os.open(path, os.O_WRONLY | os.O_APPEND), b"x"),
        "shorter": lambda path: os.truncate(path, 4 << 20), "empty": lambda path: os.close(os.open(path, os.O_WRONLY | os.O_TRUNC)),
        "unlink other": lambda path: os.unlink(path + "-hard"),
        "acl": lambda path: os.setxattr(path, "system.posix_acl_access", acl((1, 7, -1), (2, 4, 1002), (4, 4, -1), (16, 7, -1), (32, 0, -1))),
    }
    for number, (what, change) in enumerate(changes.items()):
        path = f"kept/{number}"
        before = all_of(path)
        log.run(what, change, path, show=False)
        after = all_of(path)
        for field, old in before.items():
            if field in ("atime", "mtime", "ino"):
                log.say(f"{what} {field} is the same", old == after[field])
            elif old != after[field]:
                log.say(f"{what} {field}", (old, after[field]))
        if what != "unlink other":
            log.say(f"{what} other name", os.path.samefile(path, path + "-hard"))


def populate_kept(at):
    """Files with all that a file can have."""
    capability = struct.pack("<IIIII", 0x02000001, 0x2000, 0, 0, 0)
    os.mkdir(f"{at}/kept")
    for number in range(14):
        path = f"{at}/kept/{number}"
        with open(path, "wb") as file:
            file.write(b"start")
            file.seek(2 << 20)
            file.write(b"middle")
            file.truncate(6 << 20)
        os.chown(path, 1000, 1001)
        os.chmod(path, 0o6751)
        os.link(path, f"{path}-hard")
        os.setxattr(path, "user.a", b"1")
        os.setxattr(path, "trusted.t", b"1")
        os.setxattr(path, "system.posix_acl_access", acl((1, 6, -1), (2, 6, 1001), (4, 4, -1), (16, 6, -1), (32, 0, -1)))
        os.chmod(path, 0o6751)
        os.setxattr(path, "security.capability", capability)
        os.utime(path, ns=(10**18 + 123456789, 10**18 + 987654321))


@case
def cwd_before_copy_up(log):
    """A working directory that is copied up, filled, moved and removed under who is in it."""
    read, write = os.pipe()
    answer, back = os.pipe()
    child = os.fork()
    if child == 0:
        os.chdir("dir/sub")
        os.write(back, b"r")
        for action in [lambda: write_file("mine", b"1"), lambda: sorted(os.listdir("..")), lambda: os.path.basename(os.path.dirname(os.getcwd())),
                       lambda: write_file("../beside", b"2"), lambda: os.rename("mine", "../mine"), lambda: f"{os.stat('.').st_mode:o}",
                       lambda: write_file("late", b"3"), lambda: os.getcwd(), lambda: os.listdir(".")]:
            os.read(read, 1)
            try:
                said = repr(action())
            except OSError as error:
                said = name_of(error.errno)
            os.write(back, said.encode().ljust(200))
        os._exit(0)
    os.read(answer, 1)
    for what, function in {
        "written": lambda: None, "beside": lambda: write_file("dir/new", b"x"), "moved": lambda: os.rename("dir", "moved"),
        "further": lambda: None, "chmod": lambda: os.chmod("moved/sub", 0o700), "seen": lambda: None,
        "removed": lambda: shutil.rmtree("moved"), "gone": lambda: None, "empty": lambda: None,
    }.items():
        log.run(what, function)
        os.write(write, b"n")
        log.say(what, os.read(answer, 200).decode().strip())
    os.waitpid(child, 0)


@case
def watches_before_copy_up(log):
    """inotify watches that are older than the first change, by way of another name too."""
    fd = call(libc.inotify_init1, os.O_NONBLOCK)
    for path in [b"linked", b"dir", b"dir/inside", b"big"]:
        call(libc.inotify_add_watch, fd, path, 0x2 | 0x4 | 0x8 | 0x400 | 0xC00 | 0x1C0)

    def events():
        try:
            data = os.read(fd, 65536)
        except BlockingIOError:
            return []
        found, at = [], 0
        while at < len(data):
            watch, mask, _, length = struct.unpack_from("iIII", data, at)
            found.append(f"{watch}:{mask:x}:{data[at + 16:at + 16 + length].rstrip(bytes(1)).decode()}")
            at += 16 + length
        return found
    held = os.open("big", os.O_RDWR)
    for what, function in {
        "other name": lambda: write_file("other", b"longer than before"), "below": lambda: write_file("dir/inside", b"y"),
        "handle": lambda: os.pwrite(held, b"z", 0), "again": lambda: os.pwrite(held, b"z", 1), "truncate": lambda: os.ftruncate(held, 10),
        "chmod": lambda: os.chmod("dir/inside", 0o600), "rename": lambda: os.rename("dir/inside", "dir/out"),
        "after the rename": lambda: write_file("dir/out", b"z"), "directory": lambda: os.rename("dir", "dir-2"),
        "in it": lambda: write_file("dir-2/later", b""), "remove": lambda: os.unlink("dir-2/out"),
    }.items():
        log.run(what, function)
        log.say("events", events())


@case
def mappings_before_copy_up(log):
    """Shared mappings of who only reads, which are older than the first write, in other processes too."""
    area = mmap.mmap(os.open("big", os.O_RDONLY), 1 << 20, prot=mmap.PROT_READ)
    log.say("before", (area[0], area[70000]))
    ready, go = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        theirs = mmap.mmap(os.open("big", os.O_RDONLY), 1 << 20, prot=mmap.PROT_READ)
        before = theirs[70000:70004]
        os.write(ready[1], b"r")
        os.read(go[0], 1)
        os._exit(0 if theirs[70000:70004] == b"STOR" and before != b"STOR" and theirs[0:4] == b"WRIT" else 1)
    os.read(ready[0], 1)
    writer = os.open("big", os.O_RDWR)
    os.pwrite(writer, b"WRIT", 0)
    store = mmap.mmap(writer, 1 << 20)
    store[70000:70004] = b"STOR"
    log.say("ours", (area[0:4], area[70000:70004]))
    os.write(go[1], b"g")
    log.say("theirs", os.waitpid(child, 0)[1])
    log.run("new open", lambda: os.pread(os.open("big", os.O_RDONLY), 4, 70000))
    store.flush()
    os.ftruncate(writer, 4096)
    log.run("truncated", lambda: len(open("big", "rb").read()))
    os.ftruncate(writer, 1 << 20)
    log.say("zeroes", (area[70000:70004], store[70000:70004]))


@case
def appenders(log):
    """Processes that append at once: each line is there, whole and once."""
    for name in ["file", "fresh"]:
        children = []
        for writer in range(6):
            child = os.fork()
            if child == 0:
                fd = os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                for line in range(200):
                    os.write(fd, f"{writer} {line} {'x' * (line % 50)}\n".encode())
                os._exit(0)
            children.append(child)
        log.say("ended", [os.waitpid(child, 0)[1] for child in children])
        with open(name) as file:
            lines = [line for line in file.read().splitlines() if line != "content"]
        wanted = [f"{writer} {line} {'x' * (line % 50)}" for writer in range(6) for line in range(200)]
        log.say(f"{name} all", sorted(lines) == sorted(wanted))
        log.say("in order", all([int(line.split()[1]) for line in lines if line.startswith(f"{writer} ")] == list(range(200))
                                for writer in range(6)))


@case
def waiting_for_locks(log):
    """Locks that are waited for, and what ends the wait."""
    def holder(path, take, hold):
        ready = os.pipe()
        child = os.fork()
        if child == 0:
            fd = os.open(path, os.O_RDWR)
            take(fd)
            os.write(ready[1], b"r")
            hold(fd)
            os._exit(0)
        os.read(ready[0], 1)
        return child
    for kind, take in [("flock", lambda fd: fcntl.flock(fd, fcntl.LOCK_EX)), ("fcntl", lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX, 5, 5)),
                       ("ofd", lambda fd: fcntl.fcntl(fd, 38, struct.pack("hhqqi4x", fcntl.F_WRLCK, 0, 5, 5, 0)))]:
        child = holder("file", take, lambda fd: signal.pause())
        started = os.fork()
        if started == 0:
            take(os.open("file", os.O_RDWR))
            os._exit(0)
        wait_for_a_waiter("file")
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        log.say(f"{kind} after the death of who had it", os.waitpid(started, 0)[1])
        child = holder("file", take, lambda fd: signal.pause())
        signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(TimeoutError(errno.ETIMEDOUT, "alarm")))
        signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
        log.run(f"{kind} interrupted", lambda: take(os.open("file", os.O_RDWR)))
        signal.setitimer(signal.ITIMER_REAL, 0)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # Two that wait for each other.
    one = os.open("big", os.O_RDWR)
    fcntl.lockf(one, fcntl.LOCK_EX, 1, 0)

    def crosswise(fd):
        fcntl.lockf(fd, fcntl.LOCK_EX, 1, 0)
    child = holder("big", lambda fd: fcntl.lockf(fd, fcntl.LOCK_EX, 1, 1), crosswise)
    wait_for_a_waiter("big")
    log.run("deadlock", fcntl.lockf, one, fcntl.LOCK_EX, 1, 1)
    os.close(one)
    log.say("the other", os.waitpid(child, 0)[1])


def wait_for_a_waiter(path):
    """Until somebody waits for a lock of this file; proc_locks(5) has an arrow there."""
    number = os.stat(path).st_ino
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with open("/proc/locks") as file:
            if any("->" in line and f":{number} " in line for line in file):
                return
    raise TimeoutError("nobody waits")


@case
def special_files(log):
    """Sockets, FIFOs and devices connect those that are in one view."""
    os.symlink(".", "here")
    with socket.socket(socket.AF_UNIX) as client:
        log.run("old socket", client.connect, "socket")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("listening")
        server.listen()
        log.run("bind", brief, "listening")
        child = os.fork()
        if child == 0:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect("here/listening")
                client.sendall(b"hello")
                client.recv(10)
            os._exit(0)
        peer, _ = server.accept()
        log.run("received", peer.recv, 10)
        peer.sendall(b"bye")
        log.say("client", os.waitpid(child, 0)[1])
        os.chmod("listening", 0o600)
        os.rename("listening", "renamed")
        with socket.socket(socket.AF_UNIX) as client:
            log.run("renamed", client.connect, "renamed")
        os.link("renamed", "linked-socket")
        with socket.socket(socket.AF_UNIX) as client:
            log.run("linked", client.connect, "linked-socket")
        with socket.socket(socket.AF_UNIX) as second:
            log.run("taken", second.bind, "renamed")
        as_user(log, "user", lambda: socket.socket(socket.AF_UNIX).connect("renamed"))
    with socket.socket(socket.AF_UNIX) as client:
        log.run("closed", client.connect, "renamed")
    log.run("open", os.open, "renamed", os.O_RDWR)
    os.chmod("fifo", 0o600)  # copies it up, where it lies below
    child = os.fork()
    if child == 0:
        fd = os.open("fifo", os.O_WRONLY)
        os.rename("fifo", "fifo-2")
        os.write(fd, b"x" * 100)
        os._exit(0)
    fd = os.open("fifo", os.O_RDONLY)
    log.run("fifo", lambda: len(os.read(fd, 1000)))
    log.run("fifo end", os.read, fd, 10)
    os.waitpid(child, 0)
    os.close(fd)
    log.run("no reader", os.open, "fifo-2", os.O_WRONLY | os.O_NONBLOCK)
    os.chown("null", 1, 1)
    null = os.open("null", os.O_RDWR)
    log.run("null", lambda: (os.write(null, b"x" * 10), os.read(null, 10)))
    os.mknod("zero", stat.S_IFCHR | 0o600, os.makedev(1, 5))
    log.run("zero", lambda: os.read(os.open("zero", os.O_RDONLY), 4))
    log.run("mapped", lambda: mmap.mmap(os.open("zero", os.O_RDWR), 4096, flags=mmap.MAP_PRIVATE)[:2])
    os.mknod("full", stat.S_IFCHR | 0o600, os.makedev(1, 7))
    log.run("full", lambda: os.write(os.open("full", os.O_WRONLY), b"x"))
    log.run("no such device", lambda: (os.mknod("none", stat.S_IFCHR | 0o600, os.makedev(4000, 1)), os.open("none", os.O_RDONLY)))
    log.run("sizes", lambda: [os.lstat(path).st_size for path in ["fifo-2", "null", "renamed", "zero"]])


@case
def handles_of_files(log):
    """name_to_handle_at(2) and open_by_handle_at(2)."""
    for path in ["file", "dir", "."]:
        handle = ctypes.create_string_buffer(struct.pack("Ii", 120, 0) + bytes(120))
        mount = ctypes.c_int()
        log.run(f"name {path}", lambda: call(libc.name_to_handle_at, AT_FDCWD, path.encode(), handle, ctypes.byref(mount), 0))
        directory = os.open(".", os.O_RDONLY)
        fd = log.run("open", lambda: call(libc.open_by_handle_at, directory, handle, os.O_RDONLY), show=False)
        log.run("same", lambda: os.fstat(fd).st_ino == os.stat(path).st_ino)


@case
def programs(log):
    shutil.copy("/bin/true", "program")
    os.chmod("program", 0o755)
    def run(path):
        child = os.fork()
        if child == 0:
            try:
                os.execv(path, [path])
            except OSError as error:
                os._exit(error.errno)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    log.run("run", run, "./program")
    writer = os.open("program", os.O_WRONLY)
    log.run("open for writing", run, "./program")
    os.close(writer)
    log.run("closed", run, "./program")
    write_file("script", b"#!/bin/sh\nexit 7\n")
    os.chmod("script", 0o755)
    log.run("script", run, "./script")
    log.run("not executable", run, "./file")
    log.run("directory", run, "./dir")
    os.chmod("program", 0o111)
    as_user(log, "unreadable", lambda: run("./program"))


def populate_case(name, at):
    populate(at)
    if name == "kept_by_each_change":
        populate_kept(at)


def run_case(name, directory):
    """One case, in a process and a directory of its own."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        os.umask(0o022)
        os.chdir(directory)
        log = Log()
        try:
            CASES[name](log)
        except BaseException as error:  # what the case itself could not do is a difference as well
            line = error.__traceback__
            while line.tb_next:
                line = line.tb_next
            log.say("broken off", f"{type(error).__name__} {error} (line {line.tb_lineno})")
        with os.fdopen(write, "w") as answers:
            json.dump(log.steps, answers)
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as answers:
        text = answers.read()
    os.waitpid(child, 0)
    return text or '["died"]'


def main():
    command, directory, wanted = sys.argv[1], sys.argv[2], sys.argv[3:] or list(CASES)
    os.umask(0)
    if command == "populate":
        for name in CASES:
            populate_case(name, f"{directory}/lower/{name}")
        return
    os.umask(0o022)
    for name in wanted:
        populate_case(name, f"{directory}/new/{name}")
        for kind in ["new", "lower"]:
            print(f"{kind}/{name}\t{run_case(name, f'{directory}/{kind}/{name}')}", flush=True)


if __name__ == "__main__":
    main()
