//! Medians and quartiles.

use std::fmt;

pub struct Spread(Vec<f64>);

impl Spread {
    pub fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = values.into_iter().collect();
        assert!(!sorted.is_empty(), "no rounds");
        sorted.sort_by(f64::total_cmp);
        Self(sorted)
    }

    /// Linear between the two that are next to it.
    pub fn quantile(&self, part: f64) -> f64 {
        let at = (self.0.len() - 1) as f64 * part;
        let (low, high) = (self.0[at.floor() as usize], self.0[at.ceil() as usize]);
        low + (high - low) * at.fract()
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// The median, and the quartiles behind it.
impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [low, median, high] = [0.25, 0.5, 0.75].map(|part| self.quantile(part));
        write!(f, "{median:.2} ({low:.2} .. {high:.2})")
    }
}
