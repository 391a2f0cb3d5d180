//! Licences, sources and bans of all crates, by `deny.toml` and `cargo metadata`.
//!
//! cargo-deny reads the same file and says more (advisories, where a licence text is), but takes minutes to build on a
//! fresh machine. What must hold of each change is short enough to check here; `cargo xtask deny` runs the real one.

use anyhow::{Context as _, Result};
use serde::Deserialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The part of `deny.toml` that is checked here. Other keys are cargo-deny's.
#[derive(Deserialize)]
pub struct Policy {
    graph: Graph,
    licenses: Licenses,
    bans: Bans,
    sources: Sources,
}

#[derive(Deserialize)]
struct Graph {
    targets: Vec<String>,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
    #[serde(default)]
    exceptions: Vec<Exception>,
}

#[derive(Deserialize)]
struct Exception {
    allow: BTreeSet<String>,
    #[serde(rename = "crate")]
    name: String,
}

#[derive(Deserialize)]
struct Bans {
    #[serde(default)]
    skip: Vec<Named>,
    #[serde(default)]
    deny: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    /// `name` or `name@version`, the version possibly cut short (`syn@2`).
    #[serde(rename = "crate")]
    spec: String,
    #[serde(default)]
    reason: String,
    /// Of a ban: crates that may depend on it nevertheless.
    #[serde(default)]
    wrappers: BTreeSet<String>,
}

impl Named {
    fn is(&self, name: &str, version: &str) -> bool {
        match self.spec.split_once('@') {
            None => self.spec == name,
            Some((own, short)) => {
                own == name && version.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
            }
        }
    }
}

