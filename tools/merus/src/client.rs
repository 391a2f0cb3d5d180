//! Calls and their answers over a [`Wire`].

use crate::error::Error;
use crate::wire::Wire;
use proto::{
    Answer, Call, ConsolePart, Decoder, DeviceRow, EventRow, FrameError, GroupRow, LogRow, MachineRow, ObjectRow, Page,
    PcpuRow, Refusal, Reply, SwitchRow, TraceRow, VcpuRow, VmRow, encode,
};
use std::collections::VecDeque;
use std::io;
use std::time::{Duration, Instant, SystemTime};

/// How often a call that may be repeated is sent at most.
const TRIES: u32 = 3;

/// One side of a conversation with Merus.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
    decoder: Decoder,
    /// What came behind the last answer.
    unread: VecDeque<u8>,
    next_id: u32,
    limit: Duration,
    /// Whether an answer has come over this stream: both sides are in step.
    in_step: bool,
}

/// Why there was no answer to one sending of a call.
enum Miss {
    Silence,
    Heard(String),
}

impl Client {
    /// Talks over `wire`; each call gets `limit` for its answer.
    pub fn new(wire: Wire, limit: Duration) -> Self {
        // Answers to a program that was here before are told apart by their numbers, so begin anywhere.
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_nanos());
        let next_id = (now as u32 ^ std::process::id().rotate_left(16)) | 1;
        Self { wire, decoder: Decoder::new(), unread: VecDeque::new(), next_id, limit, in_step: false }
    }

    /// How long an answer may take.
    pub fn limit(&self) -> Duration {
        self.limit
    }

    /// Asks, and waits for the answer. What may be repeated is sent up to three times; what may not is sent once, after another call
    /// has shown that the line carries frames.
    ///
    /// # Errors
    /// [`Error::Refused`], or that there was no answer.
    pub fn call(&mut self, call: &Call) -> Result<Answer, Error> {
        if !self.in_step && !call.may_repeat() {
            self.call(&Call::Machine)?;
        }
        let (id, mut frame) = self.frame(call)?;
        let tries = if call.may_repeat() { TRIES } else { 1 };
        let start = Instant::now();
        let mut heard = None;
        for attempt in 1..=tries {
            if attempt > 1 {
                // Whatever the line has made of the last frame ends here.
                frame.insert(0, 0);
            }
            let until = start + self.limit * attempt / tries;
            match self.exchange(id, &frame, until, call)? {
                Ok(reply) => {
                    self.in_step = true;
                    return reply.map_err(Error::Refused);
                }
                Err(Miss::Silence) => {}
                Err(Miss::Heard(what)) => heard = Some(what),
            }
        }
        let (limit, repeatable) = (self.limit, call.may_repeat());
        Err(Error::Silent { peer: self.wire.name().into(), call: name(call), limit, heard, repeatable })
    }

    /// The frame of a call, and its number.
    fn frame(&mut self, call: &Call) -> Result<(u32, Vec<u8>), Error> {
        let id = self.next_id;
        // 0 is the number of answers to what could not be read.
        self.next_id = self.next_id.checked_add(1).unwrap_or(1);
        let mut frame = Vec::new();
        encode(id, call, &mut frame).map_err(|_| Error::TooLong { call: name(call) })?;
        Ok((id, frame))
    }

    /// Sends a call without waiting for its answer, which [`Client::next_reply`] brings under the number returned. `None`: the line
    /// took not all of it in time.
    pub(crate) fn post(&mut self, call: &Call) -> Result<Option<u32>, Error> {
        let (id, frame) = self.frame(call)?;
        match self.wire.send(&frame, Instant::now() + self.limit) {
            Ok(()) => Ok(Some(id)),
            Err(error) => self.ended(error, None, call).map(|_| None),
        }
    }

    /// The next answer to one of the calls `ids`, like `call`, that were posted. `None`: none came that could be read in a call's time.
    pub(crate) fn next_reply(&mut self, ids: &[u32], call: &Call) -> Result<Option<(u32, Reply)>, Error> {
        Ok(self.hear(ids, Instant::now() + self.limit / TRIES, call)?.ok())
    }

    /// Sends a frame once and waits for the answer with its number.
    fn exchange(&mut self, id: u32, frame: &[u8], until: Instant, call: &Call) -> Result<Result<Reply, Miss>, Error> {
        match self.wire.send(frame, until) {
            Ok(()) => Ok(self.hear(&[id], until, call)?.map(|(_, reply)| reply)),
            Err(error) => Ok(Err(self.ended(error, None, call)?)),
        }
    }

    /// Waits for an answer with one of these numbers.
    fn hear(&mut self, ids: &[u32], mut until: Instant, call: &Call) -> Result<Result<(u32, Reply), Miss>, Error> {
        let mut heard = None;
        loop {
            if self.unread.is_empty() {
                let mut buffer = [0; 4096];
                match self.wire.receive(&mut buffer, until) {
                    Ok(0) => return Err(self.lost("Merus' side has closed the connection".into(), call)),
                    Ok(count) => self.unread.extend(&buffer[..count]),
                    Err(error) => return Ok(Err(self.ended(error, heard, call)?)),
                }
            }
            while let Some(byte) = self.unread.pop_front() {
                let what = match self.decoder.push(byte) {
                    None => continue,
                    Some(Ok(frame)) if ids.contains(&frame.id) => match frame.decode::<Reply>() {
                        Ok(reply) => return Ok(Ok((frame.id, reply))),
                        Err(FrameError::Version { theirs }) => return Err(Error::Version { theirs }),
                        Err(error) => error.to_string(),
                    },
                    // To what could not be read: possibly to noise before the call.
                    Some(Ok(frame)) if frame.id == 0 => match frame.decode::<Reply>() {
                        Ok(Err(refusal @ Refusal::Malformed(_))) => refusal.to_string(),
                        Err(FrameError::Version { theirs }) => return Err(Error::Version { theirs }),
                        _ => continue,
                    },
                    // To somebody who has gone.
                    Some(Ok(_)) => continue,
                    Some(Err(error)) => error.to_string(),
                };
                // It may have been noise before the answer, or the answer itself: that is not waited for much longer.
                if heard.is_none() && call.may_repeat() {
                    until = until.min(Instant::now() + self.limit / 10);
                }
                heard = Some(what);
            }
        }
    }

    fn ended(&self, error: io::Error, heard: Option<String>, call: &Call) -> Result<Miss, Error> {
        match (error.kind(), heard) {
            (io::ErrorKind::TimedOut, None) => Ok(Miss::Silence),
            (io::ErrorKind::TimedOut, Some(what)) => Ok(Miss::Heard(what)),
            (io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset, _) => {
                Err(self.lost("Merus' side has closed the connection".into(), call))
            }
            _ => Err(self.lost(error.to_string(), call)),
        }
    }

    fn lost(&self, why: String, call: &Call) -> Error {
        Error::Lost { peer: self.wire.name().into(), why, call: name(call) }
    }

    /// Asks, and takes the answer apart.
    fn ask<T>(&mut self, call: &Call, open: fn(Answer) -> Option<T>) -> Result<T, Error> {
        let answer = self.call(call)?;
        open(answer).ok_or_else(|| Error::Unexpected { peer: self.wire.name().into(), call: name(call) })
    }

    /// A list, asked for page by page as it is read.
    pub fn pages<T, A: FnMut(u32) -> Call>(&mut self, ask: A, open: fn(Answer) -> Option<Page<T>>) -> Pages<'_, T, A> {
        Pages { client: self, ask, open, rows: Vec::new().into_iter(), next: Some(0) }
    }
}

