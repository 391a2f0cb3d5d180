//! `merus ctl top` on a terminal.

use super::Session;
use super::top::{self, Frame, PCPU_HEADER, Sample, Sort, VM_HEADER};
use merus_client::Error;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::Line;
use ratatui::widgets::{Row, Table, TableState};
use std::io::{IsTerminal, stdout};
use std::time::{Duration, Instant};

const KEYS: &str = "q quits   sort: c cpu, m memory, e exits, s steal, n name   up/down";

/// What is on the screen.
struct Screen {
    sort: Sort,
    selected: usize,
}

/// What a key asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Wish {
    Quit,
    Draw,
    Nothing,
}

impl Screen {
    fn key(&mut self, code: KeyCode, modifiers: KeyModifiers, vms: usize) -> Wish {
        match code {
            KeyCode::Char('c') if modifiers.contains(KeyModifiers::CONTROL) => return Wish::Quit,
            KeyCode::Char('q') | KeyCode::Esc => return Wish::Quit,
            KeyCode::Char('c') => self.sort = Sort::Cpu,
            KeyCode::Char('m') => self.sort = Sort::Memory,
            KeyCode::Char('e') => self.sort = Sort::Exits,
            KeyCode::Char('s') => self.sort = Sort::Steal,
            KeyCode::Char('n') => self.sort = Sort::Name,
            KeyCode::Down => self.selected = (self.selected + 1).min(vms.saturating_sub(1)),
            KeyCode::Up => self.selected = self.selected.saturating_sub(1),
            _ => return Wish::Nothing,
        }
        Wish::Draw
    }

    fn draw(&self, frame: &Frame, to: &mut ratatui::Frame<'_>) {
        let pcpu_lines = u16::try_from(frame.pcpus.len()).unwrap_or(u16::MAX).saturating_add(2);
        let most = (to.area().height / 3).max(4);
        let rows = [
            Constraint::Length(2),
            Constraint::Length(pcpu_lines.min(most)),
            Constraint::Min(2),
            Constraint::Length(1),
        ];
        let [title, pcpus, vms, keys] = Layout::vertical(rows).areas(to.area());
        let bold = Style::new().add_modifier(Modifier::BOLD);
        to.render_widget(Line::styled(frame.title.as_str(), bold), title);

        let lines = frame.pcpus.iter().map(|p| {
            let mut cells = p.cells();
            let full = (p.load / 5.0).round() as usize;
            cells.insert(1, format!("[{:<20}]", "|".repeat(full.min(20))));
            let colour = if p.load >= 90.0 { Color::Red } else { Color::Green };
            Row::new(cells).style(Style::new().fg(colour))
        });
        let widths = [4, 22, 7, 36, 6, 8].map(Constraint::Length);
        let [pcpu, load, running, ready, taken] = PCPU_HEADER;
        let header = Row::new([pcpu, "", load, running, ready, taken]).style(bold);
        to.render_widget(Table::new(lines, widths).header(header), pcpus);

        let lines = frame.vms.iter().map(|v| Row::new(v.cells()));
        // The name keeps its room on a narrow terminal.
        let mut widths = [0, 10, 22, 5, 6, 6, 10, 8, 8].map(Constraint::Max);
        widths[0] = Constraint::Min(12);
        let table = Table::new(lines, widths).header(Row::new(VM_HEADER).style(bold));
        let mut state = TableState::new().with_selected(Some(self.selected));
        let table = table.row_highlight_style(Style::new().add_modifier(Modifier::REVERSED));
        to.render_stateful_widget(table, vms, &mut state);
        to.render_widget(Line::raw(KEYS), keys);
    }
}

