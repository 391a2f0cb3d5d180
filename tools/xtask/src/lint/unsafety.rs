//! Unsafe code says why it is sound: a comment `SAFETY:` above each `unsafe` block, `unsafe impl` and `unsafe extern` block.
//!
//! Clippy asks for it at blocks and implementations, in what it compiles; of `extern` blocks, whose signatures nobody checks, no lint
//! does. This one goes by the text, so that it holds for every configuration.

/// What needs a claim: the words after `unsafe`, and what to call it.
const KINDS: [(&str, &str); 3] = [("{", "block"), ("impl", "implementation"), ("extern", "extern block")];

/// The places in a file's text that lack a claim, each as line number and what it is.
pub fn undocumented(text: &str) -> Vec<(usize, &'static str)> {
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let Some(what) = unsafe_code(line) else { continue };
        if !line.contains("// SAFETY: ") && !claimed(&lines[..at]) {
            found.push((at + 1, what));
        }
    }
    found
}

/// What in a line of code needs a claim. (`unsafe extern "C" fn` is a function's type or definition, whose callers make the claim.)
fn unsafe_code(line: &str) -> Option<&'static str> {
    let code = line.split("//").next().unwrap_or_default();
    code.match_indices("unsafe").find_map(|(at, word)| {
        let whole =
            code[..at].chars().next_back().is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '_' | '"' | '`'));
        let rest = code[at + word.len()..].trim_start();
        let kind = KINDS.iter().find(|(next, _)| rest.starts_with(next)).filter(|_| whole)?;
        let function = kind.0 == "extern" && rest.split('{').next().is_some_and(|head| head.contains("fn"));
        (!function).then_some(kind.1)
    })
}

/// Whether the comment that belongs to what follows `above` makes a claim: the nearest one above the statement's or item's first line
/// and its attributes.
fn claimed(above: &[&str]) -> bool {
    let mut comment = false;
    for line in above.iter().rev() {
        if line.starts_with("//") {
            comment = true;
            if line.starts_with("// SAFETY: ") {
                return true;
            }
        } else if comment || (line.ends_with([';', '{', '}']) || line.is_empty()) && !line.starts_with("#[") {
            return false;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::undocumented;

    /// The file's text with `@` for the word that would make this file one of those that are looked at.
    fn check(text: &str) -> Vec<(usize, &'static str)> {
        undocumented(&text.replace('@', "unsafe"))
    }

    #[test]
    fn what_says_nothing_is_found() {
        assert_eq!(check("@ extern \"C\" {\n    fn f();\n}"), [(1, "extern block")]);
        assert_eq!(check("@ extern \"C\" { fn f(); }"), [(1, "extern block")]);
        assert_eq!(check("\n@ impl Send for X {}"), [(2, "implementation")]);
        assert_eq!(check("fn f() {\n    @ { g() }\n}"), [(2, "block")]);
        assert_eq!(check("let x = 1;\nlet y = a(|| @ { g() });"), [(2, "block")]);
        // A comment that is something else's, or makes no claim.
        assert_eq!(check("// Fast.\n@ { g() };"), [(2, "block")]);
        assert_eq!(check("// SAFETY: g.\n@ { g() };\n@ { h() };"), [(3, "block")]);
        assert_eq!(check("// SAFETY: of something else.\n\n@ extern \"C\" {"), [(3, "extern block")]);
        assert_eq!(check("// SAFETY: of something else.\nfn f() {\n    @ { g() }\n}"), [(3, "block")]);
        assert_eq!(check("// SAFETY:\n@ { g() };"), [(2, "block")]);
    }

    #[test]
    fn what_says_why_is_not() {
        for text in [
            "// SAFETY: defined below.\n@ extern \"C\" {\n    fn f();\n}",
            "// SAFETY: a lock guards it,\n// everywhere.\n@ impl Sync for X {}",
            "// SAFETY: defined below.\n#[link_name = \"x\"]\n@ extern \"C\" {",
            "// SAFETY: as asserted.\nlet x =\n    f(|| @ { g() });",
            "// SAFETY: as asserted.\nlet x = a\n    .b()\n    .map(|c| @ {\n",
            "match x { 1 => @ { g() } // SAFETY: it is 1.\n",
        ] {
            assert!(check(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn what_is_no_code_of_the_kind_is_not() {
        for text in [
            "// an @ { block }",
            "/// @ impl",
            "@ fn f() {",
            "pub @ extern \"C\" fn f() {",
            "let f: @ extern \"C\" fn() = g;",
            "#[@(no_mangle)]",
            "#![forbid(@_code)]",
            "let s = \"@ {\";",
        ] {
            assert!(check(text).is_empty(), "{text}");
        }
    }
}
