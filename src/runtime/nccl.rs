//! NVIDIA's NCCL by its C interface (`nccl.h`), loaded where it is asked for: sums over the devices of several processes. It lies
//! in the Python packages beside PyTorch's own.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::path::Path;

use libloading::Library;
use tch::{Device, Kind, TchError, Tensor};

use super::accelerator;

const NAME: &str = "libnccl.so.2";
/// `ncclFloat32`.
const FLOAT32: c_int = 7;
/// `ncclSum`.
const SUM: c_int = 0;

/// `ncclUniqueId`: how processes find each other.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct UniqueId(pub [u8; 128]);

type GetUniqueId = unsafe extern "C" fn(*mut UniqueId) -> c_int;
type CommInitRank = unsafe extern "C" fn(*mut *mut c_void, c_int, UniqueId, c_int) -> c_int;
type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;
type CommDestroy = unsafe extern "C" fn(*mut c_void) -> c_int;
type GetErrorString = unsafe extern "C" fn(c_int) -> *const c_char;

/// The library.
pub struct Nccl(Library);

/// This process's place among the others.
pub struct Communicator {
    library: Nccl,
    communicator: *mut c_void,
    device: Device,
}

// SAFETY: it is used by one thread at a time, as NCCL asks for.
unsafe impl Send for Communicator {}

impl Nccl {
    /// Loads it: from a file, or where the system finds it.
    ///
    /// # Errors
    /// What the system says.
    pub fn load(file: Option<&Path>) -> Result<Self, TchError> {
        let name = file.unwrap_or(Path::new(NAME));
        // SAFETY: loading it only sets up its own state.
        let library = unsafe { Library::new(name) };
        library.map(Self).map_err(|error| TchError::Torch(format!("{}: {error}", name.display())))
    }

    fn function<F>(&self, name: &str) -> Result<libloading::Symbol<'_, F>, TchError> {
        // SAFETY: the types above are those of nccl.h since version 2.0.
        unsafe { self.0.get(name.as_bytes()) }.map_err(|error| TchError::Torch(error.to_string()))
    }

    fn checked(&self, result: c_int) -> Result<(), TchError> {
        if result == 0 {
            return Ok(());
        }
        let text = self.function::<GetErrorString>("ncclGetErrorString")?;
        // SAFETY: it returns a text of the library's own.
        let text = unsafe { CStr::from_ptr(text(result)) }.to_string_lossy();
        Err(TchError::Torch(format!("NCCL: {text}")))
    }

    /// A name for a new group of processes, made by one of them.
    ///
    /// # Errors
    /// What NCCL says.
    pub fn unique_id(&self) -> Result<UniqueId, TchError> {
        let mut id = UniqueId([0; 128]);
        let get = self.function::<GetUniqueId>("ncclGetUniqueId")?;
        // SAFETY: it writes so many bytes.
        self.checked(unsafe { get(&raw mut id) })?;
        Ok(id)
    }

    /// Joins the group; returns when all have.
    ///
    /// # Errors
    /// What NCCL says.
    pub fn join(self, id: UniqueId, rank: usize, size: usize, device: Device) -> Result<Communicator, TchError> {
        accelerator::stream(device)?;
        let mut communicator = std::ptr::null_mut();
        let join = self.function::<CommInitRank>("ncclCommInitRank")?;
        // SAFETY: one pointer is written.
        self.checked(unsafe { join(&raw mut communicator, size as c_int, id, rank as c_int) })?;
        Ok(Communicator { library: self, communicator, device })
    }
}

impl Communicator {
    /// The sum of all processes' tensors, float32 of one size, in its place.
    ///
    /// # Errors
    /// What NCCL says.
    pub fn sum(&self, tensor: &mut Tensor) -> Result<(), TchError> {
        if tensor.kind() != Kind::Float || !tensor.is_contiguous() || tensor.device() != self.device {
            return Err(TchError::Torch("NCCL sums float32 in one piece on its own device".into()));
        }
        let all_reduce = self.library.function::<AllReduce>("ncclAllReduce")?;
        let (numbers, count) = (tensor.data_ptr(), tensor.numel());
        let stream = accelerator::stream(self.device)?;
        // SAFETY: so many numbers lie there, on the device whose current stream this is.
        let result = unsafe { all_reduce(numbers, numbers, count, FLOAT32, SUM, self.communicator, stream) };
        self.library.checked(result)?;
        accelerator::wait(self.device)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if let Ok(destroy) = self.library.function::<CommDestroy>("ncclCommDestroy") {
            // SAFETY: it was made by NCCL, and ends once.
            unsafe { destroy(self.communicator) };
        }
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;

    /// One that writes down what it is asked for: two processes that have the same numbers.
    const STAND_IN: &str = r#"
        #include <stddef.h>
        typedef struct { unsigned char internal[128]; } ncclUniqueId;
        static int comm;
        int ncclGetUniqueId(ncclUniqueId* id) { for (int i = 0; i < 128; i++) id->internal[i] = i; return 0; }
        int ncclCommInitRank(void** c, int size, ncclUniqueId id, int rank) {
            for (int i = 0; i < 128; i++) if (id.internal[i] != i) return 4;
            *c = &comm;
            return size == 2 && rank == 1 ? 0 : 5;
        }
        int ncclAllReduce(const float* from, float* to, size_t count, int type, int op, void* c, void* stream) {
            if (type != 7 || op != 0 || c != &comm) return 4;
            for (size_t i = 0; i < count; i++) to[i] = from[i] + from[i];
            return 0;
        }
        int ncclCommDestroy(void* c) { return c == &comm ? 0 : 4; }
        const char* ncclGetErrorString(int result) { return result == 5 ? "invalid usage" : "invalid argument"; }
    "#;

    #[test]
    fn the_interface_is_used_as_its_header_says() {
        let folder = tempfile::tempdir().unwrap();
        let (source, library) = (folder.path().join("nccl.c"), folder.path().join("libnccl.so.2"));
        std::fs::write(&source, STAND_IN).unwrap();
        let built =
            std::process::Command::new("cc").args(["-shared", "-fPIC", "-o"]).args([&library, &source]).status();
        assert!(built.unwrap().success());
        let load = || Nccl::load(Some(&library)).unwrap();
        let id = load().unique_id().unwrap();
        let communicator = load().join(id, 1, 2, Device::Cpu).unwrap();
        let mut tensor = noise(&[5, 7]);
        let expected = &tensor * 2.0;
        communicator.sum(&mut tensor).unwrap();
        assert!(tensor.equal(&expected));
        assert!(communicator.sum(&mut expected.to_kind(Kind::Double)).is_err());
        let wrong = load().join(id, 0, 1, Device::Cpu).err().unwrap().to_string();
        assert!(wrong.contains("invalid usage"), "{wrong}");
        assert!(
            Nccl::load(Some(&folder.path().join("none.so"))).is_err_and(|error| error.to_string().contains("none.so"))
        );
    }
}
