//! Translation tables that a test builds for itself.
