//! The self-test in the window: `coz selftest` in a process of its own, so that neither disturbs the other's memory and a
//! stop is a stop.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use super::Viewer;
use crate::base::{DeviceChoice, Ticket, UserError};
use crate::selftest::{Checked, Message};

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// It has not begun.
    #[default]
    Waiting,
    /// Checks run.
    Running,
    /// All of them have run.
    Done,
    /// The user has stopped it.
    Stopped,
    /// It could not begin, or broke off.
    Failed(UserError),
}

/// What is known of it.
#[derive(Clone, Debug)]
pub struct Selftest {
    /// The program whose `selftest` it is: this one.
    pub program: PathBuf,
    /// Its window.
    pub is_open: bool,
    /// How far it is.
    pub phase: Phase,
    /// What is tested; empty until that is known.
    pub headline: String,
    /// How many checks there are; some may not apply.
    pub checks: usize,
    /// Of the checks so far.
    pub outcomes: Vec<Checked>,
    process: Arc<Mutex<Option<Child>>>,
}

impl Default for Selftest {
    fn default() -> Self {
        Self {
            program: std::env::current_exe().unwrap_or_else(|_| "coz".into()),
            is_open: false,
            phase: Phase::default(),
            headline: String::new(),
            checks: 0,
            outcomes: Vec::new(),
            process: Arc::default(),
        }
    }
}

/// What happens in it.
#[derive(Debug)]
pub(super) enum Event {
    /// It reports something.
    Reported(Message),
    /// It is over.
    Ended(Result<(), UserError>),
}

impl Selftest {
    /// How it went so far, in a sentence.
    pub fn summary(&self) -> String {
        let (passed, all) = (self.outcomes.iter().filter(|outcome| outcome.ok).count(), self.outcomes.len());
        match self.phase {
            Phase::Stopped => format!("Stopped: {passed} of the first {all} checks passed"),
            Phase::Running => format!("{passed} of the first {all} checks passed"),
            _ => format!("{passed} of {all} checks passed"),
        }
    }

    /// All of it in lines, as a bug report needs it.
    pub fn report(&self) -> String {
        let lines = self.outcomes.iter().map(|outcome| outcome.line.clone());
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        let mut all: Vec<String> = std::iter::once(format!("{} on {os} {arch}", self.headline)).chain(lines).collect();
        all.push(self.summary());
        if let Phase::Failed(problem) = &self.phase {
            all.push(problem.to_string());
        }
        all.join("\n") + "\n"
    }

    /// Ends the process that runs it.
    fn end(&self) {
        if let Some(process) = &mut *self.process.lock().unwrap_or_else(PoisonError::into_inner)
            && let Err(error) = process.kill()
        {
            tracing::warn!("the self-test could not be stopped: {error}");
        }
    }
}

/// Runs it; `send` takes what happens. Its files go with it.
pub(super) fn run(test: &Selftest, device: DeviceChoice, ticket: &Ticket, send: &dyn Fn(Event)) {
    let failed = |error: std::io::Error| {
        UserError::new("The self-test cannot begin", error.to_string(), "`coz selftest` in a terminal may say more.")
    };
    let followed = tempfile::tempdir().and_then(|folder| follow(test, device, ticket, folder.path(), send));
    send(Event::Ended(followed.map_err(failed).and_then(|ended| ended)));
}

fn follow(
    test: &Selftest,
    device: DeviceChoice,
    ticket: &Ticket,
    folder: &Path,
    send: &dyn Fn(Event),
) -> std::io::Result<Result<(), UserError>> {
    let mut command = Command::new(&test.program);
    command.args(["selftest", "--messages", "--device", &device.to_string()]);
    // Its threads wait without keeping a core busy: the engine may be at work too.
    command.env("OMP_WAIT_POLICY", "passive");
    for variable in ["TMPDIR", "TMP", "TEMP"] {
        command.env(variable, folder);
    }
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::null()).spawn()?;
    let (output, errors) = (process.stdout.take(), process.stderr.take());
    *test.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    if ticket.cancel.is_cancelled() {
        test.end();
    }
    let mut count = 0;
    for line in output.into_iter().flat_map(|output| BufReader::new(output).lines()) {
        match serde_json::from_str(&line?) {
            Ok(message) => {
                count += usize::from(matches!(message, Message::Checked(_)));
                send(Event::Reported(message));
            }
            Err(error) => tracing::warn!("the self-test: {error}"),
        }
    }
    let mut problem = String::new();
    errors.map(|mut errors| errors.read_to_string(&mut problem)).transpose()?;
    let process = test.process.lock().unwrap_or_else(PoisonError::into_inner).take();
    let status = process.map(|mut process| process.wait()).transpose()?;
    // It ends with 1 where checks have failed, and where it could not begin.
    let is_over = status.is_some_and(|status| status.success() || (status.code() == Some(1) && count > 0));
    Ok(if is_over {
        Ok(())
    } else {
        let problem = problem.trim_start_matches("error: ").trim();
        let details = if problem.is_empty() { "it ended without a word" } else { problem };
        Err(UserError::new("The self-test broke off", details, ""))
    })
}

impl Viewer {
    pub(super) fn run_selftest(&mut self) {
        let before = std::mem::take(&mut self.state.selftest);
        before.end();
        let ticket = self.selftest.start();
        let test = Selftest { program: before.program, is_open: true, phase: Phase::Running, ..Selftest::default() };
        self.tasks.selftest(test.clone(), self.state.settings.device, ticket);
        self.state.selftest = test;
    }

    pub(super) fn stop_selftest(&mut self) {
        self.selftest.clear();
        self.state.selftest.end();
        if self.state.selftest.phase == Phase::Running {
            self.state.selftest.phase = Phase::Stopped;
        }
    }

    pub(super) fn take_selftest(&mut self, generation: u64, event: Event) {
        if !self.selftest.is_current(generation) {
            return;
        }
        let state = &mut self.state.selftest;
        match event {
            Event::Reported(Message::Began { headline, checks }) => (state.headline, state.checks) = (headline, checks),
            Event::Reported(Message::Checked(outcome)) => state.outcomes.push(*outcome),
            Event::Ended(Ok(())) => state.phase = Phase::Done,
            Event::Ended(Err(problem)) => state.phase = Phase::Failed(problem),
        }
    }
}
