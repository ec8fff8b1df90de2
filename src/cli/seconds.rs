//! Spans of time, as people write them.

use std::time::Duration;

/// Reads a number of seconds, such as `10` or `0.5`.
pub fn parse(text: &str) -> Result<Duration, String> {
    const SECONDS_MAX: f64 = 86_400.0;
    match text.parse::<f64>() {
        Ok(seconds) if (0.0..=SECONDS_MAX).contains(&seconds) => {
            Ok(Duration::from_secs_f64(seconds))
        }
        _ => Err("write a number of seconds, such as 10 or 0.5, up to 86400".to_owned()),
    }
}

/// The same for a time limit: in no time nothing can be done.
pub fn limit(text: &str) -> Result<Duration, String> {
    match parse(text)? {
        Duration::ZERO => Err("some time is needed".to_owned()),
        limit => Ok(limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_read() {
        assert_eq!(parse("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse("0.5"), Ok(Duration::from_millis(500)));
        assert_eq!(parse("0"), Ok(Duration::ZERO));
        assert_eq!(limit("0.001"), Ok(Duration::from_millis(1)));
        for wrong in ["", "-1", "nan", "inf", "86401", "10s", "ten"] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
            assert!(limit(wrong).is_err(), "{wrong:?}");
        }
        assert!(limit("0").is_err());
        assert!(limit("1e-12").is_err());
    }
}
