//! `merus ctl top` on a terminal: the machine, its pCPUs, the VMs, and one of them with its vCPUs, its exits by reason and its devices.

use super::Session;
use super::table::bytes;
use super::top::{self, Frame, PCPU_HEADER, Sample, Sort, VmLine};
use super::top_detail::{Detail, Look, VCPU_HEADER};
use super::top_devices::DEVICE_HEADER;
use merus_client::Error;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use ratatui::layout::{Alignment, Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Cell, Row, Table, TableState};
use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

const KEYS: &str = "q quits   up, down: which VM   order: c cpu, m memory, e exits, s steal, n name";

/// Cells of a bar.
const BAR: usize = 20;

const BOLD: Style = Style::new().add_modifier(Modifier::BOLD);

/// What the user has chosen.
struct Screen {
    sort: Sort,
    /// The VM that is shown closely; the first one until one is chosen, and when it has gone.
    selected: Option<String>,
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Quit,
    Draw,
    Nothing,
}

/// A bar of so many percent.
fn bar(percent: f64) -> String {
    let full = (percent * BAR as f64 / 100.0).round() as usize;
    format!("[{:<BAR$}]", "|".repeat(full.min(BAR)))
}

/// Cells with figures, to the right; the columns in `texts` are no figures.
fn figures(cells: Vec<String>, texts: &[usize]) -> Row<'static> {
    let cell = |(n, text): (usize, String)| {
        let alignment = if texts.contains(&n) { Alignment::Left } else { Alignment::Right };
        Cell::from(Line::from(text).alignment(alignment))
    };
    Row::new(cells.into_iter().enumerate().map(cell))
}

/// How a VM stopped is enough to tell that it did.
fn state(text: &str) -> String {
    text.strip_prefix("stopped (").map_or(text, |why| why.trim_end_matches(')')).to_owned()
}

