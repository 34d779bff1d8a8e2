//! A program in a view: shell commands as calls of the view, as the kernel makes them.

use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;

use harness_fs::sys::at::SetTime;
use harness_fs::tree::{Ino, Kind};
use harness_fs::view::{Caller, ROOT, RenameMode, SetAttr, View};
use nix::errno::Errno;
use nix::fcntl::OFlag;

use crate::rig::Rig;

type Result = std::result::Result<(), Errno>;

const CALLER: Caller = Caller {
    uid: 0,
    gid: 0,
    umask: 0o022,
};

pub struct Program(Arc<View>);

impl Rig {
    /// Runs commands in a view, each of which must succeed: `ln a b; write a text`.
    pub fn run(&self, view: &str, commands: &str) {
        let program = Program(self.fakes.views.lock().unwrap()[view].clone());
        for command in commands.split(';') {
            let done = program.command(command);
            done.unwrap_or_else(|errno| panic!("{view}: {command}: {errno}"));
        }
    }

    /// The same; what fails is passed over.
    pub fn try_to_run<'a, T: AsRef<str>>(&self, view: &str, commands: &'a [T]) -> Vec<&'a str> {
        let program = Program(self.fakes.views.lock().unwrap()[view].clone());
        let mut done: Vec<&str> = commands.iter().map(AsRef::as_ref).collect();
        done.retain(|command| program.command(command).is_ok());
        done
    }
}

impl Program {
    /// `write` truncates and writes in place, `replace` writes a new file and
    /// renames it over the old one, `touch` changes the times.
    pub fn command(&self, command: &str) -> Result {
        let words: Vec<&str> = command.split_whitespace().collect();
        match words[..] {
            ["ln", from, to] => self.link(from, to),
            ["ln", "-f", from, to] => {
                if self.ino(from)? == self.ino(to).unwrap_or(ROOT) {
                    return Err(Errno::EEXIST);
                }
                let _ = self.unlink(to);
                self.link(from, to)
            }
            ["rm", path] => self.unlink(path),
            ["rm", "-r", path] => self.remove_all(path),
            ["mv", from, to] => self.rename(from, to, RenameMode::Replace),
            ["exchange", a, b] => self.rename(a, b, RenameMode::Exchange),
            ["ln", "-s", target, path] => {
                let (parent, name) = self.place(path)?;
                let made = self.0.symlink(parent, name, target.as_ref(), &CALLER);
                made.map(drop).map_err(|error| error.errno())
            }
            ["mkdir", path] => {
                let (parent, name) = self.place(path)?;
                let made = self.0.mkdir(parent, name, 0o755, &CALLER);
                made.map(drop).map_err(|error| error.errno())
            }
            ["write", path, text] => self.write(path, text),
            ["replace", path, text] => {
                let temporary = format!("{path}.tmp");
                self.write(&temporary, text)?;
                self.rename(&temporary, path, RenameMode::Replace)
                    .inspect_err(|_| self.unlink(&temporary).unwrap())
            }
            ["chmod", mode, path] => {
                let perm = u32::from_str_radix(mode, 8).unwrap();
                self.set(path, |set| set.perm = Some(perm))
            }
            ["chown", owner, path] => {
                let uid = owner.parse().unwrap();
                self.set(path, |set| set.uid = Some(uid))
            }
            ["cat", from, to] => {
                let text = self.read(from)?;
                self.write(to, &text)
            }
            ["ls", from, to] => {
                let names = self.names(from)?.join(",");
                self.write(to, &names)
            }
            // As a shell opens what it asked for before.
            ["test", "-e", path, "||", ref rest @ ..] => match self.ino(path) {
                Ok(_) => Ok(()),
                Err(_) => self.command(&rest.join(" ")),
            },
            ["test", "-e", path, "&&", ref rest @ ..] => match self.ino(path) {
                Ok(_) => self.command(&rest.join(" ")),
                Err(_) => Ok(()),
            },
            ["stat", path, to] => {
                let attr = self.0.getattr(self.ino(path)?);
                let attr = attr.map_err(|error| error.errno())?;
                let size = match attr.kind {
                    Kind::File => attr.size,
                    _ => 0,
                };
                self.write(to, &format!("{:?} {:o} {size}", attr.kind, attr.perm))
            }
            ["touch", path] => self.set(path, |set| set.mtime = Some(SetTime::Now)),
            _ => panic!("{command}: no such command"),
        }
    }

