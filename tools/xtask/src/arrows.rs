//! Holds the dependencies between rooms against the table of who may know whom (`tools/ci/arrows.toml`).
//!
//! Works on what `cargo metadata` says of the workspace's own members, so that a new arrow shows in the change that
//! draws it, however it is spelt in a manifest (renamed, optional, for one target only).

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// The table as the file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rules {
    /// Rooms that all others may know.
    everyone: BTreeSet<String>,
    /// Rooms that touch hardware: no pure room reaches them.
    hardware: BTreeSet<String>,
    /// Each member of the workspace.
    rooms: BTreeMap<String, Room>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Room {
    #[serde(default)]
    pure: bool,
    knows: BTreeSet<String>,
}

impl Rules {
    /// Reads the table.
    ///
    /// # Errors
    /// The text is no TOML of this shape.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("the table of arrows")
    }

    /// The names of the pure rooms.
    pub fn pure_rooms(&self) -> impl Iterator<Item = &str> {
        self.rooms.iter().filter(|(_, room)| room.pure).map(|(name, _)| name.as_str())
    }

    fn may_know(&self, from: &Room, to: &str) -> bool {
        self.everyone.contains(to) || from.knows.contains("*") || from.knows.contains(to)
    }
}

/// A member of the workspace and the members it depends on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Member {
    /// Its `Cargo.toml`.
    pub manifest: PathBuf,
    /// Members that it is built with.
    pub uses: BTreeSet<String>,
    /// Members that only its tests are built with.
    pub tests_use: BTreeSet<String>,
}

/// The members by package name.
pub type Members = BTreeMap<String, Member>;

/// Reads the members from the JSON of `cargo metadata --no-deps`.
///
/// # Errors
/// The JSON lacks what cargo documents.
pub fn members(metadata: &Value) -> Result<Members> {
    let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
    let mut members = Members::new();
    for package in packages {
        let name = package["name"].as_str().context("a package without a name")?;
        let mut member = Member {
            manifest: package["manifest_path"].as_str().context("a package without a manifest")?.into(),
            ..Member::default()
        };
        for dependency in package["dependencies"].as_array().context("a package without a list of dependencies")? {
            if dependency["path"].is_null() {
                continue;
            }
            let to = dependency["name"].as_str().context("a dependency without a name")?.to_owned();
            match dependency["kind"].as_str() {
                Some("dev") => member.tests_use.insert(to),
                _ => member.uses.insert(to),
            };
        }
        members.insert(name.to_owned(), member);
    }
    Ok(members)
}

/// Each broken rule as a line that names both crates.
pub fn violations(rules: &Rules, members: &Members) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, member) in members {
        let Some(room) = rules.rooms.get(name) else {
            lines.push(format!("{name}: not in tools/ci/arrows.toml: say there whom it may know"));
            continue;
        };
        for to in member.uses.iter().filter(|to| !rules.may_know(room, to)) {
            lines.push(format!("{name} -> {to}: {name} may know only {}", list(rules, room)));
        }
        if room.pure {
            lines.extend(hardware_reached(rules, members, name));
        }
    }
    for name in rules.rooms.keys().filter(|name| !members.contains_key(*name)) {
        lines.push(format!("{name}: in tools/ci/arrows.toml, but no member of the workspace"));
    }
    lines
}

/// The ways from a pure room to a hardware room, one line for each hardware room reached.
fn hardware_reached(rules: &Rules, members: &Members, pure: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut seen = BTreeSet::from([pure.to_owned()]);
    let mut ways = vec![vec![pure.to_owned()]];
    while let Some(way) = ways.pop() {
        let Some(member) = way.last().and_then(|last| members.get(last)) else { continue };
        // Its own tests count too; those of the rooms it uses are not built with it.
        let own_tests = (way.len() == 1).then_some(&member.tests_use).into_iter().flatten();
        for to in member.uses.iter().chain(own_tests) {
            if !seen.insert(to.clone()) {
                continue;
            }
            let mut longer = way.clone();
            longer.push(to.clone());
            if rules.hardware.contains(to) {
                lines.push(format!("{}: a pure room ({pure}) never reaches {to}", longer.join(" -> ")));
            }
            ways.push(longer);
        }
    }
    lines
}

