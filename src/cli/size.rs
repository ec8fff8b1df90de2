//! Sizes in bytes, as people write them.

/// Reads a size such as `512`, `64KiB`, `256MiB` or `1.5GiB`; `KB`, `MB` and `GB` are powers of ten.
pub fn parse(text: &str) -> Result<usize, String> {
    const UNITS: [(&str, f64); 9] = [
        ("KiB", 1024.0),
        ("MiB", 1_048_576.0),
        ("GiB", 1_073_741_824.0),
        ("TiB", 1_099_511_627_776.0),
        ("KB", 1e3),
        ("MB", 1e6),
        ("GB", 1e9),
        ("TB", 1e12),
        ("B", 1.0),
    ];
    let wrong = || {
        format!("{text:?} is no size; write a number with a unit, such as 64KiB, 256MiB or 1.5GiB")
    };
    let trimmed = text.trim();
    let lower = trimmed.to_ascii_lowercase();
    let unit = UNITS
        .iter()
        .find(|(name, _)| lower.ends_with(&name.to_ascii_lowercase()));
    let (number, factor) = match unit {
        Some((name, factor)) => (&trimmed[..trimmed.len() - name.len()], *factor),
        None => (trimmed, 1.0),
    };
    let number = number.trim();
    let is_plain = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * factor;
    if !is_plain || bytes > isize::MAX as f64 / 4.0 {
        return Err(wrong());
    }
    Ok(bytes as usize)
}

/// A size as people read it.
pub fn show(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut shown = bytes as f64;
    let mut unit = 0;
    // What would be shown as 1024.0 is one of the next unit.
    while shown >= 1023.95 && unit + 1 < UNITS.len() {
        shown /= 1024.0;
        unit += 1;
    }
    format!("{shown:.1} {}", UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        assert_eq!(parse("512"), Ok(512));
        assert_eq!(parse("256MiB"), Ok(256 << 20));
        assert_eq!(parse("1.5 gib"), Ok(3 << 29));
        assert_eq!(parse("2KB"), Ok(2000));
        assert_eq!(parse("7b"), Ok(7));
        assert_eq!(parse("2TiB"), Ok(2 << 40));
        for wrong in [
            "",
            "MiB",
            "-1",
            "1e3",
            "12 cows",
            "nan",
            "inf",
            "1.2.3MiB",
            "99999999TiB",
        ] {
            assert!(parse(wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn sizes_are_shown() {
        assert_eq!(show(0), "0 B");
        assert_eq!(show(1536), "1.5 KiB");
        assert_eq!(show(1023), "1023 B");
        assert_eq!(show(256 << 20), "256.0 MiB");
        assert_eq!(show((1 << 30) - 1), "1.0 GiB");
    }
}
