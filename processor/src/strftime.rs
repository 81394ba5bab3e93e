use std::fmt::Write;

use tz::{DateTime, LocalTimeType, TimeZone};

const DAYS: [&str; 7] = [
    "Sunday",
    "Monday",
    "Tuesday",
    "Wednesday",
    "Thursday",
    "Friday",
    "Saturday",
];

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// Now, where this machine is; by `TZ`, else by the system's setting, else in UTC.
pub(crate) fn local_time() -> DateTime {
    let zone = match std::env::var("TZ") {
        Ok(name) => TimeZone::from_posix_tz(&name),
        Err(_) => TimeZone::local(),
    };
    let zone = zone.unwrap_or_else(|_| TimeZone::utc());
    DateTime::now(zone.as_ref()).unwrap_or_else(|_| start_of_time())
}

/// What a clock that cannot be read says.
fn start_of_time() -> DateTime {
    const START: DateTime = match DateTime::from_timespec_and_local(0, 0, LocalTimeType::utc()) {
        Ok(start) => start,
        Err(_) => panic!("1970 is a year"),
    };
    START
}

/// The time in a format of Python's `strftime` with English names, as it is on Linux: `%-d` has no zero in front, `%_d` a
/// blank. `None` for a format that is none.
pub(crate) fn strftime(time: &DateTime, format: &str) -> Option<String> {
    let (mut text, mut rest) = (String::new(), format);
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        let mut letters = after.chars();
        let mut letter = letters.next()?;
        let padding = match letter {
            '-' | '_' | '0' => Some(letter),
            _ => None,
        };
        if padding.is_some() {
            letter = letters.next()?;
        }
        match Field::of(time, letter)? {
            Field::Text(field) => text.push_str(&field),
            Field::Number(number, width, usual) => {
                push_number(&mut text, number, width, padding.unwrap_or(usual))
            }
        }
        rest = letters.as_str();
    }
    text.push_str(rest);
    Some(text)
}

/// What a letter stands for.
enum Field {
    Text(String),
    /// A number, its least width, and how it is filled up: `0` or `_`.
    Number(i32, usize, char),
}

impl Field {
    fn of(time: &DateTime, letter: char) -> Option<Self> {
        let zeros = |number, width| Some(Self::Number(number, width, '0'));
        let blanks = |number| Some(Self::Number(number, 2, '_'));
        let short = |name: &str| Some(Self::Text(name.chars().take(3).collect()));
        let text = |text: &str| Some(Self::Text(text.to_owned()));
        let like = |format| strftime(time, format).map(Self::Text);
        let (week_day, year_day) = (i32::from(time.week_day()), i32::from(time.year_day()));
        let hour = i32::from(time.hour());
        let of_twelve = (hour + 11) % 12 + 1;
        // Monday is 1.
        let iso_day = (week_day + 6) % 7 + 1;
        match letter {
            'a' => short(DAYS[usize::from(time.week_day())]),
            'A' => text(DAYS[usize::from(time.week_day())]),
            'b' | 'h' => short(MONTHS[usize::from(time.month()) - 1]),
            'B' => text(MONTHS[usize::from(time.month()) - 1]),
            'c' => like("%a %b %e %H:%M:%S %Y"),
            'C' => zeros(time.year().div_euclid(100), 2),
            'd' => zeros(i32::from(time.month_day()), 2),
            'D' | 'x' => like("%m/%d/%y"),
            'e' => blanks(i32::from(time.month_day())),
            'f' => zeros(i32::try_from(time.nanoseconds() / 1000).unwrap_or(0), 6),
            'F' => like("%Y-%m-%d"),
            'g' => zeros(iso_week(time, iso_day).0.rem_euclid(100), 2),
            'G' => zeros(iso_week(time, iso_day).0, 4),
            'H' => zeros(hour, 2),
            'I' => zeros(of_twelve, 2),
            'j' => zeros(year_day + 1, 3),
            'k' => blanks(hour),
            'l' => blanks(of_twelve),
            'm' => zeros(i32::from(time.month()), 2),
            'M' => zeros(i32::from(time.minute()), 2),
            'n' => text("\n"),
            'p' => text(if hour < 12 { "AM" } else { "PM" }),
            'r' => like("%I:%M:%S %p"),
            'R' => like("%H:%M"),
            's' => Some(Self::Text(time.unix_time().to_string())),
            'S' => zeros(i32::from(time.second()), 2),
            't' => text("\t"),
            'T' | 'X' => like("%H:%M:%S"),
            'u' => zeros(iso_day, 1),
            'U' => zeros((year_day + 7 - week_day) / 7, 2),
            'V' => zeros(iso_week(time, iso_day).1, 2),
            'w' => zeros(week_day, 1),
            'W' => zeros((year_day + 8 - iso_day) / 7, 2),
            'y' => zeros(time.year().rem_euclid(100), 2),
            'Y' => zeros(time.year(), 1),
            'z' => Some(Self::Text(offset(time.local_time_type().ut_offset()))),
            'Z' => text(time.local_time_type().time_zone_designation()),
            '%' => text("%"),
            _ => None,
        }
    }
}

