//! The self-test's report, in lines to read: in a terminal, and to be pasted into a bug report.

use serde::{Deserialize, Serialize};

use super::{Limit, Outcome};
use crate::base::{DeviceChoice, UserError};
use crate::pipelines::PipelineError;
use crate::runtime::device::{self, usable_devices};
use crate::runtime::driver::driver;

/// What was tested: program, libtorch, device.
///
/// # Errors
/// Where the device is not there.
pub fn headline(choice: DeviceChoice) -> Result<String, UserError> {
    let name = match device::resolve(choice).map_err(PipelineError::from)?.picture {
        tch::Device::Cuda(number) => {
            let known = driver().and_then(|driver| driver.devices.as_ref().ok()?.get(number));
            known.map_or_else(String::new, |device| {
                let (major, minor) = device.capability;
                format!(" ({}, compute capability {major}.{minor})", device.name)
            })
        }
        _ => format!(" ({} threads)", device::cpu_threads()),
    };
    let (version, libtorch) = (env!("CARGO_PKG_VERSION"), device::libtorch_version());
    Ok(format!("coz {version}, libtorch {libtorch}, {}{name}", choice.among(&usable_devices())))
}

/// What a self-test in a process of its own reports: each a line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Message {
    /// What is tested, and how many checks there are.
    Began {
        /// Program, libtorch, device.
        headline: String,
        /// Some may not apply.
        checks: usize,
    },
    /// A check has run.
    Checked(Box<Checked>),
}

/// An outcome in words.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Checked {
    /// Of the check.
    pub name: String,
    /// What was measured, in a few words.
    pub about: String,
    /// Its value, beside what it may be.
    pub value: String,
    /// What went wrong, or what is worth knowing.
    pub note: String,
    /// Whether all is well.
    pub ok: bool,
    /// All of it in a line.
    pub line: String,
}

impl From<&Outcome> for Checked {
    fn from(outcome: &Outcome) -> Self {
        Self {
            name: outcome.name.to_owned(),
            about: outcome.check.about.to_owned(),
            value: format_value(outcome),
            note: outcome.note.clone(),
            ok: outcome.ok,
            line: format_line(outcome),
        }
    }
}

/// What was measured, beside what it may be.
fn format_value(Outcome { value, limit, check, .. }: &Outcome) -> String {
    let sign = match check.limit {
        Limit::AtMost(_) => "<=",
        Limit::AtLeast(_) => ">=",
    };
    let value = value.map_or_else(|| "-".into(), number);
    format!("{value:>8} {sign} {:<7}", number(*limit))
}

/// An outcome as a line: name, value, limit, time, and what is wrong.
pub fn format_line(outcome: &Outcome) -> String {
    let Outcome { name, ms, ok, note, check, .. } = outcome;
    let state = if *ok { "ok" } else { "FAILED" };
    let mut line = format!("{name:<20}{}{ms:>8.0} ms  {state:<8}{}", format_value(outcome), check.about);
    if !note.is_empty() {
        line += &format!(" [{note}]");
    }
    line
}

/// How it went, in a sentence.
pub fn summary(outcomes: &[Outcome]) -> String {
    let passed = outcomes.iter().filter(|outcome| outcome.ok).count();
    let secs = outcomes.iter().map(|outcome| outcome.ms).sum::<f64>() / 1000.0;
    format!("{passed} of {} checks passed in {secs:.0} s", outcomes.len())
}

/// Short, and to be compared by eye.
fn number(value: f64) -> String {
    match value {
        _ if value == value.trunc() && value.abs() < 1e6 => format!("{value:.0}"),
        _ if (0.01..1e6).contains(&value.abs()) => format!("{value:.2}"),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        let short = [0.0, 1e-5, 2.345e-7, 48.0, 61.234, 0.004, 1e9].map(number);
        assert_eq!(short, ["0", "1.0e-5", "2.3e-7", "48", "61.23", "4.0e-3", "1.0e9"]);
    }
}
