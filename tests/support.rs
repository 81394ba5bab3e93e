//! What crosses crates; see the test files beside this one.
