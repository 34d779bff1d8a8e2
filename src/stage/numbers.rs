//! One inode number, one file, and as many names as it says: what a merge must not lose.
//!
//! The layers of both sides may hold one inode, at different paths: a file that one side linked
//! or renamed and the other changed as well. What is read of it, and how many names it has, comes
//! from whichever layer holds it. So when all else is decided, each inode that both sides have to
//! do with is looked up in the merged tree, under the names that the sides know. A layer that
//! holds an inode has all names that its view has, so there are no others. Names of one version
//! become one file; a further version gets a number of its own.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ops::Bound;
use std::path::{Path, PathBuf};

use nix::errno::Errno;

use super::cached::CachedStack;
use super::compare::Sides;
use super::join::{Deferred, Join, Placed};
use super::renamed::Renamed;
use crate::error::{Context, Result};
use crate::layer::{LinkState, Stack, Visit, read_open, walk};
use crate::merge::{Change, Delta, JoinPlan, Links, Side};
use crate::tree::Ino;
use crate::tree::union::Found;

/// Inodes that stacking and the plan may show in pieces, or with a wrong number of names.
#[derive(Debug)]
pub(super) struct Suspects<'a> {
    moves: Moves<'a>,
    /// Of those that a side's layers hold, where they may be.
    held: BTreeMap<Ino, BTreeSet<PathBuf>>,
    /// Those that no side's layers hold, but that have lost names.
    lost_names: BTreeSet<Ino>,
    /// Metadata-only copies of the step, where the stage has changed what is below them.
    metacopies: Vec<PathBuf>,
}

impl<'a> Suspects<'a> {
    /// Finds them. Needs nothing from disk, unless a side renamed directories.
    ///
    /// # Errors
    /// What the layers report.
    pub fn find(sides: &'a Sides, plan: &JoinPlan, renamed: &Renamed<'_>) -> Result<Suspects<'a>> {
        let mut held = BTreeMap::new();
        let moves = Moves::of(sides)?;
        let planned: BTreeSet<&Path> = plan.actions().iter().map(|act| act.target()).collect();
        let counted = [
            counted_in(&sides.stage, sides.base.layers().len()),
            counted_in(&sides.step, sides.base.layers().len()),
        ];
        let linked: HashSet<Ino> = plan.links().iter().map(|links| links.inode).collect();
        for (side, counted_by_other) in [(Side::Stage, &counted[1]), (Side::Step, &counted[0])] {
            let other = &sides.scan(side.other()).delta;
            for (ino, names) in &sides.scan(side).numbers {
                let shared = sides.scan(side.other()).numbers.contains_key(ino);
                if shared && side == Side::Step {
                    continue; // Seen from the stage's side.
                }
                let met = |path: &PathBuf| {
                    let on_the_way = |above: &Path| planned.contains(above);
                    other.get(path).is_some()
                        || other.hides_from_above(path)
                        || (!planned.is_empty() && path.ancestors().any(on_the_way))
                };
                let counts = counted_by_other.contains(ino);
                let concerned = shared
                    || counts
                    || linked.contains(ino)
                    || !moves.is_empty()
                    || names.iter().any(met)
                    || sides.homes(*ino).any(met);
                if !concerned {
                    continue;
                }
                let paths = places(sides, &moves, *ino);
                // What has one place only is there as a whole.
                if counts || paths.len() > 1 {
                    held.insert(*ino, paths);
                }
            }
        }
        let both = counted[0].intersection(&counted[1]);
        let either = counted[0].union(&counted[1]);
        // What one side alone has counted is right, unless its removal came to nothing.
        let mut lost_names: BTreeSet<Ino> = match plan.actions().is_empty() && moves.is_empty() {
            true => both.copied().collect(),
            false => either.copied().collect(),
        };
        for from in renamed.lost() {
            walk(&sides.base, from, &mut |_, found| {
                if !found.attr.is_dir() && found.attr.nlink > 1 {
                    lost_names.insert(found.attr.ino);
                }
                Ok(Visit::Enter)
            })?;
        }
        lost_names.retain(|ino| !sides.holds(*ino));
        let stage = &sides.stage_scan.delta;
        let changed = |place: &Path| stage.get(place).is_some() || stage.severs_above(place);
        let copies = sides.step_scan.metacopies.iter();
        let copies = copies.filter(|(_, origin)| changed(origin));
        Ok(Suspects {
            held,
            lost_names,
            metacopies: copies.map(|(path, _)| path.clone()).collect(),
            moves,
        })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.held.is_empty() && self.lost_names.is_empty() && self.metacopies.is_empty()
    }
}

