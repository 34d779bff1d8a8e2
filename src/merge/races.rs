//! What a step saw of what others changed: found, decided, and put together for a report.
//!
//! A step's look-ups, listings and openings are compared with what was pushed since it began, path
//! by path, and only in what was seen: who looked a name up and found nothing is concerned when
//! there is something now, who listed a directory when names or types in it are others, who opened
//! a file when its content is another. Not all that the kernel asks is asked for by a program. So
//! a warning tells of what was surely seen, while `strict` takes in what may have been:
//!
//! - attributes of a file that came with a listing, when its content was changed;
//! - that there was nothing where the step then made a file, as the kernel asks before it makes it;
//! - mode, owner and extended attributes of directories on the way;
//! - what the step saw of names that it then changed itself, which the merge compares anyway;
//! - that a directory was missing which both sides then made, so that their names unite, unless the
//!   step made it as soon as it had looked: that is what `mkdir -p` does, and no race in either case.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{
    Change, Class, Conflict, Deed, Delta, Effect, Hint, Outcome, Party, Policies, Policy, Race,
    Read,
};
use crate::tree::Kind;
use crate::tree::reads::{Names, Reads, Sight};
use crate::tree::shown::shown;

/// More paths than this in one directory are told as so many in it.
const TOLD: usize = 3;
/// More lines than this are put together further up.
const LINES: usize = 6;
/// So many names of a listing are told.
const NAMED: usize = 10;

/// Answers how what is there now differs from what a step saw.
///
/// Only paths are asked for that the step has seen and others have to do with. They have the form
/// that they have in a [`Delta`].
pub trait Observed {
    /// What a failed look-up yields.
    type Error;

    /// What the base has at the path, and what the stage has there.
    fn kinds(&mut self, path: &Path) -> Result<[Option<Kind>; 2], Self::Error>;

    /// How what the stage has at the path differs from what the base has there. Asked only where
    /// the kind is the same. Of a directory only its own metadata counts.
    fn turned(&mut self, path: &Path) -> Result<Effect, Self::Error>;

    /// What the step's view has at the path.
    fn own(&mut self, path: &Path) -> Result<Option<Kind>, Self::Error>;

    /// The names that the base or the stage has in a directory.
    fn names(&mut self, path: &Path) -> Result<BTreeSet<OsString>, Self::Error>;
}

/// What a step has seen, and what became of it.
#[derive(Clone, Copy, Debug)]
pub struct Sights<'a> {
    /// What it saw of the base; `None` if nobody knows.
    pub reads: Option<&'a Reads>,
    /// What was pushed since it began.
    pub stage: &'a Delta,
    /// Its own layer.
    pub step: &'a Delta,
    /// Its name.
    pub step_name: &'a str,
    /// What decides, and whether what may have been seen counts.
    pub policies: &'a Policies,
}

/// A path that was seen and changed.
#[derive(Clone, Debug)]
struct Met {
    path: PathBuf,
    key: Key,
    count: usize,
    names: Vec<OsString>,
}

/// What paths have in common that are told together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    read: Read,
    writer: Arc<str>,
    did: Deed,
    policy: Policy,
}

struct Search<'a, O> {
    sights: &'a Sights<'a>,
    observed: &'a mut O,
    strict: bool,
    /// By path, and by who changed it: of a listing there may be several.
    met: BTreeMap<PathBuf, BTreeMap<Arc<str>, Met>>,
}

/// Finds what the step saw that others changed, except for paths that a policy says to ignore.
///
/// # Errors
/// What `observed` answers with.
pub fn races<O: Observed>(sights: &Sights<'_>, observed: &mut O) -> Result<Vec<Race>, O::Error> {
    let met = together(sights, meet(sights, observed)?);
    Ok(met.iter().map(|met| race(sights, met)).collect())
}

