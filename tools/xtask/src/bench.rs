//! `cargo xtask bench`: what operations cost, in executed instructions, held against other hypervisors and the baseline.
//!
//! A payload of our own (`tools/guests/bench`) measures under QEMU's `-icount shift=0,sleep=off`, where virtual time advances
//! one nanosecond an instruction: the figures are the same in every run on every machine, and have nothing to do with how
//! fast this machine is. `hypervisor/docs/performance.md` says what each row is.

mod baseline;
mod devices;
mod image;
mod many;
mod rows;
pub mod runs;
mod stream;
mod trace;

use crate::build;
use crate::ctx::{self, Ctx, Step};
use crate::setup::{self, TargetKind};
use anyhow::{Context as _, Result, bail, ensure};
use baseline::Baseline;
use rows::{ROWS, Row};
use runs::{Board, Measured};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

/// The document that carries the tables.
const DOCUMENT: &str = "hypervisor/docs/performance.md";

/// Arguments of `cargo xtask bench`.
#[derive(clap::Args)]
pub struct Args {
    /// Write the figures to this file as JSON as well
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Fail if a row is more than 3 % over tools/ci/baseline.toml, or over a bound that was kept
    #[arg(long)]
    pub check: bool,
    /// Make what was measured the baseline, and the tables of the document where all rows were
    #[arg(long, conflicts_with = "check")]
    pub accept: bool,
    /// On a machine with a GICv2, held against tools/ci/gicv2-baseline.toml
    #[arg(long)]
    pub gicv2: bool,
    /// Print where the instructions of the traced exits go: functions, and each instruction with its line
    #[arg(long)]
    pub profile: bool,
    /// Measure with HCR_EL2.E2H = 1 (merus.vhe=on) as well, and print both figures beside each other
    #[arg(long, conflicts_with_all = ["check", "accept"])]
    pub vhe: bool,
    /// Measure only these rows (whole names); host-4k, host-4k-32, host-mib and tcp are measured only so
    pub rows: Vec<String>,
}

