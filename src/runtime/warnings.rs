//! libtorch's warnings belong into the log, not on the terminal (`c10::WarningHandler`).

use std::ffi::c_char;

unsafe extern "C" {
    fn coz_take_warnings(take: extern "C" fn(*const c_char, usize));
}

extern "C" fn take(text: *const c_char, length: usize) {
    // SAFETY: libtorch lends us so many bytes for this call.
    let bytes = unsafe { std::slice::from_raw_parts(text.cast::<u8>(), length) };
    tracing::warn!("libtorch: {}", String::from_utf8_lossy(bytes));
}

/// What libtorch warns of on this thread goes to the log from now on; other threads have handlers of their own.
pub fn log_warnings() {
    // SAFETY: sets this thread's handler, which lives as long as the program.
    unsafe { coz_take_warnings(take) };
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tch::{Device, Kind, Tensor};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    /// Becomes true with a warning of libtorch's.
    struct Warned(Arc<AtomicBool>);

    impl<S: tracing::Subscriber> Layer<S> for Warned {
        fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
            let mut text = String::new();
            event.record(&mut |_: &tracing::field::Field, value: &dyn std::fmt::Debug| text += &format!("{value:?}"));
            if *event.metadata().level() == tracing::Level::WARN && text.contains("libtorch: An output") {
                self.0.store(true, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn warnings_are_logged() {
        let warned = Arc::new(AtomicBool::new(false));
        let log = tracing_subscriber::registry().with(Warned(warned.clone()));
        tracing::subscriber::with_default(log, || {
            super::log_warnings();
            // An output of another shape is resized, with a warning.
            let (out, ones) =
                (Tensor::zeros([2], (Kind::Float, Device::Cpu)), Tensor::ones([3], (Kind::Float, Device::Cpu)));
            assert_eq!(ones.add_out(&out, &ones).size(), [3]);
        });
        assert!(warned.load(Ordering::Relaxed));
    }
}
