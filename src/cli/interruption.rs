//! Ctrl+C and its kin: the first one stops a command between tiles, the second one at once.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use crate::base;
use crate::runtime::store::stop_waiting;

/// What a shell adds to the number of the signal that ended a program.
const BY_SIGNAL: i32 = 128;
/// Numbers of signals, the same on every system.
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;
const SIGHUP: i32 = 1;

/// Whether somebody asked the command to stop; clones tell the same.
#[derive(Clone)]
pub(super) struct Interruption {
    /// The signal that came first; 0 before.
    signal: Arc<AtomicI32>,
}

impl Interruption {
    /// Watches out from now on. A terminal that is closed ends the program at once.
    pub(super) fn watch() -> Self {
        Self::watch_for(true)
    }

    /// The same for what is not to be lost: a terminal that is closed asks to stop, as Ctrl+C does.
    pub(super) fn watch_to_the_end() -> Self {
        Self::watch_for(false)
    }

    fn watch_for(ends_with_terminal: bool) -> Self {
        let interruption = Self { signal: Arc::default() };
        let handle = interruption.clone();
        if let Err(error) = watch(ends_with_terminal, move |signal| handle.take(signal)) {
            tracing::warn!("Ctrl+C ends the program at once: {error}");
        }
        interruption
    }

    fn take(&self, signal: i32) {
        // Also while it waits for another process.
        stop_waiting();
        // A closed terminal may say so twice.
        if signal == SIGHUP {
            _ = self.signal.compare_exchange(0, signal, Ordering::AcqRel, Ordering::Acquire);
            return;
        }
        let first = self.signal.swap(signal, Ordering::AcqRel);
        if first != 0 {
            // Who asks twice does not want to wait for the tile to end.
            base::end_at_once(BY_SIGNAL + first);
        }
    }

    /// Whether to stop.
    pub(super) fn is_requested(&self) -> bool {
        self.signal.load(Ordering::Acquire) != 0
    }

    /// What the command ends with then.
    pub(super) fn exit_code(&self) -> ExitCode {
        let signal = match self.signal.load(Ordering::Acquire) {
            0 => SIGINT,
            signal => signal,
        };
        ExitCode::from((BY_SIGNAL + signal) as u8)
    }
}

/// Calls `take` with each signal, on a thread of its own.
#[cfg(unix)]
fn watch(ends_with_terminal: bool, take: impl Fn(i32) + Send + 'static) -> std::io::Result<()> {
    use signal_hook::consts::{SIGINT as INT, SIGTERM as TERM};
    let mut signals = signal_hook::iterator::Signals::new([INT, TERM])?;
    // `nohup` ignores it: then it stays ignored.
    if !is_ignored(SIGHUP) {
        signals.add_signal(SIGHUP)?;
    }
    let each = move || {
        for signal in signals.forever() {
            if signal == SIGHUP && ends_with_terminal {
                // Nobody is there any more to be told anything.
                base::end_at_once(BY_SIGNAL + SIGTERM);
            }
            take(signal);
        }
    };
    std::thread::Builder::new().name("coz-signals".into()).spawn(each).map(|_| ())
}

#[cfg(unix)]
fn is_ignored(signal: i32) -> bool {
    // SAFETY: zeros are a valid value, and without a new action only the present one is written into it.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, std::ptr::null(), &raw mut action) == 0 && action.sa_sigaction == libc::SIG_IGN
    }
}

#[cfg(not(unix))]
fn watch(_: bool, take: impl Fn(i32) + Send + 'static) -> std::io::Result<()> {
    ctrlc::set_handler(move || take(SIGINT)).map_err(std::io::Error::other)
}
