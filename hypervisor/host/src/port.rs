//! Network ports: one end of a wire that Ethernet frames come and go through.

/// One end of a wire. Whoever holds it sends into it and takes what has come.
///
/// Every method is bounded and allocates nothing. A wire may lose frames; it neither changes them nor brings them twice.
pub trait Port: Send {
    /// Whether somebody is at the other end.
    fn is_up(&self) -> bool;
    /// Sends `frame`, from the destination's address on, without check sequence. `false`: there is no room for it now.
    fn send(&mut self, frame: &[u8]) -> bool;
    /// Bytes of the oldest frame that has come.
    fn waiting(&self) -> Option<usize>;
    /// Takes that frame: the start of `into` as far as both reach. `None` where none has come.
    fn receive(&mut self, into: &mut [u8]) -> Option<usize>;
}