/// Where an inode that a side holds may be: where the sides have it, and where the base has it,
/// under the names that renamed directories have now.
fn places(sides: &Sides, moves: &Moves<'_>, ino: Ino) -> BTreeSet<PathBuf> {
    let named = [Side::Stage, Side::Step].map(|side| sides.scan(side).numbers.get(&ino));
    let named = named.into_iter().flatten().flatten();
    let homes = sides
        .homes(ino)
        .chain(moves.homes.get(&ino).into_iter().flatten());
    let mut paths: BTreeSet<PathBuf> = named.chain(homes).cloned().collect();
    moves.follow(&mut paths);
    paths
}

/// The inodes whose names the layers above the lowest `depth` have counted.
fn counted_in(stack: &Stack, depth: usize) -> BTreeSet<Ino> {
    let layers = stack.layers().iter().skip(depth);
    layers
        .flat_map(|layer| layer.link_changes().keys().copied())
        .collect()
}

/// The directories that either side renamed.
#[derive(Debug)]
struct Moves<'a> {
    moves: BTreeMap<&'a Path, BTreeSet<&'a Path>>,
    /// Where the base has inodes that a side holds, in what one side renamed and the other removed:
    /// the side that removed it does not know of them, and its removal may come to nothing.
    homes: BTreeMap<Ino, BTreeSet<PathBuf>>,
}

impl<'a> Moves<'a> {
    fn of(sides: &'a Sides) -> Result<Moves<'a>> {
        let mut moves: BTreeMap<&Path, BTreeSet<&Path>> = BTreeMap::new();
        let mut homes: BTreeMap<Ino, BTreeSet<PathBuf>> = BTreeMap::new();
        for side in [Side::Stage, Side::Step] {
            let mut renames = sides.renames(side).peekable();
            let gone: BTreeSet<PathBuf> = match renames.peek() {
                Some(_) => hidden_places(&sides.scan(side.other()).delta).collect(),
                None => BTreeSet::new(),
            };
            for (to, from) in renames {
                moves.entry(from).or_default().insert(to);
                let whole = from.ancestors().any(|above| gone.contains(above));
                let below = gone.range::<Path, _>((Bound::Excluded(from), Bound::Unbounded));
                let below = below.take_while(|inner| !whole && inner.starts_with(from));
                let regions = below.map(PathBuf::as_path).chain(whole.then_some(from));
                for region in regions {
                    walk(&sides.base, region, &mut |path, found| {
                        if sides.holds(found.attr.ino) {
                            let known = homes.entry(found.attr.ino).or_default();
                            known.insert(path.to_path_buf());
                        }
                        Ok(Visit::Enter)
                    })?;
                }
            }
        }
        Ok(Moves { moves, homes })
    }

    fn is_empty(&self) -> bool {
        self.moves.is_empty()
    }

    /// Adds where paths may be now.
    fn follow(&self, paths: &mut BTreeSet<PathBuf>) {
        if self.is_empty() {
            return;
        }
        let mut moved = Vec::new();
        for path in &*paths {
            for from in path.ancestors() {
                let rest = path.strip_prefix(from).unwrap_or(Path::new(""));
                for to in self.moves.get(from).into_iter().flatten() {
                    moved.push(match rest.as_os_str().is_empty() {
                        true => to.to_path_buf(),
                        false => to.join(rest),
                    });
                }
            }
        }
        paths.extend(moved);
    }
}

/// Whose version of an inode a name shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Version {
    Of(Side),
    /// Made by the merge, in the join layer.
    Made,
}

/// A name that shows an inode in the merged tree.
struct Shown {
    path: PathBuf,
    version: Version,
    found: Found,
    /// Where the join layer is to have it from, if stacking does not show it.
    deferred: Option<Deferred>,
}

impl Shown {
    /// The entry, and where it is in which stack.
    fn source<'a>(&'a self, sides: &'a Sides, merged: &'a Stack) -> (&'a Stack, &'a Path) {
        match &self.deferred {
            Some(from) => (sides.view(from.side), &from.path),
            None => (merged, &self.path),
        }
    }
}

