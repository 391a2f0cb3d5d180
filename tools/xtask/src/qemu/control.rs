//! A second conversation with the machine, over its control line: `merus ctl` commands in order while the console is watched.

use super::matches;
use std::io::{self, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Duration;

/// The control line of a machine: QEMU makes the socket, the program connects to it.
#[derive(Clone, Debug)]
pub struct Control {
    /// The socket's path, short enough for one (some 100 bytes).
    pub socket: PathBuf,
    /// The program `merus`.
    pub cli: PathBuf,
}

/// One command, and what must come of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// A pattern of a line that must have come on the console since the step before.
    pub after: Option<String>,
    /// What another peer sends first, who then goes away: a text, and how often.
    pub noise: Option<(String, usize)>,
    /// Arguments of `merus ctl`; words in single quotes are one.
    pub run: String,
    /// What it gets on its standard input.
    pub input: String,
    /// Patterns that must be in its output, each in some line; after a `!`, in none.
    pub expect: Vec<String>,
    /// The exit status it must end with.
    pub status: i32,
    /// Run for each number below this one, which stands in for `{n}`; 0 is once, without a number. Where `after` has a `{n}`, each waits.
    pub times: u32,
    /// How often it is run, until what is expected comes; a second lies between.
    pub tries: u32,
}

/// Runs all steps; what they printed. `lines` brings what the console prints, until the run is `over`: how long that may take is
/// nothing that is decided here.
pub fn converse(
    control: &Control,
    steps: &[Step],
    lines: &Receiver<String>,
    over: &AtomicBool,
) -> Result<Vec<String>, String> {
    let mut said = Vec::new();
    for step in steps {
        for n in 0..step.times.max(1) {
            let number = n.to_string();
            let fill = |text: &String| text.replace("{n}", &number);
            // One pattern without a number is waited for once.
            let again = step.after.as_ref().is_some_and(|pattern| pattern.contains("{n}"));
            if let Some(pattern) = step.after.as_ref().filter(|_| n == 0 || again) {
                wait_for(&fill(pattern), lines)?;
            }
            let one = Step { run: fill(&step.run), expect: step.expect.iter().map(fill).collect(), ..step.clone() };
            let text = persist(control, &one, over).map_err(|why| format!("`merus ctl {}`: {why}", one.run))?;
            said.extend(text.lines().map(str::to_owned));
        }
    }
    Ok(said)
}

fn persist(control: &Control, step: &Step, over: &AtomicBool) -> Result<String, String> {
    let mut done = Err("it was never run".to_owned());
    for _ in 0..step.tries.max(1) {
        done = take(control, step);
        if done.is_ok() || over.load(Ordering::Relaxed) {
            break;
        }
        std::thread::sleep(Duration::from_secs(1));
    }
    done
}

fn wait_for(pattern: &str, lines: &Receiver<String>) -> Result<(), String> {
    let came = lines.iter().any(|line| matches(pattern, &line));
    if came { Ok(()) } else { Err(format!("never printed `{pattern}`, which the next command waits for")) }
}

fn take(control: &Control, step: &Step) -> Result<String, String> {
    if let Some((text, times)) = &step.noise {
        let noise =
            UnixStream::connect(&control.socket).and_then(|mut line| line.write_all(text.repeat(*times).as_bytes()));
        noise.map_err(|e| format!("the noise before it: {e}"))?;
    }
    let mut command = Command::new(&control.cli);
    command.arg("ctl").arg("--connect").arg(format!("unix:{}", control.socket.display())).arg("--timeout").arg("60");
    let output = talk(command.args(words(&step.run)), &step.input).map_err(|e| format!("cannot be run: {e}"))?;
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() != Some(step.status) {
        return Err(format!("ended with {}, not status {}: {}", output.status, step.status, text.trim()));
    }
    let has = |pattern: &str| text.lines().any(|line| matches(pattern, line));
    let met = |pattern: &str| pattern.strip_prefix('!').map_or_else(|| has(pattern), |absent| !has(absent));
    match step.expect.iter().find(|pattern| !met(pattern)) {
        Some(pattern) => Err(format!("did not print `{pattern}`, but: {}", text.trim())),
        None => Ok(text),
    }
}

fn talk(command: &mut Command, input: &str) -> io::Result<Output> {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let Some(mut pipe) = child.stdin.take() {
        // One that ends without reading has its reasons.
        let _ = pipe.write_all(input.as_bytes());
    }
    child.wait_with_output()
}

