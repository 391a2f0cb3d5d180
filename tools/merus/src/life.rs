//! A VM's life: calls that begin something, and waiting until it has come to its end.

use crate::client::Client;
use crate::error::Error;
use proto::{Call, EventKind, NewVm, Refusal, StopKind, VmRow, VmState};
use std::time::{Duration, Instant};

/// How often a VM's state is looked at.
pub const POLL: Duration = Duration::from_millis(50);

/// Makes a VM; with `wait`, until its memory is filled.
///
/// # Errors
/// As [`Client::call`]; [`Error::Failed`] and [`Error::Waiting`].
pub fn create(client: &mut Client, new: NewVm, wait: Option<Duration>) -> Result<(), Error> {
    let vm = new.name.clone();
    client.done(&Call::Create(new))?;
    let Some(limit) = wait else { return Ok(()) };
    until(client, &vm, limit, "created", |row| row.state != VmState::Creating).map(|_| ())
}

/// Runs a VM; with `wait`, until it runs (or has run).
///
/// # Errors
/// As [`create`].
pub fn start(client: &mut Client, vm: &str, wait: Option<Duration>) -> Result<(), Error> {
    client.done(&Call::Start { vm: vm.into() })?;
    let Some(limit) = wait else { return Ok(()) };
    until(client, vm, limit, "running", |row| !matches!(row.state, VmState::Creating | VmState::Created)).map(|_| ())
}

/// With `wait`, waits until a VM has ended by itself.
///
/// # Errors
/// As [`create`].
pub fn ended(client: &mut Client, vm: &str, wait: Option<Duration>) -> Result<(), Error> {
    let Some(limit) = wait else { return Ok(()) };
    until(client, vm, limit, "stopped", |row| matches!(row.state, VmState::Stopped(_))).map(|_| ())
}

/// Pauses a VM; with `wait`, until no vCPU of it runs.
///
/// # Errors
/// As [`create`]; [`Error::Ended`].
pub fn pause(client: &mut Client, vm: &str, wait: Option<Duration>) -> Result<(), Error> {
    client.done(&Call::Pause { vm: vm.into() })?;
    let Some(limit) = wait else { return Ok(()) };
    until(client, vm, limit, "paused", |row| row.state != VmState::Pausing).and_then(|row| living(row, "be paused"))
}

/// Makes a VM begin again; with `wait`, until it has.
///
/// # Errors
/// As [`pause`].
pub fn reset(client: &mut Client, vm: &str, wait: Option<Duration>) -> Result<(), Error> {
    let before = client.info(vm)?.resets;
    client.done(&Call::Reset { vm: vm.into() })?;
    let Some(limit) = wait else { return Ok(()) };
    let done = |row: &VmRow| row.resets > before || matches!(row.state, VmState::Stopped(_));
    until(client, vm, limit, "reset", done).and_then(|row| living(row, "be reset"))
}

/// Asks a VM to power off and ends it after `grace`; with `wait`, until it has ended (the grace comes on top).
///
/// # Errors
/// As [`create`].
pub fn stop(client: &mut Client, vm: &str, grace: Duration, wait: Option<Duration>) -> Result<(), Error> {
    let grace_ms = u32::try_from(grace.as_millis()).unwrap_or(u32::MAX);
    client.done(&Call::Stop { vm: vm.into(), grace_ms })?;
    let Some(limit) = wait else { return Ok(()) };
    let limit = limit.saturating_add(grace);
    until(client, vm, limit, "stopped", |row| matches!(row.state, VmState::Stopped(_))).map(|_| ())
}

/// Takes a VM away. With `force`, whatever it does: it is ended first, within `limit`.
///
/// # Errors
/// As [`create`].
pub fn destroy(client: &mut Client, vm: &str, force: bool, limit: Duration) -> Result<(), Error> {
    let destroy = Call::Destroy { vm: vm.into() };
    let deadline = Instant::now() + limit;
    loop {
        let refusal = match client.done(&destroy) {
            Err(Error::Refused(refusal @ Refusal::State { .. })) if force => refusal,
            other => return other,
        };
        if Instant::now() >= deadline {
            return Err(Error::Refused(refusal));
        }
        // A VM on its way (pausing, resetting, stopping) gets there first.
        match client.done(&Call::Stop { vm: vm.into(), grace_ms: 0 }) {
            Ok(()) | Err(Error::Refused(Refusal::State { .. })) => std::thread::sleep(POLL),
            Err(error) => return Err(error),
        }
    }
}

fn living(row: VmRow, wanted: &str) -> Result<(), Error> {
    match row.state {
        VmState::Stopped(_) => Err(Error::Ended { vm: row.name, state: row.state, wanted: wanted.into() }),
        _ => Ok(()),
    }
}

/// Looks at a VM until `done`.
fn until(
    client: &mut Client,
    vm: &str,
    limit: Duration,
    wanted: &'static str,
    done: impl Fn(&VmRow) -> bool,
) -> Result<VmRow, Error> {
    let deadline = Instant::now() + limit;
    loop {
        let row = client.info(vm)?;
        if row.state == VmState::Stopped(StopKind::Failed) {
            return Err(Error::Failed { vm: vm.into(), why: failure(client, vm)? });
        }
        if done(&row) {
            return Ok(row);
        }
        if Instant::now() >= deadline {
            return Err(Error::Waiting { vm: vm.into(), state: row.state, wanted, limit });
        }
        std::thread::sleep(POLL);
    }
}

/// The last event that says why a VM could not be made.
fn failure(client: &mut Client, vm: &str) -> Result<String, Error> {
    let (mut from, mut why) = (0, None);
    loop {
        let page = client.events(from)?;
        for row in page.rows.into_iter().filter(|row| row.vm == vm) {
            if let EventKind::Refused(text) = row.kind {
                why = Some(text);
            }
        }
        if !page.more || page.next <= from {
            return Ok(why.unwrap_or_else(|| "`merus ctl log` may tell why".into()));
        }
        from = page.next;
    }
}
