//! Random operations. They name directories and inodes by numbers that are taken modulo what is
//! there when they run, so that every sequence makes sense and a shorter one still does.

use harness_fs::view::{RenameMode, SetXattr};
use proptest::prelude::*;

/// A directory, and a name in it: below 170 one that is there, else any.
#[derive(Clone, Copy, Debug)]
pub struct Spot {
    pub dir: u8,
    pub name: u8,
}

#[derive(Clone, Copy, Debug)]
pub enum Change {
    Perm(u32),
    Owner(u32, u32),
    Times(i32),
}

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Lookup(Spot),
    Create(Spot, u32, bool),
    Mkdir(Spot, u32),
    /// A FIFO, a socket, a device, or a 0:0 device, which is a whiteout's look.
    Mknod(Spot, u8),
    Symlink(Spot),
    Link(u8, Spot),
    Unlink(Spot),
    Rmdir(Spot),
    Rename(Spot, Spot, RenameMode),
    Open {
        file: u8,
        write: bool,
        empty: bool,
        unprivileged: bool,
    },
    Write {
        handle: u8,
        offset: u16,
        length: u16,
        unprivileged: bool,
    },
    Read {
        handle: u8,
        offset: u16,
        length: u16,
    },
    Truncate {
        file: u8,
        size: u16,
        unprivileged: bool,
    },
    Release(u8),
    Getattr(u8),
    Setattr(u8, Change),
    SetXattr(u8, u8, u8, SetXattr),
    RemoveXattr(u8, u8),
    /// Lists some names and goes on later.
    List {
        dir: u8,
        count: u8,
        plus: bool,
    },
    GoOn {
        cursor: u8,
        count: u8,
        plus: bool,
    },
    Forget(u8),
    ForgetAll,
    Statfs,
    /// Closes the view and takes its open layer up again; `released` or as after a crash.
    Remount {
        released: bool,
    },
    Seal {
        released: bool,
    },
    /// Seals under the feet of all handles.
    LiveSeal,
    /// From here on a step does it, up to the merge.
    Begin,
    Merge,
    Snapshot,
    Restore(u8),
    Check,
}

fn spot() -> impl Strategy<Value = Spot> {
    (any::<u8>(), any::<u8>()).prop_map(|(dir, name)| Spot { dir, name })
}

/// A name that is more likely to be free.
fn fresh() -> impl Strategy<Value = Spot> {
    (any::<u8>(), 140..=255_u8).prop_map(|(dir, name)| Spot { dir, name })
}

fn mode() -> impl Strategy<Value = RenameMode> {
    prop_oneof![
        4 => Just(RenameMode::Replace),
        1 => Just(RenameMode::NoReplace),
        2 => Just(RenameMode::Exchange),
    ]
}

fn how() -> impl Strategy<Value = SetXattr> {
    prop_oneof![
        3 => Just(SetXattr::Any),
        1 => Just(SetXattr::Create),
        1 => Just(SetXattr::Replace),
    ]
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        prop_oneof![
            Just(0o600),
            Just(0o644),
            Just(0o755),
            Just(0o4755),
            Just(0o2755),
            Just(0o2775)
        ]
        .prop_map(Change::Perm),
        (0..3_u32, 0..3_u32).prop_map(|(uid, gid)| Change::Owner(uid * 500, gid * 500)),
        any::<i32>().prop_map(Change::Times),
    ]
}

fn size() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), 1..50_u16, Just(5000)]
}

pub fn op() -> impl Strategy<Value = Op> {
    let names = prop_oneof![
        2 => spot().prop_map(Op::Lookup),
        4 => (fresh(), prop_oneof![Just(0o644), Just(0o666), Just(0o755)], any::<bool>())
            .prop_map(|(spot, mode, write)| Op::Create(spot, mode, write)),
        4 => (fresh(), prop_oneof![Just(0o755), Just(0o1777)])
            .prop_map(|(spot, mode)| Op::Mkdir(spot, mode)),
        1 => (fresh(), 0..4_u8).prop_map(|(spot, kind)| Op::Mknod(spot, kind)),
        1 => fresh().prop_map(Op::Symlink),
        4 => (any::<u8>(), fresh()).prop_map(|(of, spot)| Op::Link(of, spot)),
        6 => spot().prop_map(Op::Unlink),
        4 => spot().prop_map(Op::Rmdir),
        10 => (spot(), spot(), mode()).prop_map(|(from, to, mode)| Op::Rename(from, to, mode)),
    ];
    let files = prop_oneof![
        5 => (any::<u8>(), any::<bool>(), prop::bool::weighted(0.2), any::<bool>()).prop_map(
            |(file, write, empty, unprivileged)| Op::Open { file, write, empty, unprivileged }
        ),
        5 => (any::<u8>(), size(), 1..60_u16, any::<bool>()).prop_map(
            |(handle, offset, length, unprivileged)| Op::Write {
                handle,
                offset,
                length,
                unprivileged,
            }
        ),
        2 => (any::<u8>(), size(), size())
            .prop_map(|(handle, offset, length)| Op::Read { handle, offset, length }),
        2 => (any::<u8>(), size(), any::<bool>())
            .prop_map(|(file, size, unprivileged)| Op::Truncate { file, size, unprivileged }),
        2 => any::<u8>().prop_map(Op::Release),
        1 => any::<u8>().prop_map(Op::Getattr),
        4 => (any::<u8>(), change()).prop_map(|(id, change)| Op::Setattr(id, change)),
        3 => (any::<u8>(), any::<u8>(), any::<u8>(), how())
            .prop_map(|(id, name, value, how)| Op::SetXattr(id, name, value, how)),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(id, name)| Op::RemoveXattr(id, name)),
    ];
    let rest = prop_oneof![
        2 => (any::<u8>(), 1..5_u8, any::<bool>())
            .prop_map(|(dir, count, plus)| Op::List { dir, count, plus }),
        2 => (any::<u8>(), 1..5_u8, any::<bool>())
            .prop_map(|(cursor, count, plus)| Op::GoOn { cursor, count, plus }),
        3 => any::<u8>().prop_map(Op::Forget),
        1 => Just(Op::ForgetAll),
        1 => Just(Op::Statfs),
        2 => any::<bool>().prop_map(|released| Op::Remount { released }),
        3 => any::<bool>().prop_map(|released| Op::Seal { released }),
        4 => Just(Op::LiveSeal),
        3 => Just(Op::Begin),
        6 => Just(Op::Merge),
        2 => Just(Op::Snapshot),
        2 => any::<u8>().prop_map(Op::Restore),
        2 => Just(Op::Check),
    ];
    prop_oneof![10 => names, 8 => files, 4 => rest]
}
