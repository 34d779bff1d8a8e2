//! Locks that know their rank. In debug builds, and so in every test, a thread that takes one
//! while it holds one from further in panics: the deadlock need not happen to be found.

use std::fmt;
use std::ops::{Deref, DerefMut};

/// The ranks, from the outside in: with a lock of one, only locks of later ones may be taken. See
/// "Lock order" in docs/architecture.md.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rank {
    /// One operation on the stage at a time.
    StageLife,
    /// A file that is copied up. The copy takes as long as the content is long, so it comes before
    /// what every request needs.
    FileCopy,
    /// A view's layers.
    View,
    /// The names of a directory; those of another may follow, a parent's first.
    Names,
    /// A directory that is copied up.
    DirCopy,
    /// Blocks of a partial file that become its own.
    Blocks,
    /// Which files of an open layer are partial.
    Maps,
    /// What an open layer writes down: how many names its inodes have, then the journal of that.
    LinkStates,
    /// See [`Rank::LinkStates`].
    LinkJournal,
    /// What the stage knows of itself.
    StageState,
    /// What serves it at the moment, and the layers that are open.
    StageTables,
    /// What is known of an inode.
    Inode,
    /// What a view has noted of what was seen in it.
    Reads,
}

#[cfg(debug_assertions)]
impl Rank {
    /// Whether several may be held at once; which first, is then up to the caller.
    fn is_shared(self) -> bool {
        self == Rank::Names
    }
}

#[cfg(debug_assertions)]
mod held {
    use std::cell::RefCell;

    use super::Rank;

    /// The rank of a lock.
    pub(super) type Kept = Rank;

    pub(super) const fn keep(rank: Rank) -> Kept {
        rank
    }

    thread_local! {
        static HELD: RefCell<Vec<Rank>> = const { RefCell::new(Vec::new()) };
    }

    pub(super) fn check(rank: Rank) {
        HELD.with_borrow(|held| {
            let innermost = held.iter().max();
            let in_order =
                innermost.is_none_or(|held| *held < rank || (*held == rank && rank.is_shared()));
            assert!(
                in_order,
                "lock order: {rank:?} is taken while {held:?} are held"
            );
        });
    }

    pub(super) fn enter(rank: Rank) {
        HELD.with_borrow_mut(|held| held.push(rank));
    }

    pub(super) fn leave(rank: Rank) {
        HELD.with_borrow_mut(|held| {
            if let Some(index) = held.iter().rposition(|one| *one == rank) {
                held.swap_remove(index);
            }
        });
    }
}

#[cfg(not(debug_assertions))]
mod held {
    use super::Rank;

    /// Nobody asks for it, so it takes no room: there are millions of locks.
    pub(super) type Kept = ();

    pub(super) const fn keep(_: Rank) -> Kept {}
    pub(super) fn check((): Kept) {}
    pub(super) fn enter((): Kept) {}
    pub(super) fn leave((): Kept) {}
}

/// A guard of one of the locks. Not `Send`, as those of `parking_lot` are not, so it ends on the
/// thread that began it.
pub struct Held<G> {
    rank: held::Kept,
    guard: G,
}

impl<G> Held<G> {
    fn new(rank: held::Kept, lock: impl FnOnce() -> G) -> Held<G> {
        held::check(rank);
        let guard = lock();
        held::enter(rank);
        Held { rank, guard }
    }
}

impl<G> Drop for Held<G> {
    fn drop(&mut self) {
        held::leave(self.rank);
    }
}

impl<G: Deref> Deref for Held<G> {
    type Target = G::Target;

    fn deref(&self) -> &G::Target {
        &self.guard
    }
}

impl<G: DerefMut> DerefMut for Held<G> {
    fn deref_mut(&mut self) -> &mut G::Target {
        &mut self.guard
    }
}

/// A [`parking_lot::Mutex`] with a rank.
pub struct Mutex<T> {
    rank: held::Kept,
    inner: parking_lot::Mutex<T>,
}

/// What [`Mutex::lock`] gives.
pub type MutexGuard<'a, T> = Held<parking_lot::MutexGuard<'a, T>>;

impl<T> Mutex<T> {
    /// A lock of this rank.
    pub const fn new(rank: Rank, value: T) -> Mutex<T> {
        let inner = parking_lot::Mutex::new(value);
        let rank = held::keep(rank);
        Mutex { rank, inner }
    }

    /// Waits for the lock.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        Held::new(self.rank, || self.inner.lock())
    }

    /// Whether somebody holds it just now. Taken in any order: it does not wait.
    pub fn is_locked(&self) -> bool {
        self.inner.is_locked()
    }
}

impl<T: fmt::Debug> fmt::Debug for Mutex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

/// A [`parking_lot::RwLock`] with a rank.
pub struct RwLock<T> {
    rank: held::Kept,
    inner: parking_lot::RwLock<T>,
}

/// What [`RwLock::read`] gives.
pub type ReadGuard<'a, T> = Held<parking_lot::RwLockReadGuard<'a, T>>;
/// What [`RwLock::write`] gives.
pub type WriteGuard<'a, T> = Held<parking_lot::RwLockWriteGuard<'a, T>>;

impl<T> RwLock<T> {
    /// A lock of this rank.
    pub const fn new(rank: Rank, value: T) -> RwLock<T> {
        let inner = parking_lot::RwLock::new(value);
        let rank = held::keep(rank);
        RwLock { rank, inner }
    }

    /// Waits for a shared lock. Not twice on one thread: a writer that comes in between has both
    /// wait for ever.
    pub fn read(&self) -> ReadGuard<'_, T> {
        Held::new(self.rank, || self.inner.read())
    }

    /// Waits for the lock.
    pub fn write(&self) -> WriteGuard<'_, T> {
        Held::new(self.rank, || self.inner.write())
    }
}

impl<T: fmt::Debug> fmt::Debug for RwLock<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn from_the_outside_in() {
        let (view, names, other) = (
            RwLock::new(Rank::View, 1),
            RwLock::new(Rank::Names, ()),
            RwLock::new(Rank::Names, ()),
        );
        let first = view.read();
        let second = names.write();
        drop(other.read());
        drop(first);
        drop(second);
        drop(view.write());
    }

    #[test]
    #[should_panic(expected = "lock order: View is taken while [Names] are held")]
    fn not_from_the_inside_out() {
        let (view, names) = (RwLock::new(Rank::View, ()), RwLock::new(Rank::Names, ()));
        let _inner = names.read();
        let _outer = view.read();
    }

    #[test]
    #[should_panic(expected = "lock order")]
    fn not_twice() {
        let state = Mutex::new(Rank::StageState, ());
        let other = Mutex::new(Rank::StageState, ());
        let _one = state.lock();
        let _two = other.lock();
    }
}
