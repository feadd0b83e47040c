//! A network's equal layers: kept in memory, or read one at a time while the one before computes.

use std::sync::{Mutex, PoisonError};

use tch::TchError;

use super::accelerator;
use super::weights::{LoadMode, Loader, Origin, WeightsError};

/// The layers of one network.
pub struct Layers<L>(Kind<L>);

enum Kind<L> {
    /// All in memory.
    Kept(Vec<L>),
    /// Read when it is their turn.
    Streamed(Mutex<Box<Source<L>>>),
}

/// Where layers are read from.
struct Source<L> {
    origin: Origin,
    count: i64,
    read: Box<Read<L>>,
}

type Read<L> = dyn Fn(&mut Loader, i64) -> Result<L, WeightsError> + Send;

impl<L: Send> Layers<L> {
    /// Reads `count` layers, each by `read`; where the loader streams, they are only checked now. Layers that are trained
    /// are never streamed: they keep what is optimised.
    pub fn load(
        loader: &mut Loader,
        count: i64,
        read: impl Fn(&mut Loader, i64) -> Result<L, WeightsError> + Send + 'static,
    ) -> Result<Self, WeightsError> {
        if loader.load_mode() != LoadMode::Stream || loader.has_unmerged() {
            return Ok(Self(Kind::Kept((0..count).map(|i| read(loader, i)).collect::<Result<_, _>>()?)));
        }
        let before = loader.set_mode(LoadMode::ShapesOnly);
        let checked = (0..count).try_for_each(|i| read(loader, i).map(drop));
        loader.set_mode(before);
        checked?;
        let source = Source { origin: loader.origin(), count, read: Box::new(read) };
        Ok(Self(Kind::Streamed(Mutex::new(Box::new(source)))))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        match &self.0 {
            Kind::Kept(layers) => layers.len(),
            Kind::Streamed(source) => source.lock().unwrap_or_else(PoisonError::into_inner).count as usize,
        }
    }

    /// A layer by its number; `None` where there is none, and of those that are streamed.
    pub fn get(&self, i: usize) -> Option<&L> {
        match &self.0 {
            Kind::Kept(layers) => layers.get(i),
            Kind::Streamed(_) => None,
        }
    }

    /// Visits the layers in their order. At most two are in memory where they are streamed: the visited one and the next.
    pub fn each<E: From<TchError> + From<WeightsError>>(
        &self,
        mut visit: impl FnMut(i64, &L) -> Result<(), E>,
    ) -> Result<(), E> {
        let source = match &self.0 {
            Kind::Kept(layers) => {
                return layers.iter().enumerate().try_for_each(|(i, layer)| visit(i as i64, layer));
            }
            Kind::Streamed(source) => source,
        };
        std::thread::scope(|scope| {
            // Without room in it: who sends waits until the one before was dropped.
            let (sender, receiver) = crossbeam_channel::bounded(0);
            scope.spawn(move || {
                let _no_grad = tch::no_grad_guard();
                let source = source.lock().unwrap_or_else(PoisonError::into_inner);
                let device = source.origin.device;
                accelerator::compute_beside(device);
                let mut loader = Loader::from(source.origin.clone());
                // Of the layer before; the one before that is gone when its successor was taken.
                let mut last = Vec::new();
                for i in 0..source.count {
                    let layer = (source.read)(&mut loader, i);
                    last = loader.reuse(last);
                    // What was copied beside the computation is whole when it is handed over.
                    let waited = accelerator::wait(device).map_err(WeightsError::from);
                    let layer = layer.and_then(|layer| waited.map(|()| layer));
                    // Nobody waits for it any more: the visit before has failed.
                    if sender.send((layer, device)).is_err() {
                        return;
                    }
                }
            });
            for (i, (layer, device)) in receiver.iter().enumerate() {
                let layer = layer?;
                visit(i as i64, &layer)?;
                // Its memory may be taken by the next but one, which knows nothing of what still computes here.
                accelerator::wait(device)?;
            }
            Ok(())
        })
    }
}
