//! Chains of real rooms with fake hardware.