fn list(rules: &Rules, room: &Room) -> String {
    rules.everyone.iter().chain(&room.knows).map(String::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const RULES: &str = r#"
        everyone = ["addr"]
        hardware = ["el2"]
        [rooms]
        addr = { pure = true, knows = [] }
        bus = { pure = true, knows = [] }
        sync = { knows = ["el2"] }
        vm = { pure = true, knows = ["bus", "sync"] }
        el2 = { knows = [] }
        kernel = { knows = ["*"] }
    "#;

    /// The workspace of RULES with these extra arrows (from, to, dev).
    fn check(arrows: &[(&str, &str, bool)]) -> Vec<String> {
        let rules = Rules::parse(RULES).unwrap();
        let mut members: Members = rules.rooms.keys().map(|name| (name.clone(), Member::default())).collect();
        for (from, to, dev) in arrows {
            let member = members.entry((*from).to_owned()).or_default();
            if *dev { &mut member.tests_use } else { &mut member.uses }.insert((*to).to_owned());
        }
        violations(&rules, &members)
    }

    #[test]
    fn allowed_arrows_are_silent() {
        assert_eq!(
            check(&[("vm", "bus", false), ("bus", "addr", false), ("kernel", "el2", false), ("el2", "addr", false)]),
            Vec::<String>::new()
        );
    }

    #[test]
    fn an_arrow_that_is_not_in_the_table_names_both_rooms() {
        assert_eq!(check(&[("bus", "vm", false)]), ["bus -> vm: bus may know only addr"]);
    }

    #[test]
    fn a_pure_room_reaches_no_hardware_even_through_others() {
        let lines = check(&[("vm", "sync", false), ("sync", "el2", false)]);
        assert_eq!(lines, ["vm -> sync -> el2: a pure room (vm) never reaches el2"]);
    }

    #[test]
    fn tests_may_use_other_rooms_but_no_hardware() {
        assert_eq!(check(&[("bus", "vm", true)]), Vec::<String>::new());
        assert_eq!(check(&[("bus", "el2", true)]), ["bus -> el2: a pure room (bus) never reaches el2"]);
        // The tests of a room that it uses are not part of it.
        assert_eq!(check(&[("vm", "sync", false), ("sync", "el2", true)]), Vec::<String>::new());
    }

    #[test]
    fn table_and_workspace_have_the_same_rooms() {
        assert_eq!(check(&[("new", "addr", false)]), ["new: not in tools/ci/arrows.toml: say there whom it may know"]);
        let rules = Rules::parse(RULES).unwrap();
        assert_eq!(violations(&rules, &Members::new()).len(), rules.rooms.len());
    }

    #[test]
    fn members_come_from_cargo_metadata() {
        let metadata = json!({ "packages": [{
            "name": "vm", "manifest_path": "/x/vm/Cargo.toml",
            "dependencies": [
                { "name": "bus", "kind": null, "path": "/x/bus", "rename": "b", "target": "cfg(unix)" },
                { "name": "sync", "kind": "dev", "path": "/x/sync" },
                { "name": "log", "kind": null },
                { "name": "gen", "kind": "build", "path": "/x/gen" },
            ],
        }]});
        let members = members(&metadata).unwrap();
        let vm = &members["vm"];
        assert_eq!(vm.uses, BTreeSet::from(["bus".to_owned(), "gen".to_owned()]));
        assert_eq!(vm.tests_use, BTreeSet::from(["sync".to_owned()]));
    }

    #[test]
    fn the_repository_has_a_readable_table() {
        let rules = Rules::parse(include_str!("../../ci/arrows.toml")).unwrap();
        assert!(rules.pure_rooms().any(|name| name == "vm"));
        assert!(rules.hardware.iter().all(|name| !rules.rooms[name].pure));
    }
}
