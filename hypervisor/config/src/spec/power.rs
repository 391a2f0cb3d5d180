//! `power-key`: which keys a VM has by which it is asked to power off.

/// What `power-key` looks like.
pub const POWER_KEY_FORM: &str = "\"both\", \"gpio\", \"virtio\" or \"none\"";

/// The power keys that a guest sees. They are one key: where both are, a press is said by one of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PowerKey {
    /// Both, for any kernel: a press is the virtio key's where the guest has a driver for it, else the other's.
    #[default]
    Both,
    /// `gpio-keys` at the PL061, as on QEMU's `virt`.
    Gpio,
    /// A virtio input device.
    Virtio,
    /// None: a graceful stop is a forced one.
    None,
}

impl PowerKey {
    /// All of them.
    const ALL: [Self; 4] = [Self::Both, Self::Gpio, Self::Virtio, Self::None];

    /// As [`Self::name`] writes it.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == text.trim())
    }
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Both => "both",
            Self::Gpio => "gpio",
            Self::Virtio => "virtio",
            Self::None => "none",
        }
    }
    /// Whether there is the PL061 with its key.
    pub fn gpio(self) -> bool {
        matches!(self, Self::Both | Self::Gpio)
    }
    /// Whether there is the virtio device.
    pub fn virtio(self) -> bool {
        matches!(self, Self::Both | Self::Virtio)
    }
}
