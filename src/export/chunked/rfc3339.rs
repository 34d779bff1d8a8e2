//! Times as the TOC has them: RFC 3339, to the nanosecond.

use crate::tree::Time;

const DAY: i64 = 86_400;
/// Days from 0000-03-01 to 1970-01-01. Years that begin in March have their odd day last.
const EPOCH: i64 = 719_468;
/// Days of 400 years.
const ERA: i64 = 146_097;

/// A time in UTC; `None` for what has no four digits for its year.
pub fn format(time: Time) -> Option<String> {
    let days = time.sec.div_euclid(DAY) + EPOCH;
    let (era, day) = (days.div_euclid(ERA), days.rem_euclid(ERA));
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + later;
    if !(0..=9999).contains(&year) {
        return None;
    }
    let left = time.sec.rem_euclid(DAY);
    let (hour, minute, second) = (left / 3600, left / 60 % 60, left % 60);
    let fraction = format!(".{:09}", time.nsec);
    let fraction = fraction.trim_end_matches('0').trim_end_matches('.');
    Some(format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
    ))
}

fn digits(text: &str, most: i64) -> Option<i64> {
    let all = text.bytes().all(|byte| byte.is_ascii_digit());
    let number = text.parse().ok().filter(|number| *number <= most)?;
    all.then_some(number)
}

/// Reads one, in any time zone; `None` if it is none.
pub fn parse(text: &str) -> Option<Time> {
    // Also sees to it that bytes are characters.
    let text = text.is_ascii().then_some(text)?;
    let part = |from: usize, to: usize, most: i64| digits(text.get(from..to)?, most);
    let marks = [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")];
    if marks
        .iter()
        .any(|(at, mark)| text.get(*at..at + 1) != Some(*mark))
    {
        return None;
    }
    let (year, month, day) = (part(0, 4, 9999)?, part(5, 7, 12)?, part(8, 10, 31)?);
    let (hour, minute, second) = (part(11, 13, 23)?, part(14, 16, 59)?, part(17, 19, 59)?);
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("", rest),
    };
    if month == 0
        || day == 0
        || fraction.len() > 9
        || (rest.starts_with('.') && fraction.is_empty())
    {
        return None;
    }
    let nsec = format!("{fraction:0<9}").parse().ok()?;
    let offset = match zone {
        "Z" => 0,
        zone if zone.len() == 6 && zone.get(3..4) == Some(":") => {
            let minutes = digits(zone.get(1..3)?, 23)? * 60 + digits(zone.get(4..6)?, 59)?;
            match zone.get(..1)? {
                "+" => minutes * 60,
                "-" => -minutes * 60,
                _ => return None,
            }
        }
        _ => return None,
    };
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    let days = era * ERA + 365 * of_era + of_era / 4 - of_era / 100 + day_of_year - EPOCH;
    let sec = days * DAY + hour * 3600 + minute * 60 + second - offset;
    Some(Time { sec, nsec })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_those_of_date() {
        // date -u -d @SEC +%FT%TZ
        let table = [
            (0, 0, "1970-01-01T00:00:00Z"),
            (0, 1, "1970-01-01T00:00:00.000000001Z"),
            (951_782_400, 500_000_000, "2000-02-29T00:00:00.5Z"),
            (951_868_799, 0, "2000-02-29T23:59:59Z"),
            (951_868_800, 0, "2000-03-01T00:00:00Z"),
            (1_709_251_199, 0, "2024-02-29T23:59:59Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00Z"),
            (-1, 999_000_000, "1969-12-31T23:59:59.999Z"),
            (-62_135_596_800, 0, "0001-01-01T00:00:00Z"),
            (253_402_300_799, 0, "9999-12-31T23:59:59Z"),
        ];
        for (sec, nsec, text) in table {
            let time = Time { sec, nsec };
            assert_eq!(format(time).as_deref(), Some(text));
            assert_eq!(parse(text), Some(time), "{text}");
        }
        for sec in [
            253_402_300_800,
            1 << 40,
            -62_167_219_201,
            i64::MAX,
            i64::MIN,
        ] {
            assert_eq!(format(Time { sec, nsec: 0 }), None);
        }
    }

    #[test]
    fn a_zone_is_taken_into_account() {
        let noon = parse("2024-07-01T12:00:00Z");
        assert!(noon.is_some());
        assert_eq!(parse("2024-07-01T14:00:00+02:00"), noon);
        assert_eq!(parse("2024-07-01T06:30:00-05:30"), noon);
    }

    #[test]
    fn what_is_no_time_is_none() {
        let bad = [
            "",
            "2024-07-01",
            "2024-07-01T12:00:00",
            "2024-07-01 12:00:00Z",
            "2024-13-01T12:00:00Z",
            "2024-00-01T12:00:00Z",
            "2024-07-00T12:00:00Z",
            "2024-07-01T24:00:00Z",
            "2024-07-01T12:00:00.Z",
            "2024-07-01T12:00:00.1234567890Z",
            "2024-07-01T12:00:00.5",
            "+024-07-01T12:00:00Z",
            "2024-07-01T12:00:00+2:00",
            "2024-07-01T12:00:00*02:00",
            "2024-07-01T12:00:0\u{fc}Z",
        ];
        for text in bad {
            assert_eq!(parse(text), None, "{text}");
        }
    }
}
