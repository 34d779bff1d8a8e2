"""Fills the disk of the state directory from a view, and tries everything on it. For disks.rs.

    full.py base          makes, in the working directory, what is to be the base
    full.py try ERRNO     in a view: what finds no room fails so, and nothing is half there; with room it is done

Ends with 0 and prints how many of the tries found no room.
"""

import ctypes
import errno
import os
import stat
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
BIG = 1 << 20  # bytes


def base():
    with open("big", "wb") as file:
        for number in range(BIG // 64):
            file.write(b"%63d\n" % number)
    for number in range(len(TRIES)):
        os.makedirs(f"dir{number}/empty")
        for name in ["file", "other"]:
            with open(f"dir{number}/{name}", "wb") as file:
                file.write(b"small\n" * 500)


def tree(only=None):
    """What there is, but for what fills the disk; of the directories one only."""
    found = {}
    for directory, directories, files in os.walk("."):
        if directory == "." and only:
            directories[:] = [name for name in directories if name.startswith(only)]
        for name in directories + [name for name in files if not name.startswith("fill")]:
            path = os.path.join(directory, name)
            is_ = os.lstat(path)
            facts = (oct(is_.st_mode), is_.st_uid, is_.st_nlink if not stat.S_ISDIR(is_.st_mode) else 0, is_.st_ino)
            content = None
            if stat.S_ISREG(is_.st_mode):
                with open(path, "rb") as file:
                    content = hash(file.read()), is_.st_size, is_.st_mtime_ns, tuple(os.listxattr(path))
            found[path] = facts, content
    return found


def write_some(path, flags, data):
    """As much as there is room for: what write(2) says it took is there, and no more."""
    fd = os.open(path, flags | os.O_RDWR, 0o644)
    try:
        before, done = os.fstat(fd).st_size, 0
        while done < len(data):
            try:
                done += os.write(fd, data[done:])
            except OSError:
                start = before if flags & os.O_APPEND else 0
                assert os.fstat(fd).st_size == max(before, start + done), (os.fstat(fd).st_size, before, done)
                assert os.pread(fd, done, start) == data[:done], "what was written"
                os.ftruncate(fd, before)
                raise
    finally:
        os.close(fd)


# Each with the directory that it has for itself.
TRIES = {
    "copy-up": lambda at: os.close(os.open("big", os.O_RDWR)),
    "copy-up to link": lambda at: os.link("big", f"{at}/big"),
    "copy-up to append": lambda at: write_some("big", os.O_APPEND, b"x" * 100),
    "copy-up to truncate": lambda at: os.truncate("big", BIG - 1),
    "append": lambda at: write_some(f"{at}/file", os.O_APPEND, b"y" * 700_000),
    "create": lambda at: write_some(f"{at}/new", os.O_CREAT, b"z" * 700_000),
    "rewrite": lambda at: write_some(f"{at}/file", 0, b"q" * 700_000),
    "allocate": lambda at: allocate(f"{at}/file", 4 << 20),
    "mkdir": lambda at: os.mkdir(f"{at}/d"),
    "symlink": lambda at: os.symlink("x" * 3000, f"{at}/s"),
    "mkfifo": lambda at: os.mkfifo(f"{at}/p"),
    "hard link": lambda at: os.link(f"{at}/file", f"{at}/l"),
    "chmod": lambda at: os.chmod(f"{at}/file", 0o4711),
    "chown": lambda at: os.chown(f"{at}/file", 5, 5),
    "utime": lambda at: os.utime(f"{at}/file", (1, 2)),
    "attribute": lambda at: os.setxattr(f"{at}/file", "user.large", b"v" * 3000),
    "attribute of a directory": lambda at: os.setxattr(at, "user.large", b"v" * 3000),
    "rename": lambda at: os.rename(f"{at}/file", f"{at}/renamed"),
    "rename over": lambda at: os.rename(f"{at}/file", f"{at}/other"),
    "rename a directory": lambda at: os.rename(at, at + "-renamed"),
    "exchange": lambda at: exchange(f"{at}/file", f"{at}/empty"),
    "unlink": lambda at: os.unlink(f"{at}/file"),
    "rmdir": lambda at: os.rmdir(f"{at}/empty"),
    "copy a range": lambda at: copy("big", f"{at}/copy"),
}


def allocate(path, size):
    fd = os.open(path, os.O_RDWR)
    before = os.fstat(fd).st_size
    try:
        os.posix_fallocate(fd, 0, size)
        os.ftruncate(fd, before)
    finally:
        os.close(fd)


def exchange(one, other):
    if LIBC.renameat2(-100, one.encode(), -100, other.encode(), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


def copy(one, other):
    source, target = os.open(one, os.O_RDONLY), os.open(other, os.O_CREAT | os.O_EXCL | os.O_RDWR)
    try:
        while os.copy_file_range(source, target, BIG):
            pass
    except OSError:
        os.unlink(other)
        raise
    finally:
        os.close(source), os.close(target)


def fill():
    """To the last byte and the last inode, or some thousand of them."""
    codes = set()
    for name, size in [("fill", 1 << 20), ("fill-page", 4096), ("fill-byte", 1)]:
        try:
            with open(name, "ab", buffering=0) as file:
                while True:
                    file.write(bytes(size))
        except OSError as error:
            codes.add(error.errno)
    try:
        for number in range(5000):
            os.close(os.open(f"fill{number}", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        codes.add(error.errno)
    return codes


def make_room():
    for name in os.listdir("."):
        if name.startswith("fill"):
            os.unlink(name)


def tries(code):
    no_room, had_room = [], []
    # Full before anything else is there, so that all of it needs room.
    os.close(os.open("fill", os.O_CREAT | os.O_WRONLY))
    codes = fill()
    assert codes == {code}, [errno.errorcode[one] for one in codes]
    for number, (what, attempt) in enumerate(TRIES.items()):
        before = tree(f"dir{number}")
        try:
            attempt(f"dir{number}")
        except OSError as error:
            assert error.errno == code, f"{what}: {error}"
            after = tree(f"dir{number}")
            # That `new` could be made and not written is as anywhere.
            if what == "create" and f"./dir{number}/new" in after:
                os.unlink(f"dir{number}/new")
                after.pop(f"./dir{number}/new")
            left = before.keys() | after.keys()
            # What failed in the middle was taken back by who tried it, which changes times.
            left = {path for path in left if not same_but_for_times(before.get(path), after.get(path))}
            assert not left, f"{what}: {[(path, before.get(path), after.get(path)) for path in left]}"
            no_room.append(what)
        else:
            had_room.append(what)
    make_room()
    for number, (what, attempt) in enumerate(TRIES.items()):
        if what in no_room:
            try:
                attempt(f"dir{number}")
            except OSError as error:
                raise AssertionError(f"{what}, with room: {error}") from error
    print("no room for", len(no_room), "of", len(TRIES), *no_room, sep=", ")


def same_but_for_times(one, other):
    if not one or not other or not one[1] or not other[1]:
        return one == other
    return one[0] == other[0] and one[1][:2] == other[1][:2]


if sys.argv[1] == "base":
    base()
else:
    tries(int(sys.argv[2]))