/// Makes every suspect one file with the right number of names. Called when the join layer holds
/// everything else.
///
/// # Errors
/// What the layers or the disk report.
pub(super) fn settle(
    join: &mut Join<'_>,
    plan: &JoinPlan,
    mut suspects: Suspects<'_>,
) -> Result<()> {
    let mut placed = join.take_placed();
    let sides = join.sides();
    let merged = CachedStack::from(join.below().with(read_open(join.open().path())?));
    for path in &suspects.metacopies {
        if let Some(found) = merged.find(path)?
            && found.parts[0].layer == sides.stage.layers().len()
            && !placed.deferred.contains_key(path)
            && !placed.hides(path)
            && !has_its_content(sides, &merged, path, &found)?
        {
            let (ino, side, from) = (found.attr.ino, Side::Step, path.clone());
            let deferred = Deferred {
                ino,
                side,
                path: from,
            };
            placed.deferred.insert(path.clone(), deferred);
        }
    }
    let deferred = placed.deferred.iter().map(|(to, from)| (from.ino, to));
    let dirs = placed.dirs.iter().map(|(ino, to)| (*ino, to));
    for (ino, to) in deferred.chain(dirs).filter(|(ino, _)| sides.holds(*ino)) {
        let held = suspects.held.entry(ino);
        let paths = held.or_insert_with(|| places(sides, &suspects.moves, ino));
        paths.insert(to.clone());
    }
    suspects.lost_names.append(&mut placed.split);
    if suspects.is_empty() {
        return Ok(());
    }
    let links: HashMap<Ino, &Links> = plan.links().iter().map(|l| (l.inode, l)).collect();
    for (ino, paths) in &suspects.held {
        let mut shown = Vec::new();
        let mut dirs = Vec::new();
        for path in paths.iter().filter(|path| !placed.hides(path)) {
            let deferred = placed.deferred.get(path);
            if deferred.is_some_and(|from| from.ino != *ino) {
                continue;
            }
            let (found, version) = match deferred {
                Some(from) => (
                    sides.view(from.side).find(&from.path)?,
                    Version::Of(from.side),
                ),
                None => {
                    let found = merged.find(path)?.filter(|found| found.attr.ino == *ino);
                    let version = found.as_ref().map(|found| version(sides, *ino, found));
                    (found, version.unwrap_or(Version::Made))
                }
            };
            let Some(found) = found else { continue };
            if found.attr.is_dir() {
                dirs.push((found.parts[0].layer, path));
                continue;
            }
            shown.push(Shown {
                path: path.clone(),
                version,
                found,
                deferred: deferred.cloned(),
            });
        }
        // The uppermost keeps its number: it is the later writer's.
        let kept = dirs.iter().max_by_key(|(layer, _)| *layer).copied();
        for (_, path) in dirs.iter().filter(|dir| Some(**dir) != kept) {
            join.renumber_dir(&merged, path)
                .context(|| join.merging(path))?;
            merged.forget();
        }
        let Some(first) = shown.first().map(|name| name.path.clone()) else {
            continue;
        };
        settle_file(join, &merged, *ino, shown, links.get(ino).copied())
            .context(|| join.merging(&first))?;
    }
    count_lost_names(
        join,
        (&merged, &placed),
        &suspects.moves,
        &suspects.lost_names,
    )
}

/// Whether a metadata-only copy of the step shows in the merged tree the content that it has in
/// the step's view.
fn has_its_content(sides: &Sides, merged: &Stack, path: &Path, found: &Found) -> Result<bool> {
    let Some(own) = sides.step.find(path)? else {
        return Ok(true);
    };
    match merged.content(found) {
        Ok(_) => sides
            .seen(merged, found)
            .same_content(sides.seen(&sides.step, &own)),
        // There is nothing below it any more.
        Err(error) if error.errno() == Errno::EIO => Ok(false),
        Err(error) => Err(error),
    }
}

fn version(sides: &Sides, ino: Ino, found: &Found) -> Version {
    let layer = found.parts[0].layer;
    let (base, stage) = (sides.base.layers().len(), sides.stage.layers().len());
    match layer {
        // One that no layer of a side holds is in that side's view what it is in the base.
        _ if layer < base => match sides.scan(Side::Stage).numbers.contains_key(&ino) {
            true => Version::Of(Side::Step),
            false => Version::Of(Side::Stage),
        },
        _ if layer < stage => Version::Of(Side::Stage),
        _ if layer == stage => Version::Of(Side::Step),
        _ => Version::Made,
    }
}

/// Makes one file of each version of an inode.
fn settle_file(
    join: &mut Join<'_>,
    merged: &CachedStack,
    ino: Ino,
    mut shown: Vec<Shown>,
    links: Option<&Links>,
) -> Result<()> {
    let sides = join.sides();
    let winner = links.map(|links| Version::Of(links.side));
    let has_winner = shown.iter().any(|name| Some(name.version) == winner);
    let mut files: BTreeMap<Version, Vec<Shown>> = BTreeMap::new();
    // What has the version to be shown comes first: it is what the others are made of.
    shown.sort_by_key(|name| Some(name.version) != winner);
    for name in shown {
        let united = links.filter(|links| has_winner && links.names.contains(&name.path));
        let version = united.map_or(name.version, |links| Version::Of(links.side));
        files.entry(version).or_default().push(name);
    }
    if let Some(stage) = files.remove(&Version::Of(Side::Stage)) {
        let step = files.get_mut(&Version::Of(Side::Step));
        match step {
            Some(step) if alike(sides, merged, &stage[0], &step[0])? => step.extend(stage),
            _ => drop(files.insert(Version::Of(Side::Stage), stage)),
        }
    }
    // The later writer's keeps the number.
    let kept = files.keys().max().copied();
    for (version, names) in files {
        let number = match Some(version) == kept {
            true => ino,
            false => join.new_number(),
        };
        let layer = names[0].found.parts[0].layer;
        let stays = |name: &Shown| name.deferred.is_none() && name.found.parts[0].layer == layer;
        if number == ino && names.iter().all(stays) {
            let count = u32::try_from(names.len()).unwrap_or(u32::MAX);
            let here = version == Version::Made;
            recount(join, ino, (names[0].found.attr.nlink, count), here)?;
            continue;
        }
        // What lies below the join layer already need not be copied.
        let version = names[0].version;
        let mut own = names.iter().filter(|name| name.version == version);
        let source = own
            .find(|name| name.deferred.is_none())
            .unwrap_or(&names[0]);
        let (stack, origin) = source.source(sides, merged);
        let below = source.deferred.is_none() && version != Version::Made;
        let paths: Vec<&Path> = names.iter().map(|name| name.path.as_path()).collect();
        join.link_all((stack, origin, &source.found), below, number, &paths)?;
        merged.forget();
    }
    Ok(())
}

