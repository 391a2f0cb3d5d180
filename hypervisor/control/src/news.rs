//! News from the host: what was begun has come to its end.

use crate::calls::Control;
use crate::host::VmNumber;
use proto::{EventKind, StopKind, VmState};

impl Control {
    /// A VM's memory is filled. `true`: it is to run now.
    pub fn made(&mut self, now_ns: u64, vm: VmNumber) -> bool {
        let Some(record) = self.registry.numbered(vm).filter(|r| r.state == VmState::Creating) else { return false };
        let run = core::mem::take(&mut record.run);
        record.state = if run { VmState::Running } else { VmState::Created };
        let name = record.name();
        self.events.add(now_ns, &name, EventKind::Created);
        if run {
            self.events.add(now_ns, &name, EventKind::Started);
        }
        run
    }

    /// A VM could not be made, or not be made again: what it had is gone.
    pub fn failed(&mut self, now_ns: u64, vm: VmNumber, why: &str) {
        let Some(record) = self.registry.numbered(vm) else { return };
        record.state = VmState::Stopped(StopKind::Failed);
        record.kill_at = None;
        record.key_up_at = None;
        let name = record.name();
        self.events.add(now_ns, &name, EventKind::Refused(why.into()));
    }

    /// The guest resets itself.
    pub fn resetting(&mut self, vm: VmNumber) {
        if let Some(record) =
            self.registry.numbered(vm).filter(|r| matches!(r.state, VmState::Running | VmState::Pausing))
        {
            record.state = VmState::Resetting;
        }
    }

    /// A reset is done.
    pub fn restarted(&mut self, now_ns: u64, vm: VmNumber) {
        let Some(record) = self.registry.numbered(vm).filter(|r| r.state == VmState::Resetting) else { return };
        record.state = VmState::Running;
        record.resets = record.resets.saturating_add(1);
        let name = record.name();
        self.events.add(now_ns, &name, EventKind::Reset);
    }

    /// All its vCPUs are off the pCPUs.
    pub fn paused(&mut self, now_ns: u64, vm: VmNumber) {
        let Some(record) = self.registry.numbered(vm).filter(|r| r.state == VmState::Pausing) else { return };
        record.state = VmState::Paused;
        let name = record.name();
        self.events.add(now_ns, &name, EventKind::Paused);
    }

    /// It has ended, and its memory is free.
    pub fn ended(&mut self, now_ns: u64, vm: VmNumber, why: StopKind) {
        let Some(record) = self.registry.numbered(vm).filter(|r| r.has_memory()) else { return };
        let why = record.end(why);
        record.state = VmState::Stopped(why);
        record.kill_at = None;
        record.key_up_at = None;
        record.killed = false;
        let name = record.name();
        self.events.add(now_ns, &name, EventKind::Stopped(why));
    }
}
