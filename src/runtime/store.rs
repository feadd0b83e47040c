//! c10d's `TCPStore`: how processes of one training find each other, wherever they run, and exchange bytes by keys.

use std::ffi::{CString, c_char, c_void};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tch::TchError;

use super::message::{checked, reason};

unsafe extern "C" {
    fn coz_store_open(
        host: *const c_char,
        port: u16,
        is_server: bool,
        timeout_ms: i64,
        error: *mut c_char,
        length: usize,
    ) -> *mut c_void;
    fn coz_store_close(store: *mut c_void);
    fn coz_store_set(
        store: *mut c_void,
        key: *const c_char,
        bytes: *const u8,
        count: usize,
        error: *mut c_char,
        length: usize,
    ) -> bool;
    fn coz_store_get(
        store: *mut c_void,
        key: *const c_char,
        failed: *const c_char,
        stops: extern "C" fn() -> bool,
        bytes: *mut u8,
        count: usize,
        error: *mut c_char,
        length: usize,
    ) -> bool;
    fn coz_store_delete(store: *mut c_void, key: *const c_char, error: *mut c_char, length: usize) -> bool;
}

/// The key of what [`Store::fail`] says.
const FAILED: &str = "failed";

/// A connection to the store; it ends with this.
pub struct Store {
    store: *mut c_void,
    /// Before each key.
    prefix: String,
}

/// Whoever waits for others is not to wait for long.
static STOPS: AtomicBool = AtomicBool::new(false);

/// The program is asked to stop: who waits for another process's bytes gives up soon.
pub fn stop_waiting() {
    STOPS.store(true, Ordering::Relaxed);
}

extern "C" fn stops() -> bool {
    STOPS.load(Ordering::Relaxed)
}

// SAFETY: c10d's store guards itself.
unsafe impl Send for Store {}

impl Drop for Store {
    fn drop(&mut self) {
        // SAFETY: it was opened, and is closed once.
        unsafe { coz_store_close(self.store) };
    }
}

fn text(key: &str) -> Result<CString, TchError> {
    CString::new(key).map_err(|_| TchError::Torch(format!("{key:?} has a zero in it")))
}

impl Store {
    fn key(&self, key: &str) -> Result<CString, TchError> {
        text(&format!("{}/{key}", self.prefix))
    }
}

impl Store {
    /// Connects to the one at `host`, which this process serves itself where `is_server` is set. For that, and for each answer, it
    /// waits at most `timeout`. Keys of others with another prefix are other keys.
    ///
    /// # Errors
    /// Where nobody answers, or the port is in use.
    pub fn open(host: &str, port: u16, is_server: bool, prefix: &str, timeout: Duration) -> Result<Self, TchError> {
        let (host, timeout) = (text(host)?, timeout.as_millis() as i64);
        let mut store = std::ptr::null_mut();
        let reason = reason(|error, length| {
            // SAFETY: the text ends with a zero.
            store = unsafe { coz_store_open(host.as_ptr(), port, is_server, timeout, error, length) };
        });
        if store.is_null() { Err(TchError::Torch(reason)) } else { Ok(Self { store, prefix: prefix.into() }) }
    }

    /// Whoever waits for the key gets these bytes.
    ///
    /// # Errors
    /// Where the server is gone.
    pub fn set(&self, key: &str, bytes: &[u8]) -> Result<(), TchError> {
        let key = self.key(key)?;
        // SAFETY: so many bytes are read.
        checked(|error, length| unsafe {
            coz_store_set(self.store, key.as_ptr(), bytes.as_ptr(), bytes.len(), error, length)
        })
    }

    /// Waits for a key's bytes, which fill `bytes`.
    ///
    /// # Errors
    /// Where they do not come in time, or are more or fewer; what somebody has said by [`Store::fail`].
    pub fn get(&self, key: &str, bytes: &mut [u8]) -> Result<(), TchError> {
        let (key, failed) = (self.key(key)?, self.key(FAILED)?);
        // SAFETY: as many bytes are written as there are.
        checked(|error, length| unsafe {
            coz_store_get(
                self.store,
                key.as_ptr(),
                failed.as_ptr(),
                stops,
                bytes.as_mut_ptr(),
                bytes.len(),
                error,
                length,
            )
        })
    }

    /// Whoever waits gets this reason as an error.
    ///
    /// # Errors
    /// Where the server is gone.
    pub fn fail(&self, reason: &str) -> Result<(), TchError> {
        self.set(FAILED, reason.as_bytes())
    }

    /// Nobody needs the key's bytes any more.
    ///
    /// # Errors
    /// Where the server is gone.
    pub fn delete(&self, key: &str) -> Result<(), TchError> {
        let key = self.key(key)?;
        // SAFETY: the text ends with a zero.
        checked(|error, length| unsafe { coz_store_delete(self.store, key.as_ptr(), error, length) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody else has it for now.
    fn free_port() -> u16 {
        std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
    }

    #[test]
    fn bytes_go_from_one_to_another() {
        let (port, soon) = (free_port(), Duration::from_secs(20));
        let server = Store::open("127.0.0.1", port, true, "test", soon).unwrap();
        let client = Store::open("127.0.0.1", port, false, "test", soon).unwrap();
        let large: Vec<u8> = (0..3_000_000_u32).map(|i| (i % 251) as u8).collect();
        let waiting = std::thread::spawn({
            let count = large.len();
            move || {
                let mut bytes = vec![0; count];
                client.get("large", &mut bytes).unwrap();
                (client, bytes)
            }
        });
        server.set("large", &large).unwrap();
        let (client, bytes) = waiting.join().unwrap();
        assert!(bytes == large);
        assert!(client.get("large", &mut [0; 5]).is_err_and(|error| error.to_string().contains("3000000 bytes")));
        client.delete("large").unwrap();
    }

    #[test]
    fn what_does_not_come_is_an_error_in_time() {
        let (port, soon) = (free_port(), Duration::from_millis(500));
        assert!(Store::open("127.0.0.1", port, false, "test", soon).is_err());
        let store = Store::open("127.0.0.1", port, true, "test", soon).unwrap();
        assert!(store.get("nothing", &mut [0; 5]).is_err_and(|error| error.to_string().contains("nothing came for ")));
        store.set("something", &[1, 2]).unwrap();
        let mut bytes = [0; 2];
        store.get("something", &mut bytes).unwrap();
        assert_eq!(bytes, [1, 2]);
        store.fail("rank 1: its disk is full").unwrap();
        assert!(
            store
                .get("nothing", &mut [0; 5])
                .is_err_and(|error| error.to_string().contains("rank 1: its disk is full"))
        );
    }
}