/// Makes conflicts of what the step saw that others changed, where no conflict of what was written
/// is about it.
///
/// # Errors
/// What `observed` answers with.
pub fn read_write<O: Observed>(
    outcome: &mut Outcome,
    sights: &Sights<'_>,
    observed: &mut O,
) -> Result<(), O::Error> {
    let mut met = meet(sights, observed)?;
    let mut decided: BTreeSet<&Path> = BTreeSet::new();
    let mut with_all_below: BTreeSet<&Path> = BTreeSet::new();
    // What another step of the same unit saw has a policy of its own, and decides nothing here.
    let written = outcome.conflicts.iter();
    let written = written.filter(|conflict| conflict.class != Class::ReadWrite);
    for conflict in written {
        let paths = std::iter::once(&conflict.path).chain(&conflict.related);
        match conflict.class.is_metadata() {
            true => decided.extend(paths.map(PathBuf::as_path)),
            false => with_all_below.extend(paths.map(PathBuf::as_path)),
        }
    }
    met.retain(|met| {
        let path = sights.policies.absolute(&met.path);
        let below = path.ancestors().any(|above| with_all_below.contains(above));
        !below && !decided.contains(path.as_path())
    });
    let conflicts = together(sights, met);
    let conflicts = conflicts.iter().map(|met| conflict(sights, met));
    outcome.add(conflicts.collect());
    Ok(())
}

fn meet<O: Observed>(sights: &Sights<'_>, observed: &mut O) -> Result<Vec<Met>, O::Error> {
    let mut search = Search {
        sights,
        observed,
        strict: sights.policies.is_strict(),
        met: BTreeMap::new(),
    };
    if let Some(reads) = sights.reads {
        search.all(reads)?;
    }
    let known = sights.reads.is_some_and(|reads| !reads.is_partial());
    if search.strict && !known {
        search.unknown();
    }
    let met = search.met.into_values();
    Ok(met.flat_map(BTreeMap::into_values).collect())
}

