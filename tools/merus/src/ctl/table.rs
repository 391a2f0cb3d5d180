//! Tables and figures as people read them.

/// Columns under a header. `align`: a `<` or `>` for each column.
pub fn table(align: &str, header: &[&str], rows: &[Vec<String>]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count());
        cells.chain(header.get(column).map(|cell| cell.len())).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let mut line = String::new();
        for ((cell, width), align) in cells.zip(&widths).zip(align.chars()) {
            if !line.is_empty() {
                line.push_str("  ");
            }
            line += &if align == '>' { format!("{cell:>width$}") } else { format!("{cell:<width$}") };
        }
        format!("{}\n", line.trim_end())
    };
    let mut text = line(&mut header.iter().copied());
    for row in rows {
        text += &line(&mut row.iter().map(String::as_str));
    }
    text
}

/// Bytes, in the largest unit that leaves at least 10 of it or a whole number.
pub fn bytes(n: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.iter().find(|(shift, _)| n >> shift >= 10 || (n >> shift > 0 && n.is_multiple_of(1 << shift)));
    unit.map_or_else(|| format!("{n} B"), |(shift, unit)| format!("{} {unit}", n >> shift))
}

/// A time.
pub fn time(ns: u64) -> String {
    match ns {
        0..10_000 => format!("{ns} ns"),
        10_000..10_000_000 => format!("{:.1} us", ns as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// A time since Merus started, in a column.
pub fn stamp(ns: u64) -> String {
    format!("{:>6}.{:03}", ns / 1_000_000_000, ns / 1_000_000 % 1000)
}

/// `cpu.max` as it is written.
pub fn cpu_max(max: Option<(u64, u64)>) -> String {
    match max {
        None => "max".into(),
        Some((quota, period)) if period > 0 && (quota * 100).is_multiple_of(period) => {
            format!("{}%", quota * 100 / period)
        }
        Some((quota, period)) => format!("{quota} {period}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures() {
        let sizes = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1 << 20, "1 MiB"),
            (1_600_000, "1562 KiB"),
            (130 << 20, "130 MiB"),
            (2 << 30, "2 GiB"),
        ];
        for (n, text) in sizes {
            assert_eq!(bytes(n), text);
        }
        assert_eq!(
            (time(9_999), time(12_500), time(20_000_000)),
            ("9999 ns".into(), "12.5 us".into(), "20.0 ms".into())
        );
        assert_eq!(stamp(12_345_678_900), "    12.345");
        let caps = [None, Some((50_000, 100_000)), Some((1, 3))].map(cpu_max);
        assert_eq!(caps, ["max", "50%", "1 3"]);
        assert_eq!(table("<>", &["a", "bb"], &[vec!["x".into(), "7".into()]]), "a  bb\nx   7\n");
    }
}
