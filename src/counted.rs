//! Numbers of things in messages.

use std::fmt::Display;

/// `1 node`, `2 nodes`.
pub fn counted<N: Display + PartialEq + From<u8>>(number: N, one: &str, many: &str) -> String {
    let things = match number == N::from(1) {
        true => one,
        false => many,
    };
    format!("{number} {things}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_one_and_none_are_many() {
        let said = [0u64, 1, 2].map(|number| counted(number, "entry", "entries"));
        assert_eq!(said, ["0 entries", "1 entry", "2 entries"]);
    }
}
