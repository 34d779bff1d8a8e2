//! Options that several commands share.

use std::path::PathBuf;
use std::time::Duration;

use clap::builder::PossibleValuesParser;
use clap::builder::TypedValueParser;

use crate::merge::{Policies, Policy, SharingMode};
use crate::stage::PolicyRule;

/// Reads a policy's name; the help lists all of them.
pub fn parser() -> impl TypedValueParser<Value = Policy> {
    PossibleValuesParser::new(Policy::ALL.map(Policy::as_str))
        .try_map(|name| name.parse::<Policy>())
}

/// Reads `GLOB=POLICY`, a rule of `mount --policy`.
///
/// # Errors
/// What is wrong with it.
pub fn rule(text: &str) -> Result<PolicyRule, String> {
    let (pattern, policy) = text
        .rsplit_once('=')
        .ok_or("not GLOB=POLICY, such as reports/**=keep-both")?;
    let policy = policy
        .parse::<Policy>()
        .map_err(|error| error.to_string())?;
    Policies::new(Vec::new())
        .rule(pattern, policy)
        .map_err(|error| error.to_string())?;
    Ok(PolicyRule {
        pattern: pattern.to_owned(),
        policy,
    })
}

/// Reads `PATH=MODE`, of `mount --sharing`.
///
/// # Errors
/// What is wrong with it.
pub fn sharing(text: &str) -> Result<(PathBuf, SharingMode), String> {
    let (path, mode) = text
        .rsplit_once('=')
        .ok_or("not PATH=MODE, such as /root/.npm=shared")?;
    let mode = mode.parse::<SharingMode>();
    Ok((path.into(), mode.map_err(|error| error.to_string())?))
}

/// Milliseconds, as they are sent.
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Reads `10s`, `1m 30s`, or a plain number of seconds.
///
/// # Errors
/// What is wrong with it.
pub fn duration(text: &str) -> Result<Duration, String> {
    if let Ok(seconds) = text.parse::<u32>() {
        return Ok(Duration::from_secs(seconds.into()));
    }
    let parsed = humantime::parse_duration(text);
    let duration = parsed.map_err(|error| format!("{error}; such as 10s or 2m"))?;
    // Far beyond any step, and small enough to be added to a moment.
    if duration > Duration::from_secs(10 * 365 * 86_400) {
        return Err("longer than ten years".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_sign_parts_path_and_mode() {
        let read = |text| sharing(text).map(|(path, mode)| (path, mode.as_str()));
        assert_eq!(read("/a=b=locked"), Ok(("/a=b".into(), "locked")));
        assert!(read("/root/.npm").unwrap_err().contains("not PATH=MODE"));
        let unknown = read("/root/.npm=exclusive").unwrap_err();
        assert!(unknown.contains("one of merge, shared"), "{unknown}");
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("10s"), Ok(Duration::from_secs(10)));
        assert_eq!(duration("1m 30s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("5"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        for bad in ["", "-1s", "soon", "10 y 1 q", "900y"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
