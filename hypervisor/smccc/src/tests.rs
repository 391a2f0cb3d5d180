//! Tests of the crate as a guest sees it.
