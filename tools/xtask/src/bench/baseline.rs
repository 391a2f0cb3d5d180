//! `tools/ci/baseline.toml`, and `gicv2-baseline.toml` beside it: what each row costs, committed, so that growth is a decision.

use super::rows::{ROWS, Unit};
use super::runs::{Board, Measured};
use anyhow::{Context as _, Result};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// What may come on top before it is growth: a part of the figure.
const SLACK: f64 = 0.03;

/// The committed figures.
#[derive(Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Executed instructions by row.
    #[serde(default)]
    instructions: BTreeMap<String, f64>,
    /// Bytes by row.
    #[serde(default)]
    bytes: BTreeMap<String, f64>,
    /// System register and barrier instructions of an exit, by row and kind.
    #[serde(default)]
    exit_path: BTreeMap<String, BTreeMap<String, u64>>,
}

/// The kinds that are budgeted: on silicon these are the slow ones.
const KINDS: [&str; 4] = ["mrs", "msr", "isb", "dsb"];

impl Baseline {
    /// Where a board's is.
    pub fn path(root: &Path, board: Board) -> PathBuf {
        root.join(format!("tools/ci/{}baseline.toml", board.prefix()))
    }

    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read or understood.
    pub fn read(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("in {}", path.display()))
    }

    /// Reads its text.
    ///
    /// # Errors
    /// It is not of this form.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(toml::from_str(text)?)
    }

    fn figures(&self, unit: Unit) -> &BTreeMap<String, f64> {
        match unit {
            Unit::Bytes => &self.bytes,
            Unit::Instructions | Unit::Ratio => &self.instructions,
        }
    }

    /// Takes over what was measured; rows that were not keep what they had.
    pub fn accept(&mut self, measured: &Measured) {
        for row in ROWS {
            if let Some(stat) = measured.alone.get(row.name).filter(|_| measured.selected(row.name)) {
                let figures = match row.unit {
                    Unit::Bytes => &mut self.bytes,
                    Unit::Instructions | Unit::Ratio => &mut self.instructions,
                };
                figures.insert(row.name.to_owned(), stat.mean);
            }
        }
        for (name, kinds) in &measured.kinds {
            let counts = kinds.counts().into_iter().filter(|(kind, _)| KINDS.contains(kind));
            let counts = counts.map(|(kind, count)| (kind.to_owned(), count)).collect();
            self.exit_path.insert((*name).to_owned(), counts);
        }
    }

    /// What is worse than it was: one line each, with the row, the old figure and the new one.
    pub fn faults(&self, measured: &Measured) -> Vec<String> {
        let mut faults = Vec::new();
        for row in ROWS.iter().filter(|row| measured.selected(row.name)) {
            let (Some(old), Some(stat)) = (self.figures(row.unit).get(row.name), measured.alone.get(row.name)) else {
                let why = if measured.alone.contains_key(row.name) { "has no baseline" } else { "was not measured" };
                faults.push(format!("{} {why}", row.name));
                continue;
            };
            let new = stat.mean;
            let show = |figure: f64| super::rows::plain(figure);
            if new > old * (1.0 + SLACK) {
                let percent = (new / old - 1.0) * 100.0;
                faults.push(format!("{}: {} -> {}, {percent:.1} % more", row.name, show(*old), show(new)));
                continue;
            }
            // A bound that the baseline keeps is not given up within the slack.
            let per_unit = match row.unit {
                Unit::Ratio => measured.bare.get(row.name).map_or(f64::NAN, |bare| bare.mean),
                Unit::Instructions | Unit::Bytes => 1.0,
            };
            if let Some(reach) = row.reach.map(|reach| reach * per_unit)
                && *old <= reach
                && new > reach
            {
                faults.push(format!(
                    "{}: {} -> {}, over the bound of {}",
                    row.name,
                    show(*old),
                    show(new),
                    show(reach)
                ));
            }
        }
        for (name, kinds) in &measured.kinds {
            let Some(old) = self.exit_path.get(*name) else {
                faults.push(format!("the exit path of {name} has no baseline"));
                continue;
            };
            for (kind, new) in kinds.counts().into_iter().filter(|(kind, _)| KINDS.contains(kind)) {
                let old = old.get(kind).copied().unwrap_or(0);
                if new > old {
                    faults.push(format!("{kind} on the exit path of {name}: {old} -> {new}"));
                }
            }
        }
        faults
    }

    /// Its text.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "# What each row of `cargo xtask bench` costs. `cargo xtask test` fails where one is more than 3 % over its figure here,\n\
             # or over the bound it kept; what an exit executes of mrs, msr, isb and dsb may not grow at all.\n\
             # `cargo xtask bench --accept` (`--gicv2` for that board's) writes this file. A commit that raises a figure says why.\n",
        );
        let figure = |text: &mut String, name: &str, figure: f64| {
            let _ = writeln!(text, "{name} = {}", super::rows::plain(figure));
        };
        for (title, unit) in [("instructions", Unit::Instructions), ("bytes", Unit::Bytes)] {
            let _ = writeln!(text, "\n[{title}]");
            for row in ROWS {
                let same = (row.unit == Unit::Bytes) == (unit == Unit::Bytes);
                if let Some(value) = self.figures(unit).get(row.name).filter(|_| same) {
                    figure(&mut text, row.name, *value);
                }
            }
        }
        let _ = writeln!(text, "\n[exit_path]");
        for (name, kinds) in &self.exit_path {
            let kinds: Vec<_> =
                KINDS.iter().filter_map(|kind| Some(format!("{kind} = {}", kinds.get(*kind)?))).collect();
            let _ = writeln!(text, "{name} = {{ {} }}", kinds.join(", "));
        }
        text
    }
}