    fn ino(&self, path: &str) -> std::result::Result<Ino, Errno> {
        let mut ino = ROOT;
        for name in Path::new(path) {
            let found = self.0.lookup(ino, name);
            ino = found.map_err(|error| error.errno())?.ino;
        }
        Ok(ino)
    }

    /// Where a name is, or is to be. The kernel looks it up before it does anything about it.
    fn place<'a>(&self, path: &'a str) -> std::result::Result<(Ino, &'a OsStr), Errno> {
        let (parent, name) = path.rsplit_once('/').unwrap();
        let (parent, name) = (self.ino(parent)?, OsStr::new(name));
        let _ = self.0.lookup(parent, name);
        Ok((parent, name))
    }

    fn is_dir(&self, path: &str) -> std::result::Result<bool, Errno> {
        let attr = self.0.getattr(self.ino(path)?);
        Ok(attr.map_err(|error| error.errno())?.kind == Kind::Dir)
    }

    fn link(&self, from: &str, to: &str) -> Result {
        let (parent, name) = self.place(to)?;
        let made = self.0.link(self.ino(from)?, parent, name);
        made.map(drop).map_err(|error| error.errno())
    }

    fn unlink(&self, path: &str) -> Result {
        let (parent, name) = self.place(path)?;
        let done = self.0.unlink(parent, name);
        done.map_err(|error| error.errno())
    }

    fn read(&self, path: &str) -> std::result::Result<String, Errno> {
        let opened = self.0.open(self.ino(path)?, OFlag::O_RDONLY, None);
        let handle = opened.map_err(|error| error.errno())?.handle;
        let mut text = [0; 1000];
        let read = self.0.read(handle, 0, &mut text);
        self.0.release(handle);
        let length = read.map_err(|error| error.errno())?;
        Ok(String::from_utf8_lossy(&text[..length]).into_owned())
    }

    /// The names in a directory, sorted.
    fn names(&self, path: &str) -> std::result::Result<Vec<String>, Errno> {
        let mut names = Vec::new();
        let listed = self.0.readdir(self.ino(path)?, 0, false, &mut |entry| {
            names.push(entry.name.to_str().unwrap().to_owned());
            true
        });
        listed.map_err(|error| error.errno())?;
        names.retain(|name| name != "." && name != "..");
        names.sort();
        Ok(names)
    }

    fn remove_all(&self, path: &str) -> Result {
        if !self.is_dir(path)? {
            return self.unlink(path);
        }
        for name in self.names(path)? {
            self.remove_all(&format!("{path}/{name}"))?;
        }
        let (parent, name) = self.place(path)?;
        let done = self.0.rmdir(parent, name);
        done.map_err(|error| error.errno())
    }

    fn rename(&self, from: &str, to: &str, mode: RenameMode) -> Result {
        let (from_parent, from) = self.place(from)?;
        let (to_parent, to) = self.place(to)?;
        let done = self.0.rename(from_parent, from, to_parent, to, mode);
        done.map_err(|error| error.errno())
    }

    fn write(&self, path: &str, text: &str) -> Result {
        let handle = match self.ino(path) {
            Ok(ino) => {
                let flags = OFlag::O_WRONLY | OFlag::O_TRUNC;
                let opened = self.0.open(ino, flags, None);
                opened.map_err(|error| error.errno())?.handle
            }
            Err(_) => {
                let (parent, name) = self.place(path)?;
                let made = self.0.create(parent, name, 0o644, true, &CALLER);
                made.map_err(|error| error.errno())?.1
            }
        };
        let written = self.0.write(handle, 0, text.as_bytes(), None);
        self.0.release(handle);
        written.map(drop).map_err(|error| error.errno())
    }

    fn set(&self, path: &str, set: impl FnOnce(&mut SetAttr)) -> Result {
        let mut all = SetAttr::default();
        set(&mut all);
        let done = self.0.setattr(self.ino(path)?, &all);
        done.map(drop).map_err(|error| error.errno())
    }
}
