//! What can go wrong, told with what to do about it.

use proto::{Refusal, VmState};
use std::io;
use std::time::Duration;

/// Why a command is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection could be made.
    #[error("{address}: {why}; {remedy}")]
    Connect {
        /// Where to.
        address: String,
        /// What the operating system says.
        why: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The stream has ended, or cannot be used.
    #[error("{peer}: {why} during `{call}`; is Merus still running? Then give the command again")]
    Lost {
        /// The stream.
        peer: String,
        /// How it has ended.
        why: String,
        /// The call that was under way.
        call: &'static str,
    },
    /// No answer in time.
    #[error("{peer}: no answer to `{call}` within {}{}; {}", Seconds(*.limit), instead(.heard), silence(*.repeatable))]
    Silent {
        /// The stream.
        peer: String,
        /// The call.
        call: &'static str,
        /// How long was waited.
        limit: Duration,
        /// What came instead.
        heard: Option<String>,
        /// Whether the call has surely done no harm.
        repeatable: bool,
    },
    /// Merus does not give back what it took.
    #[error("{0}")]
    Leak(String),
    /// Merus has said no.
    #[error("{0}")]
    Refused(Refusal),
    /// The answer is of another version of the protocol.
    #[error(
        "Merus speaks version {theirs} of the protocol, this program version {}; use the program of Merus' release",
        proto::VERSION
    )]
    Version {
        /// Its version.
        theirs: u16,
    },
    /// The answer is not one to the call.
    #[error("{peer}: the answer to `{call}` is none to it; use the program of Merus' release")]
    Unexpected {
        /// The stream.
        peer: String,
        /// The call.
        call: &'static str,
    },
    /// The call does not fit into a message.
    #[error("`{call}` is too long for one message ({} bytes); shorten its texts", proto::MAX_MESSAGE)]
    TooLong {
        /// The call.
        call: &'static str,
    },
    /// A state was not reached in time.
    #[error("vm \"{vm}\" is {state} and not {wanted} after {}; wait with `merus ctl info {vm}`, or give a longer --timeout", Seconds(*.limit))]
    Waiting {
        /// The VM.
        vm: String,
        /// The state that it is in.
        state: VmState,
        /// The state that was waited for.
        wanted: &'static str,
        /// How long was waited.
        limit: Duration,
    },
    /// A VM could not be made.
    #[error("vm \"{vm}\" could not be made: {why}")]
    Failed {
        /// The VM.
        vm: String,
        /// What Merus says.
        why: String,
    },
    /// A VM has ended while something else was waited for.
    #[error("vm \"{vm}\" is {state}, and will not {wanted}; `merus ctl start {vm}` makes it anew")]
    Ended {
        /// The VM.
        vm: String,
        /// How it has ended.
        state: VmState,
        /// What was waited for.
        wanted: String,
    },
    /// A console did not print what was waited for.
    #[error("vm \"{vm}\": no \"{text}\" on its console within {}; give a longer --timeout, or look at `merus ctl console {vm}`", Seconds(*.limit))]
    NotSeen {
        /// The VM.
        vm: String,
        /// What was waited for.
        text: String,
        /// How long.
        limit: Duration,
    },
    /// A name or hash that nothing uploaded has, or more than one.
    #[error("{0}")]
    NoObject(String),
    /// A file of this machine.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// What the operating system says.
        source: io::Error,
    },
    /// A wrong word on the command line that only Merus' lists could tell.
    #[error("{0}")]
    Usage(String),
}

fn instead(what: &Option<String>) -> String {
    what.as_ref().map_or(String::new(), |what| format!(" (instead: {what})"))
}

fn silence(repeatable: bool) -> &'static str {
    if repeatable {
        "is Merus running with its control channel on this line, and no other program on it?"
    } else {
        "it may have been done or not: `merus ctl list` tells"
    }
}

struct Seconds(Duration);

impl std::fmt::Display for Seconds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} s", self.0.as_secs_f64())
    }
}

impl Error {
    /// The exit status that scripts see: 1 refused, 2 wrong usage, 3 no connection or no answer in time, 4 not there, 5 in the wrong
    /// state, 6 no memory or a limit.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Refused(refusal) => match refusal {
                Refusal::NoSuchVm(_) | Refusal::NoSuchGroup(_) | Refusal::NoSuchObject(_) | Refusal::NoSuchPcpu(_) => 4,
                Refusal::State { .. } | Refusal::InUse(_) => 5,
                Refusal::NoMemory { .. } | Refusal::Limit { .. } => 6,
                _ => 1,
            },
            Self::Version { .. } | Self::Unexpected { .. } | Self::Failed { .. } | Self::Leak(_) => 1,
            Self::Usage(_) | Self::File { .. } | Self::TooLong { .. } => 2,
            Self::Connect { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Waiting { .. }
            | Self::NotSeen { .. } => 3,
            Self::NoObject(_) => 4,
            Self::Ended { .. } => 5,
        }
    }
}