impl<O: Observed> Search<'_, O> {
    fn all(&mut self, reads: &Reads) -> Result<(), O::Error> {
        let stage = self.sights.stage;
        let seen = reads.within(|dir| stage.touches(dir) || stage.severs_above(dir));
        let mut listings = Vec::new();
        for (dir, names) in &seen {
            let severed = stage.severs_above(dir) || stage.change(dir).is_some_and(Change::severs);
            for (name, sight) in names {
                let path = Reads::path(dir, name);
                if name.is_empty() {
                    listings.push((path, severed));
                } else if severed || stage.get(&path).is_some() {
                    self.name(path, *sight)?;
                }
            }
        }
        // Afterwards: a name that was seen by itself need not be told of again.
        for (dir, severed) in listings {
            self.listing(dir, severed, &seen)?;
        }
        Ok(())
    }

    /// Compares what was seen of one name.
    fn name(&mut self, path: PathBuf, sight: Sight) -> Result<(), O::Error> {
        let [was, is] = self.observed.kinds(&path)?;
        let Some(was) = was else {
            let made = sight.has(Sight::MADE);
            if is.is_none() || !sight.has(Sight::MISSING) || made && !self.strict {
                return Ok(());
            }
            let both_made = is == Some(Kind::Dir) && self.observed.own(&path)? == is;
            if !both_made || self.strict && !made {
                self.add(path, Read::Missing, Deed::Added);
            }
            return Ok(());
        };
        let gone = match is {
            None => Some(Deed::Removed),
            Some(is) if is != was => Some(Deed::Replaced),
            Some(_) => None,
        };
        let effect = match gone {
            Some(_) => Effect::Content,
            None => self.observed.turned(&path)?,
        };
        let did = gone.unwrap_or(Deed::Changed);
        let has_content = matches!(was, Kind::File | Kind::Symlink);
        if sight.has(Sight::READ) && has_content && effect == Effect::Content {
            self.add(path, Read::Content, did);
            return Ok(());
        }
        let found = sight.has(Sight::FOUND);
        let read = match (gone, effect) {
            // Who was told of it in a listing has seen the listing.
            (Some(_), _) => found.then_some(Read::Found),
            (None, Effect::Nothing) => None,
            (None, _) if was == Kind::Dir => self.strict.then_some(Read::Metadata),
            (None, Effect::Content) => (found || self.strict).then_some(Read::Metadata),
            (None, Effect::Metadata) => Some(Read::Metadata),
        };
        if let Some(read) = read
            && (self.strict || !self.changed_itself(&path))
        {
            self.add(path, read, did);
        }
        Ok(())
    }

    /// Whether the step has to do with the path otherwise than by looking: then the merge compares
    /// what both sides did.
    fn changed_itself(&self, path: &Path) -> bool {
        let step = self.sights.step;
        step.get(path).is_some() || step.severs_above(path)
    }

    /// Compares the names that a directory has.
    fn listing(
        &mut self,
        dir: PathBuf,
        severed: bool,
        seen: &BTreeMap<&Path, Names>,
    ) -> Result<(), O::Error> {
        let [was, is] = self.observed.kinds(&dir)?;
        if was != Some(Kind::Dir) {
            return Ok(());
        }
        if is != was {
            let did = match is {
                None => Deed::Removed,
                Some(_) => Deed::Replaced,
            };
            if self.strict || !self.changed_itself(&dir) {
                self.add(dir, Read::Listing, did);
            }
            return Ok(());
        }
        let names = match severed {
            true => self.observed.names(&dir)?,
            false => {
                let below = self.sights.stage.below(&dir).map(|(path, _)| path);
                let direct = below.filter(|path| path.parent() == Some(&dir));
                let names = direct.filter_map(|path| path.file_name());
                names.map(OsStr::to_owned).collect()
            }
        };
        let mut changed: Vec<(OsString, Deed)> = Vec::new();
        for name in names {
            let path = dir.join(&name);
            let [was, is] = self.observed.kinds(&path)?;
            let did = match (was, is) {
                (None, Some(_)) => Deed::Added,
                (Some(_), None) => Deed::Removed,
                (was, is) if was != is => Deed::Replaced,
                _ => continue,
            };
            let both = self.observed.own(&path)? == is;
            if !both || self.strict && is != Some(Kind::Dir) {
                changed.push((name, did));
            }
        }
        let by_itself = |name: &OsString| {
            let seen = seen.get(&*dir).and_then(|names| names.get(name));
            seen.is_some() && self.met.contains_key(&dir.join(name))
        };
        if changed.iter().all(|(name, _)| by_itself(name)) {
            return Ok(());
        }
        let mut by_writer: BTreeMap<Arc<str>, Vec<(OsString, Deed)>> = BTreeMap::new();
        for (name, did) in changed {
            let writer = self.writer(&dir.join(&name));
            by_writer.entry(writer).or_default().push((name, did));
        }
        for (writer, changed) in by_writer {
            let did = changed.iter().map(|(_, did)| *did);
            let did = did.reduce(|a, b| if a == b { a } else { Deed::Changed });
            let names = changed.into_iter().map(|(name, _)| name).collect();
            let did = did.unwrap_or(Deed::Changed);
            self.add_by(writer, dir.clone(), Read::Listing, did, names);
        }
        Ok(())
    }

    /// Everything that others changed may have been seen.
    fn unknown(&mut self) {
        let stage = self.sights.stage;
        let mut roots: BTreeMap<PathBuf, usize> = BTreeMap::new();
        for (path, _) in stage.iter() {
            if let Some(root) = path.iter().next() {
                *roots.entry(PathBuf::from(root)).or_default() += 1;
            }
        }
        for (root, count) in roots {
            self.add(root.clone(), Read::Unknown, Deed::Changed);
            for met in self.met.entry(root).or_default().values_mut() {
                met.count = count;
            }
        }
    }

    fn add(&mut self, path: PathBuf, read: Read, did: Deed) {
        self.add_by(self.writer(&path), path, read, did, Vec::new());
    }

    fn add_by(
        &mut self,
        writer: Arc<str>,
        path: PathBuf,
        read: Read,
        did: Deed,
        names: Vec<OsString>,
    ) {
        let policy = self.sights.policies.decide(&path, Class::ReadWrite);
        if policy == Policy::Ignore {
            return;
        }
        let at_path = self.met.entry(path.clone()).or_default();
        if at_path.get(&writer).is_some_and(|met| met.key.read <= read) {
            return;
        }
        let key = Key {
            read,
            writer: writer.clone(),
            did,
            policy,
        };
        let met = Met {
            path,
            key,
            count: 1,
            names,
        };
        at_path.insert(writer, met);
    }

    /// Who changed a path, or what is above it, or else below it.
    fn writer(&self, path: &Path) -> Arc<str> {
        let stage = self.sights.stage;
        let at = path.ancestors().find_map(|above| {
            let entry = stage.get(above)?;
            (above == path || entry.change.severs()).then_some(entry)
        });
        let entry = at.or_else(|| stage.below(path).next().map(|(_, entry)| entry));
        entry.map_or_else(|| Arc::from("stage"), |entry| entry.writer.clone())
    }
}

