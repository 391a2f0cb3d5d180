//! Several pCPUs as the kernel runs them, in random interleavings.
