//! Dates as JavaScript's `JSON.stringify` writes them. Pure.

use crate::msgpack::DecodeError;

/// The largest distance from the epoch that a JavaScript date can have, in ms.
const MAX_MS: i64 = 8_640_000_000_000_000;
const MS_PER_DAY: i64 = 86_400_000;

/// The JSON of a MessagePack timestamp (extension type -1): the text of a date
/// with its quotes, or `null` for one that JavaScript calls invalid.
pub(crate) fn json_of_timestamp(data: &[u8]) -> Result<String, DecodeError> {
    let (seconds, nanoseconds) = match *data {
        [a, b, c, d] => (i64::from(u32::from_be_bytes([a, b, c, d])), 0),
        [a, b, c, d, e, f, g, h] => {
            let both = u64::from_be_bytes([a, b, c, d, e, f, g, h]);
            ((both & 0x3_ffff_ffff) as i64, (both >> 34) as i64)
        }
        [n0, n1, n2, n3, a, b, c, d, e, f, g, h] => (
            i64::from_be_bytes([a, b, c, d, e, f, g, h]),
            i64::from(u32::from_be_bytes([n0, n1, n2, n3])),
        ),
        _ => return Err(DecodeError::Unexpected("a timestamp")),
    };
    let ms = seconds
        .checked_mul(1000)
        .and_then(|ms| ms.checked_add(nanoseconds / 1_000_000));
    Ok(match ms {
        Some(ms) if ms.abs() <= MAX_MS => format!("\"{}\"", iso(ms)),
        _ => "null".to_owned(),
    })
}

/// `Date.prototype.toString` of a time in ms since the epoch, where the time zone is UTC.
pub(crate) fn words(ms: i64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let days = ms.div_euclid(MS_PER_DAY);
    let (year, month, day) = civil(days);
    // The epoch was a Thursday.
    let weekday = DAYS[days.rem_euclid(7) as usize];
    let month = MONTHS[(month - 1) as usize];
    let rest = ms.rem_euclid(MS_PER_DAY);
    let (hour, minute, second) = (rest / 3_600_000, rest / 60_000 % 60, rest / 1000 % 60);
    format!(
        "{weekday} {month} {day:02} {year:04} {hour:02}:{minute:02}:{second:02} GMT+0000 (Coordinated Universal Time)"
    )
}

/// `Date.prototype.toISOString` of a time in ms since the epoch.
fn iso(ms: i64) -> String {
    let (year, month, day) = civil(ms.div_euclid(MS_PER_DAY));
    let rest = ms.rem_euclid(MS_PER_DAY);
    let (hour, minute) = (rest / 3_600_000, rest / 60_000 % 60);
    let (second, milli) = (rest / 1000 % 60, rest % 1000);
    let year = match year {
        0..=9999 => format!("{year:04}"),
        _ => format!("{year:+07}"),
    };
    format!("{year}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a day counted from 1970-01-01 in the Gregorian calendar.
fn civil(day: i64) -> (i64, i64, i64) {
    // Count from 0000-03-01: then the leap day is the last of its year, and 400
    // years of the calendar have always the same 146,097 days.
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let in_era = day.rem_euclid(146_097);
    let year = (in_era - in_era / 1_460 + in_era / 36_524 - in_era / 146_096) / 365;
    let in_year = in_era - (365 * year + year / 4 - year / 100);
    // From March on, five months have always 153 days.
    let from_march = (5 * in_year + 2) / 153;
    let day = in_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = year + era * 400 + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_written_as_javascript_writes_them() {
        // Made with `new Date(ms).toISOString()`.
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_311_664_056, "2026-11-22T01:41:04.056Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
            (-62_198_755_200_000, "-000001-01-01T00:00:00.000Z"),
            (MAX_MS, "+275760-09-13T00:00:00.000Z"),
            (-MAX_MS, "-271821-04-20T00:00:00.000Z"),
        ];
        for (ms, text) in table {
            assert_eq!(iso(ms), text);
        }
    }

    #[test]
    fn the_three_lengths_are_read_and_others_refused() {
        let moment = "\"1970-01-01T00:00:01.500Z\"";
        assert_eq!(
            json_of_timestamp(&[0, 0, 0, 1]).unwrap(),
            "\"1970-01-01T00:00:01.000Z\""
        );
        let short = (500_000_000u64 << 34 | 1).to_be_bytes();
        assert_eq!(json_of_timestamp(&short).unwrap(), moment);
        let mut long = 500_000_000u32.to_be_bytes().to_vec();
        long.extend(1i64.to_be_bytes());
        assert_eq!(json_of_timestamp(&long).unwrap(), moment);
        let mut far = vec![0; 4];
        far.extend(i64::MAX.to_be_bytes());
        assert_eq!(json_of_timestamp(&far).unwrap(), "null");
        assert!(json_of_timestamp(&[1]).is_err());
    }
}
