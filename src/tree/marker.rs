//! The markers of a layer on disk: names and rules of `overlayfs.rst`
//! ("whiteouts and opaque directories", "redirect_dir", "metadata only copy
//! up"), and our own.

/// Set to `y` on a directory that hides what lies below it; to `x` on one that
/// may hold xattr whiteouts.
pub const OPAQUE: &str = "trusted.overlay.opaque";
/// Where below a renamed directory or a metadata copy has its origin.
pub const REDIRECT: &str = "trusted.overlay.redirect";
/// Set on a file of which only the metadata was copied up.
pub const METACOPY: &str = "trusted.overlay.metacopy";
/// Set on an empty file that is a whiteout (6.7+).
pub const XWHITEOUT: &str = "trusted.overlay.whiteout";
/// The stage's inode number of an entry, as decimal text.
pub const INO: &str = "trusted.harness.ino";
/// Set on an empty file that stands for a user's own 0:0 character device.
pub const NULL_DEVICE: &str = "trusted.harness.device";
/// The `security.capability` of a partial file, for as long as it is being completed.
pub const CAPABILITY: &str = "trusted.harness.capability";
/// Set on the root of an overlay's upper directory while it is mounted.
pub const IN_USE: &str = "trusted.harness.overlay";

/// The longest path a redirect may hold, in bytes: a disk's attributes share one
/// block (ext4: 4 KiB with all others of the inode).
pub const REDIRECT_MAX: usize = 2048;

/// Every name the kernel's overlayfs claims begins so.
pub const OVERLAY_PREFIX: &str = "trusted.overlay.";
/// A user's own `trusted.overlay.x` is stored under this prefix, as the kernel
/// does it (`OVL_XATTR_ESCAPE_PREFIX`).
pub const OVERLAY_ESCAPED: &str = "trusted.overlay.overlay.";
/// Every name of ours begins so.
pub const HARNESS_PREFIX: &str = "trusted.harness.";

/// The markers found on one entry of a layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Marks {
    /// The directory hides whatever lies below it.
    pub opaque: bool,
    /// The entry continues below at this path, not at its own; relative to the
    /// layer's root, so its first component is a mapped path's index.
    pub redirect: Option<std::path::PathBuf>,
    /// Below, the entry has this name, in the directory that it lies in: a
    /// relative redirect, as the kernel writes it.
    pub renamed: Option<std::ffi::OsString>,
    /// Only metadata is here, the content lies below.
    pub metacopy: bool,
}

/// What a user's extended attribute is called inside a layer, or `None` where
/// users may not have that name at all.
pub fn xattr_to_layer(name: &str) -> Option<std::borrow::Cow<'_, str>> {
    if name.starts_with(HARNESS_PREFIX) {
        None
    } else if let Some(rest) = name.strip_prefix(OVERLAY_PREFIX) {
        Some(format!("{OVERLAY_ESCAPED}{rest}").into())
    } else {
        Some(name.into())
    }
}

/// The reverse of [`xattr_to_layer`]: what an attribute found in a layer is
/// called in a view, or `None` where it is a marker and not shown.
pub fn xattr_from_layer(name: &str) -> Option<std::borrow::Cow<'_, str>> {
    if name.starts_with(HARNESS_PREFIX) {
        None
    } else if let Some(rest) = name.strip_prefix(OVERLAY_ESCAPED) {
        Some(format!("{OVERLAY_PREFIX}{rest}").into())
    } else if name.starts_with(OVERLAY_PREFIX) {
        None
    } else {
        Some(name.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_users_overlay_attribute_survives_the_round_trip() {
        let inside = xattr_to_layer("trusted.overlay.opaque").expect("allowed");
        assert_eq!(inside, "trusted.overlay.overlay.opaque");
        assert_eq!(
            xattr_from_layer(&inside).as_deref(),
            Some("trusted.overlay.opaque")
        );
        assert_eq!(xattr_from_layer(OPAQUE), None);
        assert_eq!(xattr_to_layer("trusted.harness.ino"), None);
        assert_eq!(xattr_from_layer("user.x").as_deref(), Some("user.x"));
    }
}
