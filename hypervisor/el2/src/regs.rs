//! System registers by name or encoding, one instruction each.
//!
//! Registers that LLVM's assembler knows only with a feature switched on are written as `S<op0>_<op1>_C<n>_C<m>_<op2>`.

/// Reads a system register. Reading has no side effect on memory safety, so this is safe anywhere in `el2`.
macro_rules! mrs {
    ($($name:tt)+) => {{
        let value: u64;
        #[allow(unused_unsafe)] // Where the macro stands inside an `unsafe` block.
        {
            // SAFETY: reads a system register; the caller of the macro made sure that the CPU has it.
            unsafe {
                core::arch::asm!(concat!("mrs {}, ", $($name)+), out(reg) value, options(nomem, nostack, preserves_flags));
            }
        }
        value
    }};
}

/// Writes a system register: to be used inside an `unsafe` block that says why the new value is right.
macro_rules! msr {
    ($name:literal, $value:expr) => {{
        let value: u64 = $value;
        core::arch::asm!(concat!("msr ", $name, ", {}"), in(reg) value, options(nostack, preserves_flags));
    }};
}

/// An instruction without operands: to be used inside an `unsafe` block.
macro_rules! op {
    ($text:literal) => {
        core::arch::asm!($text, options(nostack, preserves_flags))
    };
}

pub(crate) use {mrs, msr, op};