/// Words, parted by blanks that are not in single quotes.
fn words(line: &str) -> Vec<String> {
    let mut words = Vec::new();
    for (index, part) in line.split('\'').enumerate() {
        if index % 2 == 1 {
            words.push(part.to_owned());
        } else {
            words.extend(part.split_whitespace().map(str::to_owned));
        }
    }
    words
}

/// Where a machine's socket may be: in the system's folder for such things, because a path in the checkout may be too long.
pub fn socket(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("merus-{}-{name:.40}.sock", std::process::id()))
}

/// Whether a path is short enough for a socket.
pub fn fits(path: &Path) -> bool {
    path.as_os_str().len() < 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    fn step(run: &str, expect: &[&str], status: i32) -> Step {
        let expect = expect.iter().map(|text| (*text).to_owned()).collect();
        Step { after: None, noise: None, run: run.to_owned(), input: String::new(), expect, status, times: 0, tries: 1 }
    }

    fn run(steps: &[Step], lines: &[&str]) -> Result<Vec<String>, String> {
        // `echo` stands in for the program: it prints its arguments.
        let control = Control { socket: "/s".into(), cli: "echo".into() };
        let (to, from) = mpsc::channel();
        lines.iter().for_each(|line| to.send((*line).to_owned()).unwrap());
        drop(to);
        converse(&control, steps, &from, &AtomicBool::new(false))
    }

    #[test]
    fn each_command_must_say_what_is_expected_and_end_so() {
        let said = run(&[step("list", &["ctl --connect unix:/s * list"], 0)], &[]).unwrap();
        assert!(said[0].starts_with("ctl --connect unix:/s") && said[0].ends_with(" list"), "{said:?}");
        assert!(run(&[step("list", &["!unix:/s"], 0)], &[]).unwrap_err().contains("did not print `!unix:/s`"));
        assert!(run(&[step("list", &["!nothing"], 0)], &[]).is_ok());
        assert!(run(&[step("list", &["nothing"], 0)], &[]).unwrap_err().contains("did not print `nothing`"));
        assert!(run(&[step("list", &[], 3)], &[]).unwrap_err().contains("not status 3"));
    }

    #[test]
    fn a_command_waits_for_its_line() {
        let waits = Step { after: Some("up *".into()), ..step("list", &[], 0) };
        assert!(run(&[waits.clone(), waits.clone()], &["x", "up 1", "y", "up 2"]).is_ok());
        assert!(run(&[waits.clone(), waits], &["up 1"]).unwrap_err().contains("never printed `up *`"));
        let each = Step { after: Some("up {n}".into()), times: 3, ..step("reset {n}", &["reset {n}"], 0) };
        assert!(run(std::slice::from_ref(&each), &["up 0", "up 1", "x", "up 2"]).is_ok());
        assert!(run(&[each], &["up 0", "up 2", "up 1"]).unwrap_err().contains("never printed `up 2`"));
        let once = Step { after: Some("up".into()), times: 3, ..step("reset {n}", &[], 0) };
        assert_eq!(run(&[once], &["up"]).unwrap().len(), 3);
    }

    #[test]
    fn a_command_is_repeated_until_it_says_so_or_the_run_is_over() {
        let dir = tempfile::tempdir().unwrap();
        let cli = dir.path().join("cli");
        std::fs::write(&cli, "#!/bin/sh\necho x >>\"$0.log\"\ngrep -c x \"$0.log\"\n").unwrap();
        std::fs::set_permissions(&cli, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let control = Control { socket: "/s".into(), cli };
        let runs = || std::fs::read_to_string(dir.path().join("cli.log")).unwrap().lines().count();
        let (_to, from) = mpsc::channel();
        let twice = Step { tries: 5, ..step("list", &["2"], 0) };
        assert_eq!(converse(&control, &[twice], &from, &AtomicBool::new(false)), Ok(vec!["2".to_owned()]));
        let never = Step { tries: 5, ..step("list", &["none"], 0) };
        assert!(converse(&control, &[never], &from, &AtomicBool::new(true)).unwrap_err().contains("none"));
        assert_eq!(runs(), 3);
    }

    #[test]
    fn a_command_is_run_for_each_number() {
        let each = Step { times: 3, ..step("list {n}", &["list {n}"], 0) };
        assert_eq!(run(&[each], &[]).unwrap().len(), 3);
        let not = Step { times: 3, ..step("list {n}", &["list 1"], 0) };
        assert!(run(&[not], &[]).unwrap_err().contains("`merus ctl list 0`"));
    }

    #[test]
    fn quotes_keep_words_together() {
        assert_eq!(words("create a --cmdline 'x y=1'  --start"), ["create", "a", "--cmdline", "x y=1", "--start"]);
    }
}
