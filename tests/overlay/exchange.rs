//! Whatever one of the two writes, the other reads: random changes, by turns.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use super::rig::{Mounted, Rig};
use super::tree::{alike, seen_but_counts as seen, set_attribute};

/// Numbers that are the same in each run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // xorshift64 (Marsaglia 2003).
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 20).unwrap_or(0) % sides
    }

    fn of<'a>(&mut self, all: &'a [PathBuf]) -> &'a Path {
        &all[self.roll(all.len())]
    }
}

/// The directories and the other entries of a tree.
fn entries(root: &Path) -> (Vec<PathBuf>, Vec<PathBuf>) {
    let (mut dirs, mut others) = (vec![root.to_path_buf()], Vec::new());
    let mut next = 0;
    while next < dirs.len() {
        let list = fs::read_dir(&dirs[next]);
        let list = list.unwrap_or_else(|error| panic!("{}: {error}", dirs[next].display()));
        let mut list: Vec<_> = list.map(Result::unwrap).collect();
        list.sort_by_key(fs::DirEntry::file_name);
        for entry in list {
            match entry.file_type().unwrap().is_dir() {
                true => dirs.push(entry.path()),
                false => others.push(entry.path()),
            }
        }
        next += 1;
    }
    (dirs, others)
}

/// One change, or an attempt that both refuse alike.
fn change(root: &Path, dice: &mut Dice, step: usize) -> String {
    let (dirs, others) = entries(root);
    let name = format!("n{}", dice.roll(8));
    let new = dice.of(&dirs).join(name);
    let dir = dice.of(&dirs).to_path_buf();
    let other = match others.is_empty() {
        true => new.clone(),
        false => dice.of(&others).to_path_buf(),
    };
    let plain = other.symlink_metadata().is_ok_and(|meta| meta.is_file());
    let text = format!("{step} ").repeat(1 + dice.roll(600));
    let (what, done) = match dice.roll(14) {
        0 | 1 => ("write", fs::write(&new, text)),
        2 if plain => ("rewrite", fs::write(&other, text)),
        3 if plain => (
            "append",
            fs::OpenOptions::new()
                .append(true)
                .open(&other)
                .and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes())),
        ),
        4 => ("unlink", fs::remove_file(&other)),
        5 | 6 => ("mkdir", fs::create_dir(&new)),
        7 if dir != root => ("rmdir", fs::remove_dir(&dir)),
        8 if dice.roll(3) == 0 && dir != root => ("rm -r", fs::remove_dir_all(&dir)),
        9 if plain => (
            "chmod",
            fs::set_permissions(
                &other,
                fs::Permissions::from_mode(0o600 + 8 * dice.roll(8) as u32),
            ),
        ),
        10 | 11 => ("rename", fs::rename(&dir, &new)),
        12 => ("rename", fs::rename(&other, &new)),
        13 if dice.roll(2) == 0 => ("symlink", symlink("n1", &new)),
        _ if plain => {
            let name = format!("user.a{}", dice.roll(3));
            let set = set_attribute(&other, &name, &text.as_bytes()[..text.len().min(30)]);
            (
                "xattr",
                set.map_err(|error| std::io::Error::from_raw_os_error(error.errno() as i32)),
            )
        }
        _ => ("link", fs::hard_link(&other, &new)),
    };
    format!(
        "{what} {} {} {}: {:?}",
        new.display(),
        dir.display(),
        other.display(),
        done.err()
    )
}

fn turns(seed: u64) {
    let rig = Rig::with(&["low0", "mnt"]);
    let mut dice = Dice(seed);
    for step in 0..60 {
        change(&rig.at("low0"), &mut dice, step);
    }
    let mut lower = vec!["low0".to_owned()];
    let on = ",redirect_dir=on,metacopy=on";
    for round in 1..=6 {
        for name in ["up", "work"] {
            let _ = fs::remove_dir_all(rig.at(name));
            fs::create_dir(rig.at(name)).unwrap();
        }
        let names: Vec<&str> = lower.iter().rev().map(String::as_str).collect();
        let options = rig.options(&names) + on;
        // The writers take turns, and both go on with what the other has begun.
        for turn in 0..4 {
            let ours = (round + turn) % 2 == 0;
            let mount = |ours: bool| -> Mounted {
                match ours {
                    true => rig.mount_with(&options),
                    false => rig.by_kernel(&options),
                }
            };
            let mounted = mount(ours);
            let mut log = Vec::new();
            println!("seed {seed}, round {round}, turn {turn}, written by us: {ours}");
            for step in 0..25 {
                log.push(change(&mounted.path(""), &mut dice, step));
                println!("{}", log[step]);
            }
            let before = seen(&mounted.path(""));
            mounted.end();
            let mounted = mount(!ours);
            let when = format!(
                "seed {seed}, round {round}, turn {turn}, written by us: {ours}\n{}",
                log.join("\n")
            );
            alike(&before, &seen(&mounted.path("")), &when);
            mounted.end();
            let mounted = rig.mount_with(&options);
            alike(&before, &seen(&mounted.path("")), &when);
            mounted.end();
        }
        let next = format!("low{round}");
        fs::rename(rig.at("up"), rig.at(&next)).unwrap();
        lower.push(next);
    }
}

#[test]
fn what_one_wrote_the_other_reads_seed_1() {
    turns(0x9E37_79B9_7F4A_7C15);
}

#[test]
fn what_one_wrote_the_other_reads_seed_2() {
    turns(0xD1B5_4A32_D192_ED03);
}

#[test]
fn what_one_wrote_the_other_reads_seed_3() {
    turns(0x2545_F491_4F6C_DD1D);
}
