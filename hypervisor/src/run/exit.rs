//! What follows each exit.

use super::*;

impl Cpu {
    /// What an exit leads to.
    #[inline(always)]
    pub(super) fn exit<const TRACED: bool, G: Controller>(
        &mut self,
        guest: &Guest,
        runner: &mut Runner,
        left: Left,
        stretch: &mut Stretch,
    ) -> Next {
        // The fast lane is there once: with a second copy the compiler makes both slower.
        if !TRACED
            && G::QUICK
            && left.is_plain()
            && quick(&guest.vm, &mut runner.vcpu, left.esr, el2::world::fault_registers)
        {
            return Next::Resume;
        }
        if left.vector() == Vector::Irq && left.serror().is_none() {
            runner.vcpu.counts.irq = runner.vcpu.counts.irq.wrapping_add(1);
            let timer = interrupts::taken::<TRACED, G>(self, guest, runner);
            if TRACED && timer {
                stretch.was_timer();
            }
            return Next::Resume;
        }
        self.exit_slow::<G>(guest, runner, left)
    }

    #[inline(never)]
    pub(super) fn exit_slow<G: Controller>(&mut self, guest: &Guest, runner: &mut Runner, left: Left) -> Next {
        if let Some(iss) = left.serror()
            && let Some(end) = self.system_error(runner, iss)
        {
            return end;
        }
        if left.vector() != Vector::Sync {
            return self.exit_asynchronous::<G>(guest, runner, left);
        }
        if runner.vcpu.tick {
            self.look_at_timer::<G>(guest, runner);
        }
        let (far, hpfar) = el2::world::fault_registers();
        let exit = decode(&RawExit { vector: left.vector(), esr: left.esr, far, hpfar });
        let mut hardware =
            hardware::<G>(&mut self.pcpu, &mut self.gic, self.machine, runner.id, &mut self.timer_changed);
        match handle(&guest.vm, &mut runner.vcpu, &mut hardware, exit) {
            Next::Fold(whom) => self.fold::<G>(guest, runner, exit, whom),
            next => next,
        }
    }

    /// An interrupt, or an SError. What came besides has been dealt with.
    #[inline(never)]
    pub(super) fn exit_asynchronous<G: Controller>(&mut self, guest: &Guest, runner: &mut Runner, left: Left) -> Next {
        match left.vector() {
            Vector::Irq => {
                runner.vcpu.counts.irq = runner.vcpu.counts.irq.wrapping_add(1);
                // With an SError: too rare to be noted as more than its exit.
                interrupts::taken::<false, G>(self, guest, runner);
            }
            Vector::SError => return self.system_error(runner, left.esr as u32 & 0x01ff_ffff).unwrap_or(Next::Resume),
            // None is routed here: group 0 is the firmware's.
            Vector::Fiq | Vector::Sync => {}
        }
        Next::Resume
    }

    /// An SError that came while (or just before) the guest was left: who pays depends on how far it goes. `None`: the guest goes on.
    #[inline(never)]
    pub(super) fn system_error(&mut self, runner: &mut Runner, iss: u32) -> Option<Next> {
        runner.vcpu.counts.other = runner.vcpu.counts.other.wrapping_add(1);
        match (SErrorSyndrome { iss }).action(self.pcpu.features().ras) {
            SErrorAction::Fatal => {
                crate::fatal::fatal(format_args!("system error that is not confined to the guest, syndrome {iss:#x}"))
            }
            SErrorAction::Stop => Some(Next::Stop(StopReason::SystemError { iss })),
            SErrorAction::Give(syndrome) => {
                self.pcpu.give_serror(syndrome);
                None
            }
            SErrorAction::Ignore => None,
        }
    }

    /// Repeats `exit` once the vCPUs of `whom` have folded their list registers, while they hold still.
    #[inline(never)]
    pub(super) fn fold<G: Controller>(
        &mut self,
        guest: &Guest,
        runner: &mut Runner,
        exit: Exit,
        whom: vgic::VcpuSet,
    ) -> Next {
        let index = runner.vcpu.index;
        let port = guest.vm.vgic();
        // Folded itself, this vCPU is waited for by nobody: two that ask each other both go on.
        self.sync::<G>(guest, index);
        runner.vcpu.flush_due = true;
        let mut held = port.hold(vgic::VcpuSet::EMPTY, whom, index);
        let next = loop {
            let mut hardware =
                hardware::<G>(&mut self.pcpu, &mut self.gic, self.machine, runner.id, &mut self.timer_changed);
            match handle(&guest.vm, &mut runner.vcpu, &mut hardware, exit) {
                // Those held stay so: only who is not among them is asked.
                Next::Fold(more) => held = port.hold(held, more, index),
                next => break next,
            }
            sync::relax();
        };
        port.release(held, index);
        next
    }
}
