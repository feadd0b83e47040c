//! The self-test in the window: it runs on a thread of its own, beside whatever the engine does.

use super::Viewer;
use crate::base::{DeviceChoice, Ticket, UserError};
use crate::selftest;

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has not begun.
    #[default]
    Waiting,
    /// Checks run.
    Running,
    /// All of them have run, or it was stopped.
    Done,
    /// It could not begin.
    Failed(UserError),
}

/// What is known of it.
#[derive(Clone, Debug, Default)]
pub struct Selftest {
    /// Its window.
    pub is_open: bool,
    /// How far it is.
    pub phase: Phase,
    /// What is tested; empty until that is known.
    pub headline: String,
    /// Of the checks so far.
    pub outcomes: Vec<selftest::Outcome>,
}

/// What happens in it.
#[derive(Debug)]
pub(super) enum Event {
    /// What is tested is known.
    Began(String),
    /// A check has run.
    Checked(Box<selftest::Outcome>),
    /// It is over.
    Ended(Result<(), UserError>),
}

impl Selftest {
    /// All of it in lines, as a bug report needs it.
    pub fn report(&self) -> String {
        let lines = self.outcomes.iter().map(selftest::format_line);
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let mut all: Vec<String> = std::iter::once(format!("{} on {os} {arch}", self.headline)).chain(lines).collect();
        all.push(selftest::summary(&self.outcomes));
        if let Phase::Failed(problem) = &self.phase {
            all.push(problem.to_string());
        }
        all.join("\n") + "\n"
    }
}

/// Runs all checks; `send` takes what happens.
pub(super) fn run(device: DeviceChoice, ticket: &Ticket, send: &dyn Fn(Event)) {
    let checks = || {
        send(Event::Began(selftest::headline(device)?));
        selftest::run(&selftest::CHECKS, device, &mut |outcome| {
            send(Event::Checked(Box::new(outcome)));
            !ticket.cancel.is_cancelled()
        })
    };
    send(Event::Ended(checks()));
}

impl Viewer {
    pub(super) fn run_selftest(&mut self) {
        let ticket = self.selftest.start();
        self.state.selftest = Selftest { is_open: true, phase: Phase::Running, ..Selftest::default() };
        self.tasks.selftest(self.state.settings.device, ticket);
    }

    pub(super) fn stop_selftest(&mut self) {
        self.selftest.clear();
        if self.state.selftest.phase == Phase::Running {
            self.state.selftest.phase = Phase::Done;
        }
    }

    pub(super) fn take_selftest(&mut self, generation: u64, event: Event) {
        if !self.selftest.is_current(generation) {
            return;
        }
        let state = &mut self.state.selftest;
        match event {
            Event::Began(headline) => state.headline = headline,
            Event::Checked(outcome) => state.outcomes.push(*outcome),
            Event::Ended(Ok(())) => state.phase = Phase::Done,
            Event::Ended(Err(problem)) => state.phase = Phase::Failed(problem),
        }
    }
}