impl Screen {
    fn key(&mut self, code: KeyCode, modifiers: KeyModifiers, vms: &[VmLine]) -> Wish {
        let at = self.index(vms);
        let to = match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('c') => return self.sorted(Sort::Cpu),
            KeyCode::Char('m') => return self.sorted(Sort::Memory),
            KeyCode::Char('e') => return self.sorted(Sort::Exits),
            KeyCode::Char('s') => return self.sorted(Sort::Steal),
            KeyCode::Char('n') => return self.sorted(Sort::Name),
            KeyCode::Down | KeyCode::Char('j') => at + 1,
            KeyCode::Up | KeyCode::Char('k') => at.saturating_sub(1),
            KeyCode::Home => 0,
            KeyCode::End => vms.len(),
            _ => return Wish::Nothing,
        };
        self.selected = vms.get(to.min(vms.len().saturating_sub(1))).map(|vm| vm.name.clone());
        Wish::Draw
    }

    fn sorted(&mut self, sort: Sort) -> Wish {
        self.sort = sort;
        Wish::Draw
    }

    /// Where the chosen VM stands.
    fn index(&self, vms: &[VmLine]) -> usize {
        self.selected.as_ref().and_then(|name| vms.iter().position(|vm| vm.name == *name)).unwrap_or(0)
    }

    fn draw(&self, frame: &Frame, detail: Option<&Detail>, to: &mut ratatui::Frame<'_>) {
        let area = to.area();
        let lines = |n: usize| u16::try_from(n).unwrap_or(u16::MAX);
        // Of what the title and the keys leave: no table takes all of it from those below.
        let pcpus = lines(frame.pcpus.len()).saturating_add(2).min((area.height / 3).max(4));
        let rest = area.height.saturating_sub(pcpus.saturating_add(4));
        let closer = detail
            .map_or(0, |d| lines(d.vcpus.len().max(d.exits.len())).saturating_add(3).saturating_add(device_lines(d)));
        let vms = lines(frame.vms.len()).saturating_add(2).min(rest.saturating_sub(closer.min(rest / 2)));
        let rows = [Constraint::Length(3), Constraint::Length(pcpus), Constraint::Length(vms)];
        let rows = [&rows[..], &[Constraint::Fill(1), Constraint::Length(1)]].concat();
        let [title, pcpus, vms, closer, keys] = Layout::vertical(rows).areas(area);
        draw_machine(frame, to, title);
        draw_pcpus(frame, to, pcpus);
        self.draw_vms(frame, to, vms);
        if let Some(detail) = detail {
            draw_detail(detail, to, closer);
        }
        to.render_widget(Line::styled(KEYS, Style::new().add_modifier(Modifier::DIM)), keys);
    }

    fn draw_vms(&self, frame: &Frame, to: &mut ratatui::Frame<'_>, area: Rect) {
        let longest = |text: fn(&VmLine) -> usize, least: usize| {
            Constraint::Length(frame.vms.iter().map(text).chain([least]).max().unwrap_or(least) as u16)
        };
        let columns: [(&str, Option<Sort>, Constraint); 10] = [
            ("VM", Some(Sort::Name), longest(|v| v.name.len(), 12)),
            ("STATE", None, longest(|v| state(&v.state).len(), 7)),
            ("WEIGHT", None, Constraint::Length(6)),
            ("VCPUS", None, Constraint::Length(5)),
            ("CPU%", Some(Sort::Cpu), Constraint::Length(6)),
            ("STEAL%", Some(Sort::Steal), Constraint::Length(6)),
            ("HELD%", None, Constraint::Length(6)),
            ("MEMORY", Some(Sort::Memory), Constraint::Length(8)),
            ("EXITS/S", Some(Sort::Exits), Constraint::Length(7)),
            ("GROUP", None, longest(|v| v.group.len(), 5)),
        ];
        let texts = [0, 1, 9];
        let row = |v: &VmLine| {
            let mut cells = vec![v.name.clone(), state(&v.state), v.weight.to_string(), v.vcpus.to_string()];
            cells.extend([v.cpu, v.steal, v.throttled].map(|n| format!("{n:.1}")));
            cells.extend([bytes(v.memory), format!("{:.0}", v.exits), v.group.clone()]);
            let colour = if v.state == "running" { Color::Reset } else { Color::DarkGray };
            figures(cells, &texts).style(Style::new().fg(colour))
        };
        let header = columns.iter().enumerate().map(|(n, (name, sort, _))| {
            // What the order goes by is marked.
            let style = if *sort == Some(self.sort) { BOLD.add_modifier(Modifier::UNDERLINED) } else { BOLD };
            let alignment = if texts.contains(&n) { Alignment::Left } else { Alignment::Right };
            Cell::from(Line::from(Span::styled(*name, style)).alignment(alignment))
        });
        let table = Table::new(frame.vms.iter().map(row), columns.iter().map(|(_, _, width)| *width));
        let table = table.header(Row::new(header)).row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        let mut state = TableState::new().with_selected((!frame.vms.is_empty()).then(|| self.index(&frame.vms)));
        to.render_stateful_widget(table, area, &mut state);
    }
}

fn draw_machine(frame: &Frame, to: &mut ratatui::Frame<'_>, area: Rect) {
    let (all, free) = frame.memory;
    let used = all.saturating_sub(free);
    let full = bar(used as f64 * 100.0 / all.max(1) as f64);
    let [title, memory, _] = Layout::vertical([Constraint::Length(1); 3]).areas(area);
    to.render_widget(Line::styled(frame.head.as_str(), BOLD), title);
    let text = format!("MEM  {full} {} of {} used", bytes(used), bytes(all));
    to.render_widget(Line::styled(text, Style::new().fg(Color::Cyan)), memory);
}

fn draw_pcpus(frame: &Frame, to: &mut ratatui::Frame<'_>, area: Rect) {
    let texts = [1, 3];
    let row = |p: &top::PcpuLine| {
        let mut cells = p.cells();
        cells.insert(1, bar(p.load));
        let colour = if p.load >= 90.0 { Color::Red } else { Color::Green };
        figures(cells, &texts).style(Style::new().fg(colour))
    };
    let [pcpu, load, running, ready, taken] = PCPU_HEADER;
    let header = [pcpu, "", load, running, ready, taken].map(str::to_owned).to_vec();
    let widths = [4, BAR as u16 + 2, 6, 20, 5, 7].map(Constraint::Length);
    to.render_widget(Table::new(frame.pcpus.iter().map(row), widths).header(figures(header, &texts).style(BOLD)), area);
}

/// Lines that a VM's devices take, an empty one before them.
fn device_lines(detail: &Detail) -> u16 {
    let count = u16::try_from(detail.devices.len()).unwrap_or(u16::MAX);
    if count == 0 { 0 } else { count.saturating_add(2) }
}

