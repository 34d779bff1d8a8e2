"""Changes files of the layers below a view, in every way there is. For beneath.rs.

    beneath.py base     makes, in the working directory, what is to be the base
    beneath.py layer    makes on top of it, in a view, what is to be a sealed layer
    beneath.py change   changes what these made, in a view; ends with 0 if every change is seen there

Each way to change a file has a directory of its own, named after it.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import subprocess
import sys

LIBC = ctypes.CDLL(None, use_errno=True)
SIZE = 20_000
LARGE = 150_000  # bytes: a copy-up of so much does not hold other requests up
WAYS = {}
# One of the base, one of a sealed layer, one of the base that a sealed layer has a copy of the attributes of, and two
# files that have a second name.
FILES = ["base", "sealed", "metadata", "linked", "sealed-linked"]


def way(function):
    WAYS[function.__name__] = function
    return function


def size(name):
    return LARGE if name in ("base", "linked") else SIZE


def content(name):
    return (name.encode() + b" content\n") * (size(name) // (len(name) + 9))


def make(name):
    with open(name, "wb") as file:
        file.write(content(os.path.basename(name)))
    os.chmod(name, 0o750)
    os.chown(name, 1000, 1001)
    os.setxattr(name, "user.kept", name.encode())
    os.utime(name, ns=(10**18 + 1, 10**18 + 2))


def base():
    for directory in WAYS:
        os.makedirs(f"{directory}/dir/deep")
        for name in ["base", "metadata", "linked", "dir/base", "dir/deep/base"]:
            make(f"{directory}/{name}")
        os.link(f"{directory}/linked", f"{directory}/dir/linked-too")
        os.symlink("base", f"{directory}/symlink")
        os.mkfifo(f"{directory}/fifo")
        os.utime(f"{directory}/dir", ns=(10**18, 10**18))


def layer():
    for directory in WAYS:
        os.chmod(f"{directory}/metadata", 0o700)
        for name in ["sealed", "sealed-linked", "dir/sealed"]:
            make(f"{directory}/{name}")
        os.link(f"{directory}/sealed-linked", f"{directory}/dir/sealed-linked-too")
        os.mkdir(f"{directory}/sealed-dir")
        os.utime(f"{directory}/sealed-dir", ns=(10**18, 10**18))


def change():
    root = os.getcwd()
    for name, function in WAYS.items():
        os.chdir(f"{root}/{name}")
        for file in FILES:
            try:
                function(file)
            except BaseException as error:
                raise SystemExit(f"{name} of {file}: {type(error).__name__} {error}") from error
    print("changed", len(WAYS))


# --- The ways ----------------------------------------------------------------------------------------------------------

@way
def read_only(name):
    """Read in every way, with all that an open file lets one do to it."""
    fd = os.open(name, os.O_RDONLY)
    assert os.read(fd, 4) == content(name)[:4]
    area = mmap.mmap(fd, 4096, prot=mmap.PROT_READ)
    assert area[:4] == content(name)[:4]
    fcntl.flock(fd, fcntl.LOCK_EX)
    os.fsync(fd)
    os.stat(name), os.getxattr(name, "user.kept"), os.listdir("dir"), os.readlink("symlink")
    refused(errno.EBADF, lambda: os.write(fd, b"x"))
    refused(errno.EINVAL, lambda: os.ftruncate(fd, 1))
    # A mapping that is for reading cannot be made one for writing (mprotect(2)).
    address = LIBC.mmap
    address.restype = ctypes.c_void_p
    address.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
    mapped = address(None, 4096, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    assert LIBC.mprotect(ctypes.c_void_p(mapped), 4096, mmap.PROT_READ | mmap.PROT_WRITE) == -1
    assert ctypes.get_errno() == errno.EACCES
    os.close(fd)


@way
def second_open(name):
    """fuse-overlayfs 2.0.0: the second open, for writing, wrote to what the first had open."""
    reader = os.open(name, os.O_RDONLY)
    area = mmap.mmap(reader, 4096, prot=mmap.PROT_READ)
    assert os.pread(reader, 3, 0) == area[:3] == content(name)[:3]
    for number in range(3):
        writer = os.open(name, os.O_RDWR)
        os.pwrite(writer, b"NEW%d" % number, 0)
        assert os.pread(reader, 4, 0) == area[:4] == b"NEW%d" % number
        os.close(writer)
    os.close(reader)


@way
def opened_again(name):
    """By way of /proc, from a handle that can only read."""
    reader = os.open(name, os.O_RDONLY)
    path = os.open(name, os.O_PATH)
    for fd in [reader, path]:
        writer = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY)
        os.pwrite(writer, b"again", 0)
        os.close(writer)
    assert os.pread(reader, 5, 0) == b"again"


@way
def write(name):
    with open(name, "r+b") as file:
        file.write(b"written")
        file.seek(size(name) - 5)
        file.write(b"more than there was")
    check(name, b"written")


@way
def append(name):
    fd = os.open(name, os.O_WRONLY | os.O_APPEND)
    os.write(fd, b"appended")
    assert open(name, "rb").read().endswith(b"appended")


@way
def write_vectors(name):
    fd = os.open(name, os.O_RDWR | os.O_DSYNC)
    os.pwritev(fd, [b"a", b"bc"], 0)
    check(name, b"abc")


@way
def write_direct(name):
    fd = os.open(name, os.O_RDWR | os.O_DIRECT)
    page = mmap.mmap(-1, 4096)
    page[:6] = b"direct"
    os.writev(fd, [page])
    check(name, b"direct")


@way
def map_shared(name):
    fd = os.open(name, os.O_RDWR)
    area = mmap.mmap(fd, 8192)
    os.close(fd)
    area[:6] = b"mapped"
    check(name, b"mapped")
    area.flush()
    area[:6] = b"MAPPED"
    area.close()
    check(name, b"MAPPED")


@way
def map_private(name):
    fd = os.open(name, os.O_RDONLY)
    area = mmap.mmap(fd, 4096, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    area[:3] = b"own"
    check(name, content(name)[:3])


@way
def truncate(name):
    os.truncate(name, 7)
    fd = os.open(name, os.O_RDWR)
    os.ftruncate(fd, 1 << 20)
    os.ftruncate(fd, 5)
    assert open(name, "rb").read() == content(name)[:5]


@way
def empty(name):
    """O_TRUNC, with and without a right to write."""
    os.close(os.open(name, os.O_RDONLY | os.O_TRUNC))
    assert os.stat(name).st_size == 0
    with open(name, "wb") as file:
        file.write(b"fresh")
    check(name, b"fresh")


@way
def rename(name):
    os.rename(name, "dir/moved")
    os.rename("dir/moved", name + "-moved")
    with open(name + "-moved", "r+b") as file:
        file.write(b"moved")
    make(name)
    os.rename(name + "-moved", name)
    check(name, b"moved")


@way
def exchange(name):
    renameat2(name, "dir/base", 2)
    with open("dir/base", "r+b") as file:
        file.write(b"exchanged")
    renameat2(name, "dir/base", 2)
    check(name, b"exchanged")
    renameat2(name, name + "-whiteout", 4)
    os.unlink(name)


@way
def unlink(name):
    fd = os.open(name, os.O_RDWR)
    os.unlink(name)
    os.pwrite(fd, b"gone", 0)
    os.fchmod(fd, 0o600)
    os.fchown(fd, 5, 6)
    os.utime(fd, (1, 2))
    os.setxattr(fd, "user.gone", b"")
    assert not os.path.exists(name)
    make(name)


@way
def hard_link(name):
    os.link(name, "further")
    with open("further", "r+b") as file:
        file.write(b"linked")
    check(name, b"linked")
    os.unlink(name)
    check("further", b"linked")
    fd = os.open("further", os.O_PATH)
    if LIBC.linkat(-100, f"/proc/self/fd/{fd}".encode(), -100, name.encode(), 0x400):  # AT_SYMLINK_FOLLOW
        raise OSError(ctypes.get_errno(), "linkat")
    os.unlink("further")


@way
def attributes(name):
    os.chmod(name, 0o4755)
    os.chown(name, 7, 8)
    os.utime(name, (1, 2))
    os.setxattr(name, "user.kept", b"other")
    os.setxattr(name, "user.new", b"new")
    os.setxattr(name, "trusted.overlay.opaque", b"y")
    os.removexattr(name, "user.kept")
    os.setxattr(name, "system.posix_acl_access", acl(1234))
    found = os.stat(name)
    assert (found.st_uid, found.st_gid, found.st_mtime) == (7, 8, 2), found
    check(name, content(name)[:9])


@way
def attributes_by_handle(name):
    """None of these needs a handle that can write."""
    fd = os.open(name, os.O_RDONLY)
    os.fchmod(fd, 0o2711)
    os.fchown(fd, 9, 10)
    os.utime(fd, (3, 4))
    os.setxattr(fd, "user.kept", b"other")
    os.removexattr(fd, "user.kept")
    found = os.stat(name)
    assert (found.st_uid, found.st_gid, found.st_mtime) == (9, 10, 4), found
    check(name, content(name)[:9])
    os.close(fd)


@way
def copy_range(name):
    """Into it and out of it, also from one file of a layer to another."""
    source = os.open("dir/base", os.O_RDONLY)
    target = os.open(name, os.O_RDWR)
    assert os.copy_file_range(source, target, 4096, 0, 0) == 4096
    assert os.sendfile(target, source, 0, 8) == 8
    check(name, content("base")[:8])
    other = os.open("copy-of-" + name, os.O_RDWR | os.O_CREAT)
    os.copy_file_range(target, other, 4096, 0, 0)
    try:
        fcntl.ioctl(target, 0x40049409, source)  # FICLONE
    except OSError as error:
        assert error.errno == errno.EOPNOTSUPP, error


@way
def fallocate(name):
    fd = os.open(name, os.O_RDWR)
    os.posix_fallocate(fd, 0, size(name) + 5000)
    for mode in [0x3, 0x10, 0x11]:  # punch, zero, zero and keep the size
        assert LIBC.fallocate(fd, mode, ctypes.c_long(0), ctypes.c_long(4096)) == 0, ctypes.get_errno()
    check(name, bytes(100))


@way
def file_flags(name):
    """chattr(1): what is passed on would change the file below."""
    fd = os.open(name, os.O_RDONLY)
    for request in [0x40086602, 0x401C5820]:  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR
        try:
            fcntl.ioctl(fd, request, bytes([0x10] + [0] * 27))
        except OSError as error:
            assert error.errno in (errno.EOPNOTSUPP, errno.ENOTTY), error
        else:
            raise AssertionError("taken")


@way
def execute(name):
    """A program of each layer, while it runs and after it."""
    with open("/bin/cat", "rb") as program, open(name, "wb") as file:
        file.write(program.read())
    os.chmod(name, 0o755)
    child = subprocess.Popen([f"./{name}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdin.write(b"x")
    child.stdin.flush()
    assert child.stdout.read(1) == b"x"
    refused(errno.ETXTBSY, lambda: os.open(name, os.O_WRONLY))
    os.chmod(name, 0o700)
    child.communicate()
    assert child.returncode == 0
    with open(name, "r+b") as file:
        file.write(b"#!/bin/true")


@way
def directories(name):
    """Renamed, removed, made again, and changed themselves."""
    if name != "base":
        return
    os.chmod("dir", 0o700)
    os.setxattr("dir", "user.new", b"new")
    os.rename("dir", "moved")
    with open("moved/deep/base", "r+b") as file:
        file.write(b"deep")
    os.unlink("moved/sealed")
    os.mkdir("dir")
    make("dir/base")
    os.rename("sealed-dir", "dir/sealed-dir")
    subprocess.run(["rm", "-r", "moved"], check=True)
    os.unlink("symlink")
    os.chmod("fifo", 0o600)
    os.rename("fifo", "dir/fifo")


# --- Helpers -----------------------------------------------------------------------------------------------------------

def check(name, wanted):
    with open(name, "rb") as file:
        found = file.read(len(wanted))
    assert found == wanted, (found, wanted)


def refused(code, call):
    try:
        call()
    except OSError as error:
        assert error.errno == code, error
    else:
        raise AssertionError(f"no {errno.errorcode[code]}")


def renameat2(old, new, how):
    if LIBC.renameat2(-100, old.encode(), -100, new.encode(), how):
        raise OSError(ctypes.get_errno(), "renameat2")


def acl(user):
    """acl(5): the user may read, as system.posix_acl_access has it."""
    import struct
    entries = [(1, 7, -1), (2, 4, user), (4, 5, -1), (16, 5, -1), (32, 5, -1)]
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHi", *entry) for entry in entries)


{"base": base, "layer": layer, "change": change}[sys.argv[1]]()
