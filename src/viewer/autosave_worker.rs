//! The thread that keeps the open session on the disk: states as they arrive, in an autosave folder of its own.

use std::path::{Path, PathBuf};

use crossbeam_channel::Sender;

use super::tasks::Outcome;
use crate::base::UserError;
use crate::document::History;
use crate::document::session::autosave::Autosave;
use crate::document::session::{Session, autosave};

enum Order {
    /// Bring the disk up to date with this document.
    Keep { document: u64, session: Box<Session>, replaces: Option<PathBuf> },
    /// Write its pictures, so that they can leave memory.
    KeepPictures { document: u64, history: Box<History> },
    /// What is open is saved elsewhere, or not worth keeping.
    Forget,
    /// The document is closed; what is to be recovered of it stays for the next start.
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
            // Told once, not with every state.
            let report = |kept: Result<(), UserError>, failing: &mut bool| {
                let was_failing = std::mem::replace(failing, kept.is_err());
                if let (Err(problem), false) = (&kept, was_failing) {
                    // The window may be closed by now.
                    _ = outcomes.send(Outcome::Failed(problem.clone()));
                    context.request_repaint();
                }
                kept.is_ok()
            };
            let mut open: Option<(u64, Autosave)> = None;
            let mut failing = false;
            let mut next_order = None;
            while let Some(mut order) = next_order.take().or_else(|| inbox.recv().ok()) {
                // Of several in a row for one document only the last matters; whatever else follows waits for its turn.
                while let Order::Keep { document: current, replaces: earlier, .. } = &mut order
                    && next_order.is_none()
                    && let Ok(next) = inbox.try_recv()
                {
                    match next {
                        Order::Keep { document, session, replaces } if document == *current => {
                            let replaces = replaces.or(earlier.take());
                            order = Order::Keep { document, session, replaces };
                        }
                        other => next_order = Some(other),
                    }
                }
                match order {
                    Order::Leave => {
                        // Its lock goes with it; from now on it is among those left behind.
                        open = None;
                        // As above.
                        _ = outcomes.send(Outcome::Recoverable(autosave::recoverable(&folder)));
                        context.request_repaint();
                    }
                    Order::Forget => {
                        if let Some((_, autosave)) = &mut open {
                            autosave.forget();
                        }
                    }
                    Order::KeepPictures { document, history } => {
                        let kept = opened(&mut open, document, &folder)
                            .and_then(|autosave| Ok(autosave.keep_pictures(&history)?));
                        report(kept, &mut failing);
                    }
                    Order::Keep { document, session, replaces } => {
                        let kept =
                            opened(&mut open, document, &folder).and_then(|autosave| Ok(autosave.keep(&session)?));
                        if report(kept, &mut failing)
                            && let Some(old) = replaces
                        {
                            autosave::discard(&old);
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

    /// Writes the pictures of a document, so that they can leave memory.
    pub(super) fn keep_pictures(&self, document: u64, history: History) {
        self.send(Order::KeepPictures { document, history: Box::new(history) });
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
            // A worker that is gone has panicked, which is in the log.
            _ = orders.send(order);
        }
    }
}

/// The document's folder.
fn opened<'a>(
    open: &'a mut Option<(u64, Autosave)>,
    document: u64,
    folder: &Path,
) -> Result<&'a mut Autosave, UserError> {
    let kept = match open.take().filter(|(kept, _)| *kept == document) {
        Some(kept) => kept,
        None => (document, Autosave::create(folder)?),
    };
    Ok(&mut open.insert(kept).1)
}

impl Drop for AutosaveWorker {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            // As above.
            _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::base::Source;
    use crate::document::History;
    use crate::document::session::Choices;
    use crate::imaging::Picture;

    fn session(name: &str) -> Session {
        let picture = Arc::new(Picture::from_fn(8, 8, |_, _| [0; 3]));
        let source = Source { name: name.into(), ..Source::default() };
        let history = History::new(source, picture.clone(), picture);
        Session { history, choices: Choices::default(), lost_photo: None }
    }

    /// Orders come faster than pictures are written, in whatever order the thread gets to them.
    #[test]
    fn every_order_is_carried_out_in_its_turn() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().expect("there is room for a folder");
            let (outcomes, _) = crossbeam_channel::unbounded();
            let all = folder.path().to_owned();
            let worker = AutosaveWorker::start(all.clone(), outcomes, egui::Context::default()).expect("it starts");
            for name in ["early", "late"] {
                worker.keep(1, session(name), None);
            }
            worker.leave();
            worker.keep(2, session("thrown away"), None);
            worker.forget();
            worker.keep(3, session("third"), None);
            worker.keep(4, session("fourth"), None);
            drop(worker);
            let mut names: Vec<String> = autosave::recoverable(&all).into_iter().map(|left| left.name).collect();
            names.sort();
            assert_eq!(names, ["fourth", "late", "third"]);
        }
    }
}
