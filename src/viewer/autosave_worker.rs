//! The thread that keeps the open session on the disk: states as they arrive, in an autosave folder of its own.

use std::path::PathBuf;

use crossbeam_channel::Sender;

use super::tasks::Outcome;
use crate::base::UserError;
use crate::document::session::autosave::Autosave;
use crate::document::session::{Session, autosave};

enum Order {
    /// Bring the disk up to date with this document.
    Keep { document: u64, session: Box<Session>, replaces: Option<PathBuf> },
    /// What is open is saved elsewhere, or not worth keeping.
    Forget,
    /// Another document is open now; the folder stays for the next start.
    Leave,
}

/// A handle to the thread. Dropping it waits until everything is written.
pub(super) struct AutosaveWorker {
    orders: Option<Sender<Order>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl AutosaveWorker {
    /// Keeps below `folder`; failures go to `outcomes`.
    pub(super) fn start(folder: PathBuf, outcomes: Sender<Outcome>, context: egui::Context) -> std::io::Result<Self> {
        let (orders, inbox) = crossbeam_channel::unbounded::<Order>();
        let run = move || {
            let mut open: Option<(u64, Autosave)> = None;
            let mut failing = false;
            while let Ok(mut order) = inbox.recv() {
                // Of several in a row for one document only the last matters.
                while let (Order::Keep { .. }, Ok(next)) = (&order, inbox.try_recv()) {
                    let replaced = match order {
                        Order::Keep { replaces, .. } => replaces,
                        _ => None,
                    };
                    order = match next {
                        Order::Keep { document, session, replaces } => {
                            Order::Keep { document, session, replaces: replaces.or(replaced) }
                        }
                        other => other,
                    };
                }
                match order {
                    Order::Leave => {
                        // Its lock goes with it; from now on it is among those left behind.
                        open = None;
                        _ = outcomes.send(Outcome::Recoverable(autosave::recoverable(&folder)));
                        context.request_repaint();
                    }
                    Order::Forget => {
                        if let Some((_, autosave)) = open.take() {
                            autosave.discard();
                        }
                    }
                    Order::Keep { document, session, replaces } => {
                        let kept = keep(&mut open, document, &session, &folder);
                        match kept {
                            Ok(()) => {
                                failing = false;
                                if let Some(old) = replaces {
                                    autosave::discard(&old);
                                }
                            }
                            // Told once, not with every state.
                            Err(problem) if !failing => {
                                failing = true;
                                _ = outcomes.send(Outcome::Failed { problem, opening: false });
                                context.request_repaint();
                            }
                            Err(_) => {}
                        }
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("coz-autosave".into()).spawn(run)?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Keeps a document's session; `replaces` is the folder it was restored from, which is not needed any more then.
    pub(super) fn keep(&self, document: u64, session: Session, replaces: Option<PathBuf>) {
        self.send(Order::Keep { document, session: Box::new(session), replaces });
    }

    /// What is open needs no keeping.
    pub(super) fn forget(&self) {
        self.send(Order::Forget);
    }

    /// Another document takes over; what was kept stays.
    pub(super) fn leave(&self) {
        self.send(Order::Leave);
    }

    fn send(&self, order: Order) {
        if let Some(orders) = &self.orders {
            _ = orders.send(order);
        }
    }
}

fn keep(
    open: &mut Option<(u64, Autosave)>,
    document: u64,
    session: &Session,
    folder: &std::path::Path,
) -> Result<(), UserError> {
    let autosave = match open {
        Some((kept, autosave)) if *kept == document => autosave,
        slot => &mut slot.insert((document, Autosave::create(folder)?)).1,
    };
    Ok(autosave.keep(session)?)
}

impl Drop for AutosaveWorker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            _ = thread.join();
        }
    }
}