/// Tells many paths as one: those below a directory that is gone as that, many in a directory as
/// the directory, and if there are still too many, those furthest down as what they are in.
fn together(sights: &Sights<'_>, met: Vec<Met>) -> Vec<Met> {
    let top = |met: &Met| {
        let severed = |above: &&Path| sights.stage.change(above).is_some_and(Change::severs);
        let top = met.path.ancestors().filter(severed).last();
        top.map(Path::to_path_buf)
    };
    let mut gone: BTreeMap<PathBuf, Vec<Met>> = BTreeMap::new();
    let mut all = Vec::new();
    for met in met {
        match top(&met) {
            Some(top) if met.key.read != Read::Unknown => gone.entry(top).or_default().push(met),
            _ => all.push(met),
        }
    }
    for (top, below) in gone {
        all.extend(match below.len() {
            1 => below,
            _ => one_at(top, below).into_iter().collect(),
        });
    }
    let mut all = in_their_directories(all, |count, _| count > TOLD);
    while all.len() > LINES {
        let depth = |met: &Met| met.path.components().count();
        let deepest = all.iter().map(depth).max().unwrap_or(0);
        if deepest < 2 {
            break;
        }
        all = in_their_directories(all, |_, path| path.components().count() + 1 == deepest);
    }
    all.sort_by(|a, b| (&a.path, &a.key).cmp(&(&b.path, &b.key)));
    all
}

/// What was seen of a directory that is gone, and of what was below it.
fn one_at(path: PathBuf, below: Vec<Met>) -> Option<Met> {
    let count = below.iter().map(|met| met.count).sum();
    let first = below.into_iter().min_by(|a, b| a.key.cmp(&b.key))?;
    Some(Met {
        path,
        key: first.key,
        count,
        names: Vec::new(),
    })
}

/// Puts those together that are alike in a directory, where `worth` says so of their number and
/// the directory.
fn in_their_directories(all: Vec<Met>, worth: impl Fn(usize, &Path) -> bool) -> Vec<Met> {
    let mut groups: BTreeMap<(PathBuf, Key), Vec<Met>> = BTreeMap::new();
    let mut done = Vec::new();
    for met in all {
        match met.path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                let group = (parent.to_path_buf(), met.key.clone());
                groups.entry(group).or_default().push(met);
            }
            _ => done.push(met),
        }
    }
    for ((parent, key), some) in groups {
        if !worth(some.len(), &parent) {
            done.extend(some);
            continue;
        }
        let count = some.iter().map(|met| met.count).sum();
        match done
            .iter_mut()
            .find(|met: &&mut Met| met.path == parent && met.key == key)
        {
            Some(there) => there.count += count,
            None => done.push(Met {
                path: parent,
                key,
                count,
                names: Vec::new(),
            }),
        }
    }
    done
}

fn race(sights: &Sights<'_>, met: &Met) -> Race {
    let named = met.names.iter().take(NAMED).map(Path::new);
    Race {
        step: sights.step_name.to_owned(),
        path: sights.policies.absolute(&met.path),
        read: met.key.read,
        writer: met.key.writer.to_string(),
        did: met.key.did,
        count: met.count,
        names: named.map(|name| shown(name).into_owned()).collect(),
    }
}

fn conflict(sights: &Sights<'_>, met: &Met) -> Conflict {
    let party = |writer: &str, did: Deed| Party {
        writer: writer.to_owned(),
        did,
        kind: None,
        facts: None,
    };
    let resolved = met.key.policy != Policy::Fail;
    let pattern = || sights.policies.pattern_for(&met.path, met.count > 1);
    Conflict {
        path: sights.policies.absolute(&met.path),
        tree_path: met.path.clone(),
        class: Class::ReadWrite,
        stage: party(
            &met.key.writer,
            match met.count {
                1 => met.key.did,
                _ => Deed::ChangedBelow,
            },
        ),
        step: party(sights.step_name, met.key.read.into()),
        count: met.count,
        related: Vec::new(),
        policy: met.key.policy,
        resolved,
        kept_as: Vec::new(),
        hint: (!resolved).then(|| Hint::accepting(&pattern())),
    }
}