/// Shows frames until it is told to quit.
pub fn run(s: &mut Session, interval: Duration, sort: Sort) -> Result<(), Error> {
    if s.json || !stdout().is_terminal() {
        return top::once(s, interval, sort);
    }
    let fault = |source| Error::File { path: "the terminal".into(), source };
    let mut old = Sample::take(&mut s.client)?;
    let mut terminal = ratatui::try_init().map_err(fault)?;
    let mut screen = Screen { sort, selected: 0 };
    let done = (|| {
        let mut frame = Frame::between(&old, &old, sort);
        let mut next = Instant::now() + interval;
        loop {
            frame.sort(screen.sort);
            screen.selected = screen.selected.min(frame.vms.len().saturating_sub(1));
            terminal.draw(|to| screen.draw(&frame, to)).map_err(fault)?;
            loop {
                let left = next.saturating_duration_since(Instant::now());
                if !poll(left).map_err(fault)? {
                    break;
                }
                let wish = match read().map_err(fault)? {
                    Event::Key(key) if key.kind == KeyEventKind::Press => {
                        screen.key(key.code, key.modifiers, frame.vms.len())
                    }
                    Event::Resize(..) => Wish::Draw,
                    _ => Wish::Nothing,
                };
                match wish {
                    Wish::Quit => return Ok(()),
                    Wish::Draw => {
                        frame.sort(screen.sort);
                        terminal.draw(|to| screen.draw(&frame, to)).map_err(fault)?;
                    }
                    Wish::Nothing => {}
                }
            }
            let new = Sample::take(&mut s.client)?;
            frame = Frame::between(&old, &new, screen.sort);
            old = new;
            next = Instant::now() + interval;
        }
    })();
    ratatui::restore();
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    #[test]
    fn the_screen_has_what_the_text_has() {
        let mut terminal = Terminal::new(TestBackend::new(120, 16)).unwrap();
        let screen = Screen { sort: Sort::Cpu, selected: 1 };
        let frame = top::tests::frame(Sort::Cpu);
        terminal.draw(|to| screen.draw(&frame, to)).unwrap();
        let buffer = terminal.backend().buffer();
        let line = |y: u16| (0..120).map(|x| buffer[(x, y)].symbol()).collect::<String>();
        assert!(line(0).starts_with("Merus 0.1.0 on virt: up 3 s"), "{}", line(0));
        assert!(line(3).contains("[||||||||||||||||||||] 100.0%") && line(3).contains("web/1"), "{}", line(3));
        assert!(line(4).contains("[|||||               ]"), "{}", line(4));
        let vms: Vec<String> = (5..15).map(line).filter(|line| line.contains("running")).collect();
        assert_eq!(vms.len(), 4, "{vms:?}");
        assert!(vms[0].starts_with("web") && vms[0].contains("150.0") && vms[0].contains("130 MiB"), "{}", vms[0]);
        assert!((5..15).map(line).any(|line| line.contains("THROTTLED%") && line.contains("EXITS/S")));
        assert!(line(15).starts_with(KEYS));
        // A terminal too small for anything is no reason to die.
        let mut terminal = Terminal::new(TestBackend::new(3, 2)).unwrap();
        terminal.draw(|to| screen.draw(&frame, to)).unwrap();
    }

    #[test]
    fn keys() {
        let mut screen = Screen { sort: Sort::Cpu, selected: 0 };
        let mut press = |code| (screen.key(code, KeyModifiers::NONE, 2), screen.sort, screen.selected);
        assert_eq!(press(KeyCode::Char('m')), (Wish::Draw, Sort::Memory, 0));
        assert_eq!(press(KeyCode::Down), (Wish::Draw, Sort::Memory, 1));
        assert_eq!(press(KeyCode::Down), (Wish::Draw, Sort::Memory, 1));
        assert_eq!(press(KeyCode::Up), (Wish::Draw, Sort::Memory, 0));
        assert_eq!(press(KeyCode::Char('x')).0, Wish::Nothing);
        assert_eq!(press(KeyCode::Char('q')).0, Wish::Quit);
        assert_eq!(screen.key(KeyCode::Char('c'), KeyModifiers::CONTROL, 2), Wish::Quit);
    }
}
