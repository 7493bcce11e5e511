//! The program `candlewick`: one match over the subcommands, exit status decided in one place.

mod cli;

use std::process::ExitCode;

use clap::Parser;
use cli::{Arguments, Command};

fn main() -> ExitCode {
    candlewick::allocator::settle();
    let arguments = Arguments::parse();
    cli::start_log(arguments.verbose);
    let done = match arguments.command {
        Command::Train(arguments) => cli::train::run(&arguments),
        Command::Eval(arguments) => cli::eval::run(&arguments),
        Command::Compare(arguments) => cli::compare::run(&arguments),
        Command::Generate(arguments) => cli::generate::run(&arguments),
        Command::Grade(arguments) => cli::grade::run(&arguments),
        Command::Merge(arguments) => cli::merge::run(&arguments),
        Command::Schedule(arguments) => cli::schedule::run(&arguments),
        Command::Check(arguments) => cli::check::run(&arguments),
        Command::Probe(arguments) => cli::probe::run(&arguments),
        Command::Doctor(arguments) => cli::doctor::run(&arguments),
        Command::List => cli::list::run(),
        Command::Explain(arguments) => cli::explain::run(&arguments),
        Command::Schema => cli::schema::run(),
        Command::Completions(arguments) => cli::completions::run(&arguments),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => cli::report(&error),
    }
}
