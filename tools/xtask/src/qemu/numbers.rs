//! What is held against the numbers that a machine prints.

/// A number that must come, and whenever it comes be within a range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Between {
    /// The text right before it; `*` stands for any text.
    pub text: String,
    /// The least that it may be.
    pub least: u64,
    /// The most.
    pub most: u64,
}

impl Between {
    /// The number in a line that has the text; none where it is not followed by one.
    pub fn number(&self, line: &str) -> Option<Option<u64>> {
        number_after(&self.text, line)
    }
}

fn number_after(text: &str, line: &str) -> Option<Option<u64>> {
    let rest = text.split('*').try_fold(line, |rest, part| rest.split_once(part).map(|(_, rest)| rest))?;
    let digits = rest.find(|c: char| !c.is_ascii_digit()).map_or(rest, |end| &rest[..end]);
    Some(digits.parse().ok())
}

/// Numbers that must be to each other as weights are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shares {
    /// By how many percent each may be more or less than its weight gives it of their sum.
    pub within: u64,
    /// The text right before each, and its weight.
    pub of: Vec<(String, u64)>,
}

impl Shares {
    /// What is known before anything was printed.
    pub fn none(&self) -> Vec<Option<u64>> {
        vec![None; self.of.len()]
    }

    /// Takes what a line says.
    pub fn take(&self, line: &str, had: &mut [Option<u64>]) {
        for ((text, _), had) in self.of.iter().zip(had) {
            if let Some(number) = number_after(text, line) {
                *had = number;
            }
        }
    }

    /// What is wrong with them, if anything is.
    pub fn fault(&self, had: &[Option<u64>]) -> Option<String> {
        let mut numbers = Vec::new();
        for ((text, weight), had) in self.of.iter().zip(had) {
            match had {
                Some(number) => numbers.push((text, u128::from(*weight), u128::from(*number))),
                None => return Some(format!("no number came after `{text}`")),
            }
        }
        let (weights, sum) = numbers.iter().fold((0, 0), |(w, n), (_, weight, number)| (w + weight, n + number));
        let within = u128::from(self.within);
        let (text, weight, number) = numbers.into_iter().find(|(_, weight, number)| {
            // number / sum against weight / weights, without a division.
            let (is, fair) = (number * weights * 100, sum * weight * 100);
            sum == 0 || is.abs_diff(fair) > fair / 100 * within
        })?;
        Some(format!("`{text}{number}` is not {weight} of {weights} parts of {sum}, nor within {within} % of it"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_held_against_weights() {
        let shares = Shares { within: 5, of: vec![("had a ".into(), 100), ("had b ".into(), 300)] };
        let fault = |lines: &[&str]| {
            let mut had = shares.none();
            lines.iter().for_each(|line| shares.take(line, &mut had));
            shares.fault(&had)
        };
        assert_eq!(fault(&["[a] had a 1000 us", "had b 3000"]), None);
        // 5 % of 1000 parts of 4000.
        assert_eq!(fault(&["had a 1050", "had b 2950"]), None);
        assert!(fault(&["had a 1060", "had b 2940"]).is_some_and(|why| why.contains("`had a 1060` is not 100 of 400")));
        assert!(fault(&["had a 940", "had b 3060"]).is_some());
        assert!(fault(&["had a 1000"]).is_some_and(|why| why.contains("`had b `")));
        assert!(fault(&["had a 0", "had b 0"]).is_some());
        assert!(fault(&["had a ?", "had b 1"]).is_some());
    }
}