/// The rows of a list. Ends after the first error.
#[derive(Debug)]
pub struct Pages<'a, T, A> {
    client: &'a mut Client,
    ask: A,
    open: fn(Answer) -> Option<Page<T>>,
    rows: std::vec::IntoIter<T>,
    next: Option<u32>,
}

impl<T, A: FnMut(u32) -> Call> Iterator for Pages<'_, T, A> {
    type Item = Result<T, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(row) = self.rows.next() {
                return Some(Ok(row));
            }
            let from = self.next.take()?;
            match self.client.ask(&(self.ask)(from), self.open) {
                Ok(page) => {
                    // A page that leads nowhere would be asked for for ever.
                    self.next = u32::try_from(page.next).ok().filter(|next| page.more && *next > from);
                    self.rows = page.rows.into_iter();
                }
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

macro_rules! answer {
    ($variant:ident) => {
        |answer| if let Answer::$variant(value) = answer { Some(value) } else { None }
    };
}

/// The calls by their names. Each fails as [`Client::call`] does.
#[allow(clippy::missing_errors_doc)]
impl Client {
    /// [`Call::Machine`].
    pub fn machine(&mut self) -> Result<MachineRow, Error> {
        self.ask(&Call::Machine, answer!(Machine))
    }

    /// All VMs.
    pub fn vms(&mut self) -> Result<Vec<VmRow>, Error> {
        self.pages(|from| Call::List { from }, answer!(List)).collect()
    }

    /// One VM.
    pub fn info(&mut self, vm: &str) -> Result<VmRow, Error> {
        self.ask(&Call::Info { vm: vm.into() }, answer!(Info))
    }

    /// A VM's vCPUs.
    pub fn vcpus(&mut self, vm: &str) -> Result<Vec<VcpuRow>, Error> {
        self.pages(|from| Call::Vcpus { vm: vm.into(), from }, answer!(Vcpus)).collect()
    }

    /// A VM's disks, network cards and source of random numbers.
    pub fn devices(&mut self, vm: &str) -> Result<Vec<DeviceRow>, Error> {
        self.pages(|from| Call::Devices { vm: vm.into(), from }, answer!(Devices)).collect()
    }

    /// All switches.
    pub fn switches(&mut self) -> Result<Vec<SwitchRow>, Error> {
        self.pages(|from| Call::Switches { from }, answer!(Switches)).collect()
    }

    /// All pCPUs.
    pub fn pcpus(&mut self) -> Result<Vec<PcpuRow>, Error> {
        self.pages(|from| Call::Pcpus { from }, answer!(Pcpus)).collect()
    }

    /// All groups.
    pub fn groups(&mut self) -> Result<Vec<GroupRow>, Error> {
        self.pages(|from| Call::Groups { from }, answer!(Groups)).collect()
    }

    /// All payloads.
    pub fn objects(&mut self) -> Result<Vec<ObjectRow>, Error> {
        self.pages(|from| Call::Objects { from }, answer!(Objects)).collect()
    }

    /// A piece of a VM's output.
    pub fn console(&mut self, vm: &str, from: u64) -> Result<ConsolePart, Error> {
        self.ask(&Call::Console { vm: vm.into(), from }, answer!(Console))
    }

    /// Types at a VM's console; how many bytes were taken.
    pub fn type_at(&mut self, vm: &str, bytes: &[u8]) -> Result<usize, Error> {
        let bytes = proto::Bytes(bytes[..bytes.len().min(proto::MAX_CHUNK)].to_vec());
        self.ask(&Call::Type { vm: vm.into(), bytes }, answer!(Typed)).map(|taken| taken as usize)
    }

    /// A page of events.
    pub fn events(&mut self, from: u64) -> Result<Page<EventRow>, Error> {
        self.ask(&Call::Events { from }, answer!(Events))
    }

    /// A page of Merus' own lines.
    pub fn log(&mut self, from: u64) -> Result<Page<LogRow>, Error> {
        self.ask(&Call::Log { from }, answer!(Log))
    }

    /// A page of a pCPU's trace records.
    pub fn trace(&mut self, pcpu: u32, from: u64) -> Result<Page<TraceRow>, Error> {
        self.ask(&Call::Trace { pcpu, from }, answer!(Trace))
    }

    /// [`Call::Put`] or [`Call::Chunk`]: how much is there now.
    pub(crate) fn uploaded(&mut self, call: &Call) -> Result<u64, Error> {
        self.ask(call, answer!(Uploaded))
    }

    /// A call that only does something.
    pub fn done(&mut self, call: &Call) -> Result<(), Error> {
        self.ask(call, |answer| matches!(answer, Answer::Done).then_some(()))
    }
}

/// A call's name, for messages.
pub fn name(call: &Call) -> &'static str {
    match call {
        Call::Machine => "machine",
        Call::List { .. } => "list",
        Call::Info { .. } => "info",
        Call::Vcpus { .. } => "vcpus",
        Call::Devices { .. } => "devices",
        Call::Switches { .. } => "switches",
        Call::Pcpus { .. } => "pcpus",
        Call::Groups { .. } => "groups",
        Call::Objects { .. } => "objects",
        Call::Put { .. } => "put",
        Call::Chunk { .. } => "chunk",
        Call::Forget { .. } => "forget",
        Call::Create(_) => "create",
        Call::Start { .. } => "start",
        Call::Pause { .. } => "pause",
        Call::Resume { .. } => "resume",
        Call::Reset { .. } => "reset",
        Call::Stop { .. } => "stop",
        Call::Destroy { .. } => "destroy",
        Call::Attach { .. } => "attach",
        Call::Detach { .. } => "detach",
        Call::Set { .. } => "set",
        Call::MakeGroup { .. } => "group",
        Call::Console { .. } => "console",
        Call::Type { .. } => "type",
        Call::Events { .. } => "events",
        Call::Log { .. } => "log",
        Call::Trace { .. } => "trace",
        Call::SetTrace { .. } => "set-trace",
    }
}