fn push_number(text: &mut String, number: i32, width: usize, padding: char) {
    // Writing to a string cannot fail.
    let _ = match padding {
        '-' => write!(text, "{number}"),
        '_' => write!(text, "{number:width$}"),
        _ => write!(text, "{number:0width$}"),
    };
}

/// Hours and minutes from UTC, such as `+0130`.
fn offset(seconds: i32) -> String {
    let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
    format!("{sign}{:02}{:02}", minutes / 60, minutes % 60)
}

/// Year and week of ISO 8601: weeks begin on Monday, and the first has the year's first Thursday.
fn iso_week(time: &DateTime, iso_day: i32) -> (i32, i32) {
    let year = time.year();
    match (i32::from(time.year_day()) + 1 - iso_day + 10) / 7 {
        0 => (year - 1, weeks(year - 1)),
        week if week > weeks(year) => (year + 1, 1),
        week => (year, week),
    }
}

/// Weeks that a year has: 53 where it ends on a Thursday, or on a Friday after a leap day.
fn weeks(year: i32) -> i32 {
    let last_day =
        |year: i32| (year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400)).rem_euclid(7);
    if last_day(year) == 4 || last_day(year - 1) == 3 {
        53
    } else {
        52
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every letter that Python's `strftime` gives the same on every run.
    const ALL: &str = "%a|%A|%b|%B|%h|%c|%C|%d|%D|%e|%f|%F|%g|%G|%H|%I|%j|%k|%l|%m|%M|%p|%r|%R|%S|%T|%u|%U|%V|%w|%W|%x|%X|\
        %y|%Y|%z|%%|%-d|%-m|%-H|%-I|%_d|%-j";

    fn time(date: (i32, u8, u8), clock: (u8, u8, u8), nanoseconds: u32, zone: LocalTimeType) -> DateTime {
        let utc =
            tz::UtcDateTime::new(date.0, date.1, date.2, clock.0, clock.1, clock.2, nanoseconds).unwrap();
        let local = utc.unix_time() - i64::from(zone.ut_offset());
        DateTime::from_timespec_and_local(local, nanoseconds, zone).unwrap()
    }

    #[test]
    fn fields_are_those_of_python() {
        let newfoundland = LocalTimeType::new(-12_600, false, Some(b"NST")).unwrap();
        let utc = LocalTimeType::utc();
        for (time, expected) in [
            (
                time((2026, 11, 8), (9, 5, 7), 123_456_789, newfoundland),
                "Sun|Sunday|Nov|November|Nov|Sun Nov  8 09:05:07 2026|20|08|11/08/26| 8|123456|2026-11-08|26|2026|09|09|312| 9| 9|11|05|AM|09:05:07 AM|09:05|07|09:05:07|7|45|45|0|44|11/08/26|09:05:07|26|2026|-0330|%|8|11|9|9| 8|312",
            ),
            (
                time((2027, 1, 1), (0, 0, 0), 0, utc),
                "Fri|Friday|Jan|January|Jan|Fri Jan  1 00:00:00 2027|20|01|01/01/27| 1|000000|2027-01-01|26|2026|00|12|001| 0|12|01|00|AM|12:00:00 AM|00:00|00|00:00:00|5|00|53|5|00|01/01/27|00:00:00|27|2027|+0000|%|1|1|0|12| 1|1",
            ),
            (
                time((2024, 12, 30), (12, 59, 59), 0, utc),
                "Mon|Monday|Dec|December|Dec|Mon Dec 30 12:59:59 2024|20|30|12/30/24|30|000000|2024-12-30|25|2025|12|12|365|12|12|12|59|PM|12:59:59 PM|12:59|59|12:59:59|1|52|01|1|53|12/30/24|12:59:59|24|2024|+0000|%|30|12|12|12|30|365",
            ),
            (
                time((2023, 1, 1), (23, 0, 0), 0, utc),
                "Sun|Sunday|Jan|January|Jan|Sun Jan  1 23:00:00 2023|20|01|01/01/23| 1|000000|2023-01-01|22|2022|23|11|001|23|11|01|00|PM|11:00:00 PM|23:00|00|23:00:00|7|01|52|0|00|01/01/23|23:00:00|23|2023|+0000|%|1|1|23|11| 1|1",
            ),
        ] {
            assert_eq!(strftime(&time, ALL).unwrap(), expected);
        }
        let time = time((2026, 11, 8), (9, 5, 7), 0, newfoundland);
        assert_eq!(strftime(&time, "am %-d. %B, %Z").unwrap(), "am 8. November, NST");
    }

    #[test]
    fn what_is_no_format_is_refused() {
        let time = start_of_time();
        for format in ["%!", "%", "100 %", "%-", "%é"] {
            assert_eq!(strftime(&time, format), None, "{format}");
        }
        assert_eq!(strftime(&time, "é%%%s").unwrap(), "é%0");
    }

    #[test]
    fn the_local_time_is_now() {
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        assert!(local_time().unix_time().abs_diff(now.as_secs() as i64) < 100);
    }
}