/// Runs the command.
///
/// # Errors
/// Those of set-up and build; a run that went wrong; with `--check` what grew.
pub fn main(ctx: &Ctx, args: Args) -> Result<()> {
    let board = if args.gicv2 { Board::GicV2 } else { Board::GicV3 };
    for name in &args.rows {
        ensure!(board.has(name), "the row `{name}` is measured on a GICv3 only");
        if !ROWS.iter().any(|row| row.name == name) {
            let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            bail!("there is no row `{name}`; there are: {}", names.join(" "));
        }
    }
    let kind = setup::ensure_target(ctx)?;
    let step = Step::start("measuring");
    let measured = measure(ctx, &kind, &step, board, &args.rows, false)?;
    let vhe = args.vhe.then(|| measure(ctx, &kind, &step, board, &args.rows, true)).transpose()?;
    step.done("counted in executed instructions");
    println!("{}", table(&measured));
    if !measured.kinds.is_empty() {
        println!("{}", paths(&measured));
    }
    if let Some(vhe) = &vhe {
        println!("{}", beside(&measured, vhe));
    }
    if args.profile {
        println!("{}", measured.profile);
    }
    if let Some(path) = &args.json {
        let text = serde_json::to_string_pretty(&json(&measured))? + "\n";
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let path = Baseline::path(&ctx.root, board);
    if args.accept {
        let mut baseline = if path.exists() { Baseline::read(&path)? } else { Baseline::default() };
        baseline.accept(&measured);
        ctx::write_if_changed(&path, baseline.text().as_bytes())?;
        eprintln!("xtask: wrote {}", path.display());
        if args.rows.is_empty() {
            let path = ctx.root.join(DOCUMENT);
            let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let mark = |what: &str| format!("{}{what}", board.prefix());
            let text = documented(&text, &mark("rows"), &table(&measured))?;
            ctx::write_if_changed(&path, documented(&text, &mark("exit paths"), &paths(&measured))?.as_bytes())?;
            eprintln!("xtask: wrote {}", path.display());
        }
    }
    if args.check {
        judge(&Baseline::read(&path)?, &measured)?;
        eprintln!("xtask: no row is over its baseline");
    }
    Ok(())
}

/// The named checks of `cargo xtask test`: everything measured and held against a board's baseline.
///
/// # Errors
/// As [`main`] with `--check`.
pub fn check(ctx: &Ctx, kind: &TargetKind, step: &Step, board: Board) -> Result<()> {
    let measured = measure(ctx, kind, step, board, &[], false)?;
    judge(&Baseline::read(&Baseline::path(&ctx.root, board))?, &measured)
}

fn judge(baseline: &Baseline, measured: &Measured) -> Result<()> {
    let faults = baseline.faults(measured);
    ensure!(
        faults.is_empty(),
        "{}\n`cargo xtask bench --profile` shows where instructions go; if the growth is meant, `cargo xtask bench --accept` \
         writes the new baseline",
        faults.join("\n")
    );
    Ok(())
}

fn measure(ctx: &Ctx, kind: &TargetKind, step: &Step, board: Board, wanted: &[String], vhe: bool) -> Result<Measured> {
    let qemu = setup::ensure_qemu(ctx)?;
    let guest = setup::ensure_guest(ctx)?;
    let built = build::build(ctx, kind)?;
    let payload = build::guest_payload(ctx, kind, "guest-bench", "guest-bench")?;
    let env = runs::Env { ctx, qemu, guest, built, payload, board, vhe };
    runs::all(&env, step, &|row| match wanted {
        [] => !devices::only_when_named(row),
        names => names.iter().any(|name| name == row),
    })
}

/// How a row stands to what is to be reached.
fn verdict(row: &Row, measured: &Measured) -> String {
    match (row.reach, measured.figure(row)) {
        (_, None) => "not measured".to_owned(),
        (None, Some(_)) => String::new(),
        (Some(reach), Some(figure)) if figure <= reach => "reached".to_owned(),
        (Some(reach), Some(figure)) => format!("over by {}", row.unit.show(figure - reach)),
    }
}

/// The table as text, in Markdown's form so that a document can carry it.
fn table(measured: &Measured) -> String {
    let mut lines = vec![
        ["row", "bare", "Merus", "min", "max", "shared min", "shared max", "Bao", "Xen", "KVM", "reach", "verdict"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for row in ROWS.iter().filter(|row| measured.selected(row.name)) {
        let (bare, alone, shared) =
            (measured.bare.get(row.name), measured.alone.get(row.name), measured.shared.get(row.name));
        let extreme = |stat: Option<&runs::Stat>, max: bool| {
            stat.map_or(String::new(), |stat| row.unit.show_one(if max { stat.max } else { stat.min }))
        };
        // One event has no extremes.
        let alone = alone.filter(|stat| stat.several);
        lines.push(vec![
            row.name.to_owned(),
            bare.map_or(String::new(), |stat| rows::plain(stat.mean)),
            measured.figure(row).map_or(String::new(), |figure| row.unit.show(figure)),
            extreme(alone, false),
            extreme(alone, true),
            extreme(shared, false),
            extreme(shared, true),
            row.bao.to_owned(),
            row.xen.to_owned(),
            row.kvm.to_owned(),
            row.reach.map_or(String::new(), |reach| format!("<= {}", row.unit.show(reach))),
            verdict(row, measured),
        ]);
    }
    columns(&lines)
}

/// The figures of both values of HCR_EL2.E2H, in the same form.
fn beside(plain: &Measured, vhe: &Measured) -> String {
    let mut lines = vec![["row", "E2H = 0", "E2H = 1", "more"].map(str::to_owned).to_vec()];
    for row in ROWS.iter().filter(|row| plain.selected(row.name)) {
        let (was, is) = (plain.figure(row), vhe.figure(row));
        let show = |figure: Option<f64>| figure.map_or(String::new(), |figure| row.unit.show(figure));
        let more = was.zip(is).map_or(String::new(), |(was, is)| format!("{:+.2} %", (is / was - 1.0) * 100.0));
        lines.push(vec![row.name.to_owned(), show(was), show(is), more]);
    }
    columns(&lines)
}

/// What the traced exits execute, by kind and by room, in the same form.
fn paths(measured: &Measured) -> String {
    let mut lines = vec![vec!["exit path".to_owned()]];
    for (name, kinds) in &measured.kinds {
        let counts = kinds.counts();
        if lines.len() == 1 {
            lines[0].extend(counts.map(|(kind, _)| kind.to_owned()));
        }
        lines.push([(*name).to_owned()].into_iter().chain(counts.map(|(_, count)| count.to_string())).collect());
    }
    let mut text = columns(&lines);
    let mut lines = vec![vec!["room".to_owned()]];
    lines[0].extend(measured.rooms.keys().map(|name| (*name).to_owned()));
    for room in measured.rooms.values().flat_map(|rooms| rooms.keys()).collect::<BTreeSet<_>>() {
        let counts = measured.rooms.values().map(|rooms| rooms.get(room).map_or(String::new(), u64::to_string));
        lines.push([room.clone()].into_iter().chain(counts).collect());
    }
    text.push('\n');
    text.push_str(&columns(&lines));
    text
}

/// The text between two marks of the document replaced by what was measured.
///
/// # Errors
/// The document has no such marks.
fn documented(document: &str, mark: &str, content: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {mark}: begin -->\n"), format!("<!-- {mark}: end -->"));
    let parts = || {
        let (before, rest) = document.split_once(&begin)?;
        Some((before, rest.split_once(&end)?.1))
    };
    let (before, after) = parts().with_context(|| format!("no place for `{mark}` in the document"))?;
    Ok(format!("{before}{begin}{content}{end}{after}"))
}

fn columns(lines: &[Vec<String>]) -> String {
    let mut text = String::new();
    let count = lines.first().map_or(0, Vec::len);
    let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..count).map(width).collect();
    for (number, line) in lines.iter().enumerate() {
        for (at, cell) in line.iter().enumerate() {
            let width = widths[at];
            // Names to the left, figures to the right.
            let _ = if at == 0 { write!(text, "| {cell:width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if number == 0 {
            for (at, width) in widths.iter().enumerate() {
                let (dashes, colon) = if at == 0 { (width + 2, "") } else { (width + 1, ":") };
                let _ = write!(text, "|{}{colon}", "-".repeat(dashes));
            }
            text.push_str("|\n");
        }
    }
    text
}

fn json(measured: &Measured) -> serde_json::Value {
    let stat = |stat: Option<&runs::Stat>| {
        stat.map(|stat| serde_json::json!({ "mean": stat.mean, "min": stat.min, "max": stat.max }))
    };
    let rows: serde_json::Map<_, _> = ROWS
        .iter()
        .filter(|row| measured.selected(row.name))
        .map(|row| {
            let value = serde_json::json!({
                "what": row.what,
                "unit": row.unit.name(),
                "figure": measured.figure(row),
                "bare": stat(measured.bare.get(row.name)),
                "alone": stat(measured.alone.get(row.name)),
                "shared": stat(measured.shared.get(row.name)),
                "references": { "bao": row.bao, "xen": row.xen, "kvm": row.kvm },
                "reach": row.reach,
                "verdict": verdict(row, measured),
            });
            (row.name.to_owned(), value)
        })
        .collect();
    let kinds: serde_json::Map<_, _> = measured
        .kinds
        .iter()
        .map(|(name, kinds)| {
            let counts = kinds.counts().map(|(kind, count)| (kind.to_owned(), serde_json::json!(count)));
            ((*name).to_owned(), serde_json::Value::Object(counts.into_iter().collect()))
        })
        .collect();
    serde_json::json!({ "rows": rows, "exit_paths": kinds })
}

#[cfg(test)]
mod tests;
