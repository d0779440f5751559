//! The grammar of `spec.rotationSchedule`.

use std::{fmt, str::FromStr};

use kube::core::Rule;

/// The same grammar as [`RotationSchedule`]'s `FromStr`, as the API server checks it.
pub(crate) const PATTERN: &str = "^(Hourly|Daily|Weekly|Never|[1-9][0-9]{0,3} (Hours|Days))$";
const GRAMMAR: &str = "use Hourly, Daily, Weekly, \"<n> Hours\", \"<n> Days\" (n from 1 to 9999) or Never";
const DEFAULT: &str = "30 Days";

const HOUR: u32 = 3_600;
const DAY: u32 = 24 * HOUR;

/// When a key is due for its next version, counted from its last.
///
/// Days are 24 hours: what counts is the age of a key, so neither time zones nor leap seconds play a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RotationSchedule {
    /// Only when asked.
    Never,
    /// After that many seconds.
    Every(u32),
}

/// The text is not a rotation schedule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScheduleError {
    text: String,
}

impl fmt::Display for ScheduleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Cut, because the text is a stranger's and may be long.
        let shown: String = self.text.chars().take(32).collect();
        write!(f, "{shown:?} is not a rotation schedule: {GRAMMAR}")
    }
}

impl std::error::Error for ScheduleError {}

impl RotationSchedule {
    /// Seconds between rotations, `None` for never.
    pub const fn seconds(self) -> Option<u32> {
        match self {
            Self::Never => None,
            Self::Every(seconds) => Some(seconds),
        }
    }
}

impl FromStr for RotationSchedule {
    type Err = ScheduleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let every = |count: &str, unit: u32| {
            let digits = (1..=4).contains(&count.len())
                && count.bytes().all(|c| c.is_ascii_digit())
                && !count.starts_with('0');
            let count: u32 = if digits { count.parse().ok()? } else { return None };
            Some(Self::Every(count * unit))
        };
        let schedule = match text {
            "Hourly" => Some(Self::Every(HOUR)),
            "Daily" => Some(Self::Every(DAY)),
            "Weekly" => Some(Self::Every(7 * DAY)),
            "Never" => Some(Self::Never),
            _ => match text.split_once(' ') {
                Some((count, "Hours")) => every(count, HOUR),
                Some((count, "Days")) => every(count, DAY),
                _ => None,
            },
        };
        schedule.ok_or_else(|| ScheduleError { text: text.to_owned() })
    }
}

/// What a key without a schedule gets.
pub(crate) fn default_text() -> String {
    DEFAULT.to_owned()
}

/// The rule that the API server applies.
pub(crate) fn rule() -> Rule {
    Rule::new(format!("self.matches('{PATTERN}')"))
        .message(format!("rotationSchedule is not a schedule: {GRAMMAR}").as_str())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;
    use regex::Regex;

    use super::*;

    #[test]
    fn what_people_write() {
        let table = [
            ("Hourly", Some(3_600)),
            ("Daily", Some(86_400)),
            ("Weekly", Some(604_800)),
            ("Never", None),
            ("1 Hours", Some(3_600)),
            ("36 Hours", Some(129_600)),
            ("30 Days", Some(2_592_000)),
            ("9999 Days", Some(863_913_600)),
        ];
        for (text, seconds) in table {
            assert_eq!(text.parse::<RotationSchedule>().unwrap().seconds(), seconds, "{text}");
        }
        assert!(DEFAULT.parse::<RotationSchedule>().is_ok());
    }

    #[test]
    fn what_is_refused_is_told_what_is_right() {
        let table = [
            "",
            "hourly",
            "30",
            "Days",
            "0 Days",
            "-1 Days",
            "01 Days",
            "10000 Days",
            "30  Days",
            "30 Weeks",
        ];
        for text in
            table.into_iter().chain(["30 Days ", "1.5 Days", "٣ Days", "30 Days\n", "@daily", "0 0 * * *"])
        {
            let error = text.parse::<RotationSchedule>().unwrap_err().to_string();
            assert!(error.contains("use Hourly, Daily"), "{error}");
        }
    }

    proptest! {
        /// An object that the API server lets in is one that the policy engine understands, and the reverse.
        #[test]
        fn parser_and_schema_agree(
            text in "[0-9]{0,5} ?(Hours|Days|Hour|Weeks)?|Hourly|Daily|Weekly|Never|[A-Za-z0-9 ]{0,12}|\\PC{0,12}"
        ) {
            let pattern = Regex::new(PATTERN).unwrap();
            prop_assert_eq!(pattern.is_match(&text), text.parse::<RotationSchedule>().is_ok(), "{:?}", text);
        }
    }
}
