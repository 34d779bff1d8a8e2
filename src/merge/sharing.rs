//! How the steps of a stage share a path.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// How steps share a shared path. The words are BuildKit's (`RUN --mount=type=cache,sharing=`),
/// with `merge` beside them.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum SharingMode {
    /// Each step has its own view, and its changes are merged, as in the workspace.
    #[default]
    Merge,
    /// All steps have the stage's own view, live; nothing there is in a layer of a step.
    Shared,
    /// Each step has its own view, and its changes are dropped when it ends.
    Private,
    /// As `shared`, one step at a time.
    Locked,
}

impl SharingMode {
    /// All modes, for help texts.
    pub const ALL: [SharingMode; 4] = [
        SharingMode::Merge,
        SharingMode::Shared,
        SharingMode::Private,
        SharingMode::Locked,
    ];

    /// The name that users write.
    pub fn as_str(self) -> &'static str {
        match self {
            SharingMode::Merge => "merge",
            SharingMode::Shared => "shared",
            SharingMode::Private => "private",
            SharingMode::Locked => "locked",
        }
    }

    /// Whether steps see the stage's own view, not one of their own.
    pub fn is_live(self) -> bool {
        matches!(self, SharingMode::Shared | SharingMode::Locked)
    }
}

impl fmt::Display for SharingMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for SharingMode {
    type Err = UnknownMode;

    fn from_str(name: &str) -> Result<SharingMode, UnknownMode> {
        let known = SharingMode::ALL
            .into_iter()
            .find(|mode| mode.as_str() == name);
        known.ok_or_else(|| UnknownMode(name.to_owned()))
    }
}

/// No mode has this name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownMode(pub String);

impl fmt::Display for UnknownMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = SharingMode::ALL.map(SharingMode::as_str).join(", ");
        write!(f, "unknown sharing mode '{}': it is one of {known}", self.0)
    }
}

impl std::error::Error for UnknownMode {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_programs_and_files_say_the_same_words() {
        for mode in SharingMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
            let json = format!("\"{mode}\"");
            assert_eq!(serde_json::to_string(&mode).unwrap(), json);
            assert_eq!(serde_json::from_str::<SharingMode>(&json).unwrap(), mode);
        }
        let error = "exclusive".parse::<SharingMode>().unwrap_err();
        let said = "unknown sharing mode 'exclusive': it is one of merge, shared, private, locked";
        assert_eq!(error.to_string(), said);
    }
}
