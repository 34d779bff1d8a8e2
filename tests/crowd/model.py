"""A directory tree in memory, and the same operations on it and on a real one."""

import errno
import mmap
import os
import pickle
import stat

PAGE = 4096
LARGEST = 300_000  # bytes; more than what is copied up without giving way
TREES = 60  # entries, about


class File:
    def __init__(self, data=b"", mode=0o644):
        self.data, self.mode, self.names, self.attributes = bytearray(data), mode, 1, {}


class Model:
    """`tree` has for each path a File (the same for all of its names), a str (a symbolic link), or None (a directory)."""

    def __init__(self):
        self.place, self.tree, self.serial, self.open = None, {}, 0, []

    # --- Kept from round to round ---------------------------------------------------------------------------------------

    def save(self, path):
        temporary = f"{path}.new"
        with open(temporary, "wb") as file:
            pickle.dump((self.tree, self.serial), file)
        os.rename(temporary, path)

    @staticmethod
    def load(path):
        model = Model()
        with open(path, "rb") as file:
            model.tree, model.serial = pickle.load(file)
        return model

    @staticmethod
    def populate(place, chance):
        model = Model()
        model.place = place
        os.mkdir(place)
        model.write_whole("serial", b"0")
        for _ in range(TREES * 2):
            model.operate(chance)
        model.close()
        model.check()
        return model

    # --- What it is -----------------------------------------------------------------------------------------------------

    def check(self):
        """All of the real tree is as the model has it."""
        found = {}
        for directory, directories, files in os.walk(self.place):
            for name in directories + files:
                path = os.path.join(directory, name)
                found[os.path.relpath(path, self.place)] = os.lstat(path)
        missing, extra = self.tree.keys() - found.keys(), found.keys() - self.tree.keys()
        assert not missing and not extra, f"missing {sorted(missing)}, not expected {sorted(extra)}"
        inodes = {}
        for path, entry in self.tree.items():
            self.check_one(path, entry, found[path])
            if isinstance(entry, File):
                assert inodes.setdefault(found[path].st_ino, entry) is entry, f"{path} is another file's name too"

    def check_one(self, path, entry, is_):
        real = self.real(path)
        if entry is None:
            assert stat.S_ISDIR(is_.st_mode), f"{path} is no directory"
        elif isinstance(entry, str):
            assert stat.S_ISLNK(is_.st_mode) and os.readlink(real) == entry, f"{path} is no link to {entry}"
        else:
            facts = (stat.S_IMODE(is_.st_mode), is_.st_nlink, is_.st_size)
            wanted = (entry.mode, entry.names, len(entry.data))
            assert stat.S_ISREG(is_.st_mode) and facts == wanted, f"{path} is {facts}, not {wanted}"
            with open(real, "rb") as file:
                data = file.read()
            assert data == entry.data, f"{path} differs at byte {first_difference(data, entry.data)} of {len(data)}"
            attributes = {name: os.getxattr(real, name) for name in os.listxattr(real) if name.startswith("user.")}
            assert attributes == entry.attributes, f"{path} has {attributes}, not {entry.attributes}"

    # --- Operations -----------------------------------------------------------------------------------------------------

    def operate(self, chance):
        """Any of them. What fails has to fail in the same way here and there."""
        name = chance.choices(list(OPERATIONS), list(OPERATIONS.values()))[0]
        try:
            getattr(self, name)(chance)
        except OSError as error:
            raise AssertionError(f"{name}: {error}") from error

    def real(self, path):
        return os.path.join(self.place, path)

    def pick(self, chance, kind):
        """The path of something of that kind, or None."""
        paths = [path for path, entry in self.tree.items() if isinstance(entry, kind) and path != "serial"]
        return chance.choice(paths) if paths else None

    def directory(self, chance):
        return chance.choice(["", *(path for path, entry in self.tree.items() if entry is None)])

    def free_name(self, chance):
        """One that is not there now, but may have been."""
        directory = self.directory(chance)
        for _ in range(9):
            path = os.path.join(directory, f"n{chance.randrange(TREES)}")
            if path not in self.tree and path.count("/") < 6:
                return path
        self.serial += 1
        return f"new{self.serial}"

    def below(self, path):
        return [other for other in self.tree if other.startswith(path + "/")]

    def data(self, chance):
        size = chance.choice([chance.randrange(1, 200), chance.randrange(1, 20_000), chance.randrange(1, LARGEST)])
        return chance.randbytes(1 + size % 97) * (size // (1 + size % 97)) or b"x"

    def write_whole(self, path, data):
        with open(self.real(path), "wb") as file:
            file.write(data)
        if path in self.tree:
            self.tree[path].data[:] = data
        else:
            self.tree[path] = File(data)
            os.chmod(self.real(path), 0o644)

    def drop(self, path):
        entry = self.tree.pop(path)
        if isinstance(entry, File):
            entry.names -= 1

    def create(self, chance):
        if len(self.tree) < TREES * 2:
            self.write_whole(self.free_name(chance), self.data(chance))

    def rewrite(self, chance):
        if path := self.pick(chance, File):
            self.write_whole(path, self.data(chance))

    def write(self, chance):
        if path := self.pick(chance, File):
            entry, data = self.tree[path], self.data(chance)
            at = chance.randrange(len(entry.data) + 1)
            fd = os.open(self.real(path), os.O_RDWR)
            assert os.pwrite(fd, data, at) == len(data)
            entry.data[at:at + len(data)] = data
            assert os.pread(fd, len(data) + 1, at) == entry.data[at:at + len(data) + 1], f"{path} just written"
            if chance.random() < 0.1:
                os.fsync(fd)
            os.close(fd)

    def append(self, chance):
        if path := self.pick(chance, File):
            entry, data = self.tree[path], self.data(chance)
            if len(entry.data) < LARGEST * 2:
                with open(self.real(path), "ab") as file:
                    file.write(data)
                entry.data += data

    def map(self, chance):
        path = self.pick(chance, File)
        if path and len(self.tree[path].data) > PAGE:
            entry = self.tree[path]
            at, data = chance.randrange(len(entry.data) - 50), chance.randbytes(50)
            fd = os.open(self.real(path), os.O_RDWR)
            area = mmap.mmap(fd, len(entry.data))
            os.close(fd)
            area[at:at + 50] = data
            entry.data[at:at + 50] = data
            assert area[:] == entry.data, f"{path} just mapped"
            area.close()

    def truncate(self, chance):
        if path := self.pick(chance, File):
            entry, size = self.tree[path], chance.randrange(LARGEST)
            os.truncate(self.real(path), size)
            del entry.data[size:]
            entry.data += bytes(size - len(entry.data))

    def read(self, chance):
        if path := self.pick(chance, File):
            self.check_one(path, self.tree[path], os.lstat(self.real(path)))

    def look(self, chance):
        directory = self.directory(chance)
        start = directory + "/" if directory else ""
        wanted = {path[len(start):] for path in self.tree if path.startswith(start) and "/" not in path[len(start):]}
        found = set(os.listdir(self.real(directory)))
        assert found == wanted, f"{directory} lists {sorted(found ^ wanted)} wrongly"

    def make_directory(self, chance):
        path = self.free_name(chance)
        os.mkdir(self.real(path))
        self.tree[path] = None

    def symlink(self, chance):
        path = self.free_name(chance)
        self.tree[path] = f"to-{chance.randrange(1000)}"
        os.symlink(self.tree[path], self.real(path))

    def link(self, chance):
        if path := self.pick(chance, File):
            name, entry = self.free_name(chance), self.tree[path]
            os.link(self.real(path), self.real(name))
            self.tree[name] = entry
            entry.names += 1

    def unlink(self, chance):
        if path := self.pick(chance, (File, str)):
            os.unlink(self.real(path))
            self.drop(path)

    def remove_directory(self, chance):
        path = self.pick(chance, type(None))
        if path is None:
            return
        below = self.below(path)
        if below:
            refused(errno.ENOTEMPTY, lambda: os.rmdir(self.real(path)))
            if len(self.tree) < TREES:
                return
        for other in sorted(below, key=len, reverse=True):
            (os.rmdir if self.tree[other] is None else os.unlink)(self.real(other))
            self.drop(other)
        os.rmdir(self.real(path))
        self.drop(path)

    def rename(self, chance):
        path = self.pick(chance, (File, str, type(None)))
        name = self.free_name(chance)
        if path is None:
            return
        if name.startswith(path + "/"):
            return refused(errno.EINVAL, lambda: os.rename(self.real(path), self.real(name)))
        os.rename(self.real(path), self.real(name))
        for other in self.below(path):
            self.tree[name + other[len(path):]] = self.tree.pop(other)
        self.tree[name] = self.tree.pop(path)

    def replace(self, chance):
        path, other = self.pick(chance, (File, str)), self.pick(chance, (File, str))
        if path and other and self.tree[path] is not self.tree[other]:
            os.rename(self.real(path), self.real(other))
            self.drop(other)
            self.tree[other] = self.tree.pop(path)

    def chmod(self, chance):
        if path := self.pick(chance, File):
            self.tree[path].mode = chance.choice([0o600, 0o644, 0o755])
            os.chmod(self.real(path), self.tree[path].mode)

    def attribute(self, chance):
        if path := self.pick(chance, File):
            name, value = f"user.a{chance.randrange(3)}", chance.randbytes(8)
            os.setxattr(self.real(path), name, value)
            self.tree[path].attributes[name] = value

    def hold(self, chance):
        """A handle that stays open, whatever becomes of the file's names."""
        if path := self.pick(chance, File):
            self.open.append((os.open(self.real(path), os.O_RDWR), self.tree[path]))
        if len(self.open) > 5:
            os.close(self.open.pop(0)[0])

    def use_held(self, chance):
        if self.open:
            fd, entry = chance.choice(self.open)
            data, at = self.data(chance), chance.randrange(len(entry.data) + 1)
            assert os.fstat(fd).st_nlink == entry.names
            os.pwrite(fd, data, at)
            entry.data[at:at + len(data)] = data
            assert os.pread(fd, 2 * LARGEST + len(entry.data), 0) == entry.data, "a held file"

    def close(self):
        for fd, _ in self.open:
            os.close(fd)
        self.open = []


# Each with its share.
OPERATIONS = {
    "create": 6, "rewrite": 3, "write": 8, "append": 4, "map": 3, "truncate": 2, "read": 8, "look": 6, "make_directory": 3,
    "symlink": 1, "link": 2, "unlink": 4, "remove_directory": 2, "rename": 4, "replace": 2, "chmod": 2, "attribute": 2, "hold": 2,
    "use_held": 3,
}


def refused(code, call):
    try:
        call()
    except OSError as error:
        assert error.errno == code, error
    else:
        raise AssertionError(f"no {errno.errorcode[code]}")


def first_difference(one, other):
    return next((at for at, pair in enumerate(zip(one, other)) if pair[0] != pair[1]), min(len(one), len(other)))