/// The devices above, the vCPUs to the left, the exits to the right.
fn draw_detail(detail: &Detail, to: &mut ratatui::Frame<'_>, area: Rect) {
    let devices = device_lines(detail).min(area.height / 2);
    let rows = [Constraint::Length(1), Constraint::Length(devices), Constraint::Fill(1)];
    let [head, devices, tables] = Layout::vertical(rows).areas(area);
    let left = [Constraint::Length(56), Constraint::Length(2), Constraint::Length(22)];
    let [vcpus, _, exits] = Layout::horizontal(left).areas(tables);
    to.render_widget(Line::styled(format!("vm \"{}\"", detail.vm), BOLD.fg(Color::Cyan)), head);
    let header = |names: &[&str], texts: &[usize]| {
        figures(names.iter().map(|name| (*name).to_owned()).collect(), texts).style(BOLD)
    };
    let rows = detail.devices.iter().map(|device| figures(device.cells(), &[0, 6]));
    let widths = [6, 8, 9, 6, 8, 5, 32].map(Constraint::Length);
    to.render_widget(Table::new(rows, widths).header(header(&DEVICE_HEADER, &[0, 6])), devices);
    let widths = [4, 9, 4, 5, 6, 6, 8, 7].map(Constraint::Length);
    let rows = detail.vcpus.iter().map(|vcpu| figures(vcpu.cells(), &[1]));
    to.render_widget(Table::new(rows, widths).header(header(&VCPU_HEADER, &[1])), vcpus);
    let rows = detail.exits.iter().map(|(reason, rate)| figures(vec![reason.clone(), format!("{rate:.0}")], &[0]));
    let widths = [Constraint::Length(13), Constraint::Length(8)];
    to.render_widget(Table::new(rows, widths).header(header(&["EXIT", "EXITS/S"], &[0])), exits);
}

/// Shows frames until it is told to quit.
pub fn run(s: &mut Session, interval: Duration, sort: Sort) -> Result<(), Error> {
    if s.json || !stdout().is_terminal() {
        return top::once(s, interval, sort);
    }
    // What cannot be had at all is told before the terminal is another one.
    let first = Sample::take(&mut s.client)?;
    let mut terminal = ratatui::try_init().map_err(fault)?;
    let done = show(s, &mut terminal, interval, sort, first);
    ratatui::restore();
    done
}

fn fault(source: std::io::Error) -> Error {
    Error::File { path: "the terminal".into(), source }
}

fn show(
    s: &mut Session,
    terminal: &mut ratatui::DefaultTerminal,
    interval: Duration,
    sort: Sort,
    first: Sample,
) -> Result<(), Error> {
    let mut screen = Screen { sort, selected: None };
    let mut frame = Frame::between(&first, &first, sort);
    let mut look = closer(s, &screen, &frame, &first)?;
    let mut detail = look.as_ref().map(|look| Detail::between(None, look));
    let mut old = first;
    loop {
        let next = Instant::now() + interval;
        let mut draw = true;
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            if std::mem::take(&mut draw) {
                frame.sort(screen.sort);
                terminal.draw(|to| screen.draw(&frame, detail.as_ref(), to)).map_err(fault)?;
            }
            if !poll(left).map_err(fault)? {
                break;
            }
            let wish = match read().map_err(fault)? {
                Event::Key(key) if key.kind == KeyEventKind::Press => screen.key(key.code, key.modifiers, &frame.vms),
                Event::Resize(..) => Wish::Draw,
                _ => Wish::Nothing,
            };
            match wish {
                Wish::Quit => return Ok(()),
                Wish::Draw => draw = true,
                Wish::Nothing => {}
            }
            let wanted = frame.vms.get(screen.index(&frame.vms)).map(|vm| &vm.name);
            if wanted != detail.as_ref().map(|detail| &detail.vm) {
                look = closer(s, &screen, &frame, &old)?;
                detail = look.as_ref().map(|look| Detail::between(None, look));
            }
        }
        let new = Sample::take(&mut s.client)?;
        frame = Frame::between(&old, &new, screen.sort);
        let now = closer(s, &screen, &frame, &new)?;
        detail = now.as_ref().map(|now| Detail::between(look.as_ref(), now));
        (look, old) = (now, new);
    }
}

