//! The program, tested as a program: the real binary in a folder of its own, literal expected text.

mod config;
mod configs;
mod explain;
mod program;
mod usage;