impl Named {
    /// A banned crate is there: unless all who depend on it may.
    fn breach(&self, name: &str, version: &str, packages: &[Value]) -> Option<String> {
        let depends = |package: &&Value| {
            let mut dependencies = package["dependencies"].as_array().into_iter().flatten();
            dependencies.any(|d| d["name"] == name && d["kind"] != "dev" && d["optional"] != true)
        };
        let mut users = packages.iter().filter(depends).filter_map(|package| package["name"].as_str());
        let known = !self.wrappers.is_empty() && users.all(|user| self.wrappers.contains(user));
        (!known).then(|| format!("{name} {version}: banned ({})", self.reason))
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Sources {
    allow_registry: BTreeSet<String>,
    #[serde(default)]
    allow_git: BTreeSet<String>,
}

impl Policy {
    /// Reads `deny.toml`.
    ///
    /// # Errors
    /// It is no TOML, or lacks a list that is checked here.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).context("deny.toml")
    }

    /// The targets whose crates count.
    pub fn targets(&self) -> &[String] {
        &self.graph.targets
    }

    /// Each crate that breaks the policy, as a line; `metadata` is what `cargo metadata` prints.
    ///
    /// # Errors
    /// The JSON lacks what cargo documents.
    pub fn violations(&self, metadata: &Value) -> Result<Vec<String>> {
        let mut lines = Vec::new();
        let mut versions: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        let packages = metadata["packages"].as_array().context("cargo metadata lists no packages")?;
        for package in packages {
            let text = |key: &str| package[key].as_str();
            let (name, version) = (text("name").context("no name")?, text("version").context("no version")?);
            lines.extend(self.licence(name, version, text("license")));
            lines.extend(self.source(name, version, text("source")));
            if let Some(ban) = self.bans.deny.iter().find(|ban| ban.is(name, version)) {
                lines.extend(ban.breach(name, version, packages));
            }
            if !self.bans.skip.iter().any(|skip| skip.is(name, version)) {
                versions.entry(name).or_default().push(version);
            }
        }
        for (name, versions) in versions.iter().filter(|(_, versions)| versions.len() > 1) {
            lines.push(format!("{name}: {} versions ({})", versions.len(), versions.join(", ")));
        }
        Ok(lines)
    }

    fn licence(&self, name: &str, version: &str, licence: Option<&str>) -> Option<String> {
        let extra = self.licenses.exceptions.iter().filter(|exception| exception.name == name);
        let allowed = |id: &str| self.licenses.allow.contains(id) || extra.clone().any(|e| e.allow.contains(id));
        match licence.map(|text| (text, satisfied(text, &allowed))) {
            Some((_, Some(true))) => None,
            Some((text, Some(false))) => Some(format!("{name} {version}: licence `{text}` is not among those allowed")),
            Some((text, None)) => Some(format!("{name} {version}: licence `{text}` is no SPDX expression")),
            None => Some(format!("{name} {version}: no licence expression")),
        }
    }

    fn source(&self, name: &str, version: &str, source: Option<&str>) -> Option<String> {
        // No source: a path, and so in this repository.
        let source = source?;
        let known = match (source.strip_prefix("registry+"), source.strip_prefix("git+")) {
            (Some(registry), _) => self.sources.allow_registry.contains(registry),
            (_, Some(git)) => self.sources.allow_git.iter().any(|allowed| git.starts_with(allowed)),
            _ => false,
        };
        (!known).then(|| format!("{name} {version}: comes from an unknown place"))
    }
}

/// Whether an SPDX expression can be met with the allowed licences alone; `None` where it is not one. The old `/` is `OR`.
fn satisfied(expression: &str, allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let mut tokens = spaced.split_whitespace().peekable();
    let value = any_of(&mut tokens, allowed)?;
    tokens.next().is_none().then_some(value)
}

type Tokens<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

fn any_of(tokens: &mut Tokens<'_>, allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    let mut value = all_of(tokens, allowed)?;
    while tokens.next_if_eq(&"OR").is_some() {
        value |= all_of(tokens, allowed)?;
    }
    Some(value)
}

fn all_of(tokens: &mut Tokens<'_>, allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    let mut value = one(tokens, allowed)?;
    while tokens.next_if_eq(&"AND").is_some() {
        value &= one(tokens, allowed)?;
    }
    Some(value)
}

fn one(tokens: &mut Tokens<'_>, allowed: &impl Fn(&str) -> bool) -> Option<bool> {
    match tokens.next()? {
        "(" => {
            let value = any_of(tokens, allowed)?;
            (tokens.next()? == ")").then_some(value)
        }
        ")" | "OR" | "AND" | "WITH" => None,
        id => match tokens.next_if_eq(&"WITH") {
            None => Some(allowed(id)),
            Some(_) => Some(allowed(&format!("{id} WITH {}", tokens.next()?))),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn licence_expressions() {
        let allowed = |id: &str| ["MIT", "Apache-2.0", "Unicode-3.0"].contains(&id);
        for (text, value) in [
            ("MIT", Some(true)),
            ("MIT OR GPL-3.0", Some(true)),
            ("GPL-3.0/MIT", Some(true)),
            ("MIT AND GPL-3.0", Some(false)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
            ("(MIT OR Apache-2.0) AND MPL-2.0", Some(false)),
            // AND binds tighter than OR.
            ("GPL-3.0 AND MIT OR Apache-2.0", Some(true)),
            ("MIT OR GPL-3.0 AND LGPL-3.0", Some(true)),
            ("Apache-2.0 WITH LLVM-exception", Some(false)),
            ("Apache-2.0 WITH LLVM-exception OR MIT", Some(true)),
            ("", None),
            ("MIT OR", None),
            ("(MIT", None),
            ("MIT GPL-3.0", None),
            ("OR MIT", None),
        ] {
            assert_eq!(satisfied(text, &allowed), value, "{text}");
        }
    }

    fn policy() -> Policy {
        Policy::parse(
            r#"
            graph.targets = ["x"]
            licenses = { allow = ["MIT"], exceptions = [{ allow = ["MPL-2.0"], crate = "fdt" }] }
            bans = { skip = [{ crate = "syn@2" }], deny = [{ crate = "paste", reason = "old" }] }
            sources.allow-registry = ["https://index"]
            "#,
        )
        .unwrap()
    }

    fn package(name: &str, version: &str, license: &str, source: Option<&str>) -> Value {
        json!({ "name": name, "version": version, "license": license, "source": source })
    }

    #[test]
    fn what_the_policy_allows_is_silent() {
        let good = json!({ "packages": [
            package("own", "0.1.0", "MIT", None),
            package("fdt", "0.1.5", "MPL-2.0", Some("registry+https://index")),
            package("syn", "2.0.1", "MIT", Some("registry+https://index")),
            package("syn", "3.0.1", "MIT", Some("registry+https://index")),
        ]});
        assert_eq!(policy().violations(&good).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn a_banned_crate_may_be_there_for_its_wrappers_only() {
        let policy = Policy::parse(
            r#"
            graph.targets = ["x"]
            licenses.allow = ["MIT"]
            bans.deny = [{ crate = "paste", wrappers = ["glue"], reason = "old" }]
            sources.allow-registry = ["https://index"]
            "#,
        )
        .unwrap();
        let user = |name: &str| {
            let mut package = package(name, "1.0.0", "MIT", None);
            package["dependencies"] = json!([{ "name": "paste", "kind": null, "optional": false }]);
            package
        };
        let paste = package("paste", "1.0.0", "MIT", None);
        let glued = json!({ "packages": [paste, user("glue")] });
        assert_eq!(policy.violations(&glued).unwrap(), Vec::<String>::new());
        let both = json!({ "packages": [paste, user("glue"), user("scissors")] });
        assert_eq!(policy.violations(&both).unwrap(), ["paste 1.0.0: banned (old)"]);
    }

    #[test]
    fn each_breach_is_a_line() {
        let bad = json!({ "packages": [
            package("a", "1.0.0", "MPL-2.0", Some("registry+https://index")),
            package("b", "1.0.0", "MIT", Some("registry+https://elsewhere")),
            package("c", "1.0.0", "MIT", Some("git+https://index/c")),
            package("paste", "1.0.0", "MIT", Some("registry+https://index")),
            package("syn", "2.0.1", "MIT", None),
            package("syn", "20.0.1", "MIT", None),
            package("syn", "3.0.1", "MIT", None),
            json!({ "name": "d", "version": "1.0.0", "license": null, "source": null }),
        ]});
        assert_eq!(
            policy().violations(&bad).unwrap(),
            [
                "a 1.0.0: licence `MPL-2.0` is not among those allowed",
                "b 1.0.0: comes from an unknown place",
                "c 1.0.0: comes from an unknown place",
                "paste 1.0.0: banned (old)",
                "d 1.0.0: no licence expression",
                "syn: 2 versions (20.0.1, 3.0.1)",
            ]
        );
    }

    #[test]
    fn the_repository_has_a_readable_policy() {
        let policy = Policy::parse(include_str!("../../../../deny.toml")).unwrap();
        assert!(policy.targets().contains(&crate::ctx::TARGET.to_owned()));
        assert!(policy.licenses.allow.contains("MIT"));
    }
}