/// A look at the VM that is chosen.
fn closer(s: &mut Session, screen: &Screen, frame: &Frame, sample: &Sample) -> Result<Option<Look>, Error> {
    match frame.vms.get(screen.index(&frame.vms)).and_then(|vm| sample.vm(&vm.name)) {
        Some(vm) => Look::take(&mut s.client, vm, sample.at_ns()),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn drawn(width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        let screen = Screen { sort: Sort::Cpu, selected: Some("db".into()) };
        let (frame, detail) = (top::tests::frame(Sort::Cpu), super::super::top_detail::tests::detail());
        terminal.draw(|to| screen.draw(&frame, Some(&detail), to)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y| (0..width).map(|x| buffer[(x, y)].symbol()).collect::<String>().trim_end().to_owned();
        (0..height).map(line).collect()
    }

    #[test]
    fn the_screen_has_all_there_is() {
        for (width, height) in [(80, 24), (200, 50)] {
            let lines = drawn(width, height);
            let expected = [
                "Merus 0.1.0 on virt: up 3 s, 2 pCPUs, 4 VMs",
                "MEM  [||||||||||          ] 512 MiB of 1 GiB used",
                "",
                "PCPU                          LOAD RUNNING              READY TAKEN/S",
                "   0 [||||||||||||||||||||] 100.0% web/1                    0     1.0",
                "   1 [|||||               ]  25.0% -                        1     1.0",
                "",
                "VM           STATE   WEIGHT VCPUS   CPU% STEAL%  HELD%   MEMORY EXITS/S GROUP",
                "web          running    100     2  150.0   15.0    0.0  130 MiB     300 -",
                "db           running    100     2   25.0    2.5    0.0  130 MiB    2000 -",
                "new          running    100     2    0.0    0.0    0.0  130 MiB       0 -",
                "old          running    100     2    0.0    0.0    0.0  130 MiB       0 -",
                "",
                "vm \"web\"",
                "DEVICE   READ/S WRITTEN/S REQS/S ERRORS/S DEPTH WHAT",
                "disk0  1600 KiB   200 KiB    600        4     3 root.img",
                "disk1       0 B       0 B      0        0     3 root.img",
                "",
                "VCPU STATE     PCPU  CPU% STEAL% SLEEP% SWITCH/S MOVES/S  EXIT           EXITS/S",
                "   0 ready        1  50.0   25.0    0.0      200       0  call               100",
                "                                                          irq                  0",
            ];
            let cut: Vec<String> = expected.iter().map(|l| l.chars().take(width.into()).collect()).collect();
            assert_eq!(&lines[..expected.len()], &cut[..], "{width} x {height}");
            assert!(lines.last().unwrap().starts_with(KEYS), "{lines:?}");
        }
    }

    /// A terminal too small for anything is no reason to die.
    #[test]
    fn any_size_is_drawn() {
        for (width, height) in [(1, 1), (3, 2), (20, 5), (79, 9), (400, 4)] {
            drawn(width, height);
        }
    }

    #[test]
    fn keys() {
        let frame = top::tests::frame(Sort::Name);
        let mut screen = Screen { sort: Sort::Cpu, selected: None };
        let mut press = |code| {
            let wish = screen.key(code, KeyModifiers::NONE, &frame.vms);
            (wish, screen.sort, screen.selected.clone().unwrap_or_default())
        };
        assert_eq!(press(KeyCode::Char('m')), (Wish::Draw, Sort::Memory, String::new()));
        assert_eq!(press(KeyCode::Down), (Wish::Draw, Sort::Memory, "new".into()));
        assert_eq!(press(KeyCode::Char('j')).2, "old");
        assert_eq!(press(KeyCode::End).2, "web");
        assert_eq!(press(KeyCode::Down).2, "web");
        assert_eq!(press(KeyCode::Up).2, "old");
        assert_eq!(press(KeyCode::Home).2, "db");
        assert_eq!(press(KeyCode::Up).2, "db");
        assert_eq!(press(KeyCode::Char('x')).0, Wish::Nothing);
        assert_eq!(press(KeyCode::Char('q')).0, Wish::Quit);
        assert_eq!(screen.key(KeyCode::Char('c'), KeyModifiers::CONTROL, &frame.vms), Wish::Quit);
        assert_eq!(screen.key(KeyCode::Down, KeyModifiers::NONE, &[]), Wish::Draw);
    }

    #[test]
    fn states_are_short() {
        assert_eq!(state("stopped (powered off)"), "powered off");
        assert_eq!(state("running"), "running");
    }
}
