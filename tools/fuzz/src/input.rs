//! An input: a byte that says which shape the target has, and a row of records, one for each act, so that changes of the row are changes of
//! acts. Text: a line of hexadecimal digits for the byte and for each record.

/// Bytes of a record.
pub const RECORD: usize = 16;

/// What is left of a record. Behind its end there are zeroes.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// All of it.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// A number of one byte, and so on.
    pub fn u8(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }
    /// One of these.
    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }
}

/// An input as text.
pub fn to_text(bytes: &[u8]) -> String {
    let line = |record: &[u8]| record.iter().map(|byte| format!("{byte:02x}")).collect::<String>() + "\n";
    let (first, records) = bytes.split_at(bytes.len().min(1));
    line(first) + &records.chunks(RECORD).map(line).collect::<String>()
}

/// The other way round; `#` begins a comment.
pub fn from_text(text: &str) -> Option<Vec<u8>> {
    let digits = text.lines().flat_map(|line| line.split('#').next().unwrap_or_default().chars());
    let digits: Option<Vec<u8>> =
        digits.filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16).map(|digit| digit as u8)).collect();
    let digits = digits.filter(|digits| digits.len() % 2 == 0)?;
    Some(digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_comes_back_from_its_text() {
        let bytes: Vec<u8> = (0..=40).collect();
        let text = to_text(&bytes);
        assert_eq!((text.lines().count(), text.lines().nth(1)), (4, Some("0102030405060708090a0b0c0d0e0f10")));
        assert_eq!(from_text(&format!("# what it is\n{text}")), Some(bytes));
        assert_eq!((from_text("0"), from_text("0g")), (None, None));
    }

    #[test]
    fn behind_the_end_there_are_zeroes() {
        let mut input = Input::new(&[1, 2, 3]);
        assert_eq!((input.u16(), input.u32(), input.u64(), input.pick(&[7, 8])), (0x201, 3, 0, 7));
    }
}
