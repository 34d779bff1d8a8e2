//! Numbers for files that carry none: made from the disk's own.

use std::sync::Arc;

use dashmap::DashMap;

use super::Inos;
use crate::tree::Ino;

/// The index of the disk that an overlay's upper directory lies on. Those of lower directories
/// are smaller, also on the same disk, so that no two files have one number.
const UPPER: u64 = 15;

/// Tells the files of some directories by where they lie on disk.
///
/// A number is good as long as nothing that lies there is replaced: for a layer that nobody
/// writes, and for what was in the upper directory before anybody wrote there.
#[derive(Debug)]
pub struct DiskNumbers {
    inos: Arc<Inos>,
    first: u64,
    devices: Vec<u64>,
    /// Numbers of files whose own number does not fit (device, number).
    odd: DashMap<(u64, u64), Ino>,
}

impl DiskNumbers {
    /// For lower directories that lie on these disks.
    pub fn of_lower(inos: Arc<Inos>, devices: impl IntoIterator<Item = u64>) -> DiskNumbers {
        let mut known = Vec::new();
        for device in devices {
            if !known.contains(&device) {
                known.push(device);
            }
        }
        known.truncate(usize::try_from(UPPER - 1).unwrap_or_default());
        DiskNumbers::new(inos, 1, known)
    }

    /// For an upper directory that lies on this disk.
    pub fn of_upper(inos: Arc<Inos>, device: u64) -> DiskNumbers {
        DiskNumbers::new(inos, UPPER, vec![device])
    }

    fn new(inos: Arc<Inos>, first: u64, devices: Vec<u64>) -> DiskNumbers {
        DiskNumbers {
            inos,
            first,
            devices,
            odd: DashMap::new(),
        }
    }

    /// The number of a file.
    pub fn of(&self, device: u64, number: u64) -> Ino {
        let index = self.devices.iter().position(|known| *known == device);
        index
            .and_then(|index| Inos::of_base(self.first + index as u64, number))
            .unwrap_or_else(|| {
                *self
                    .odd
                    .entry((device, number))
                    .or_insert_with(|| self.inos.allocate())
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_files_have_one_number() {
        let inos = Arc::new(Inos::new(1));
        let lower = DiskNumbers::of_lower(inos.clone(), [7, 9, 7]);
        let upper = DiskNumbers::of_upper(inos, 7);
        let files = [(7, 1), (7, 2), (9, 1), (11, 1), (7, 1 << 50)];
        let mut seen = std::collections::HashSet::new();
        for (device, number) in files {
            assert!(seen.insert(lower.of(device, number)));
            assert!(seen.insert(upper.of(device, number)));
            assert_eq!(lower.of(device, number), lower.of(device, number));
        }
    }
}