fn alike(sides: &Sides, merged: &Stack, a: &Shown, b: &Shown) -> Result<bool> {
    let (a_stack, _) = a.source(sides, merged);
    let (b_stack, _) = b.source(sides, merged);
    let (a, b) = (sides.seen(a_stack, &a.found), sides.seen(b_stack, &b.found));
    Ok(a.same_content(b)? && a.same_metadata(b)?)
}

/// Corrects how many names an inode has; `here` if the join layer holds it, under all of them.
fn recount(join: &Join<'_>, ino: Ino, (from, to): (u32, u32), here: bool) -> Result<()> {
    let origin = match here {
        // As if it was born here: there are no further names to be found below.
        true => 0,
        false if from == to => return Ok(()),
        false => from,
    };
    let state = LinkState {
        nlink: to,
        origin,
        here,
    };
    join.open().set_link_state(ino, state)
}

/// Counts the names that are left of inodes that only lie in the base: both sides may have
/// removed, and counted, the same name, or a name may have come back.
fn count_lost_names(
    join: &Join<'_>,
    (merged, placed): (&CachedStack, &Placed),
    moves: &Moves<'_>,
    inodes: &BTreeSet<Ino>,
) -> Result<()> {
    if inodes.is_empty() {
        return Ok(());
    }
    let sides = join.sides();
    let mut names: BTreeMap<Ino, (u32, BTreeSet<PathBuf>)> = BTreeMap::new();
    let mut regions = BTreeSet::new();
    for side in [Side::Stage, Side::Step] {
        regions.extend(hidden_places(&sides.scan(side).delta));
    }
    let mut walked: Option<&PathBuf> = None;
    for region in &regions {
        if walked.is_some_and(|above| region.starts_with(above)) {
            continue;
        }
        walked = Some(region);
        walk(&sides.base, region, &mut |path, found| {
            if inodes.contains(&found.attr.ino) {
                let known = names.entry(found.attr.ino);
                let (_, paths) = known.or_insert((found.attr.nlink, BTreeSet::new()));
                paths.insert(path.to_path_buf());
            }
            Ok(Visit::Enter)
        })?;
    }
    for (ino, (nlink, mut paths)) in names {
        if join.open().link_state(ino).is_some_and(|state| state.here) {
            continue; // Its names are found when the layer is sealed.
        }
        let before = u32::try_from(paths.len()).unwrap_or(u32::MAX);
        moves.follow(&mut paths);
        let mut left = 0;
        for path in paths.iter().filter(|path| !placed.hides(path)) {
            let found = merged.find(path)?;
            left += u32::from(found.is_some_and(|found| found.attr.ino == ino));
        }
        let layers = join.below().layers().iter().skip(sides.base.layers().len());
        let changes = layers.filter_map(|layer| layer.link_changes().get(&ino));
        let counted = changes.fold(i64::from(nlink), |sum, change| (sum + change).max(0));
        let counted = u32::try_from(counted).unwrap_or(u32::MAX);
        let truth = nlink.saturating_sub(before).saturating_add(left);
        recount(join, ino, (counted, truth), false)?;
    }
    Ok(())
}

/// The places in the base of which a side no longer shows the entry that is there.
fn hidden_places(delta: &Delta) -> impl Iterator<Item = PathBuf> {
    delta.iter().filter_map(|(path, entry)| {
        let hides = match &entry.change {
            Change::Deleted { was } => was.is_some(),
            Change::Present(_) => entry.change.was().is_some() && entry.change.severs(),
        };
        let parent = delta.origin(path.parent()?).filter(|_| hides)?;
        Some(parent.join(path.file_name()?))
    })
}
