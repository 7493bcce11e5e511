//! Tests of the library and the program as a whole: one binary, so that everything links once.
#![allow(clippy::unwrap_used)]

mod families;
