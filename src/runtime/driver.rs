//! What NVIDIA's driver tells of itself and its devices, in the order in which libtorch numbers them. Its own interface
//! (`cuda.h`, the driver API) needs no CUDA library, and answers before anything is computed.

use std::ffi::{CStr, c_char, c_int};
use std::sync::OnceLock;

use libloading::Library;

#[cfg(windows)]
const NAME: &str = "nvcuda.dll";
#[cfg(not(windows))]
const NAME: &str = "libcuda.so.1";

/// `CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR` and `_MINOR`.
const CAPABILITY: [c_int; 2] = [75, 76];

/// The driver that is installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    /// The latest CUDA that it is for, such as (13, 0), where it says so.
    pub cuda: Option<(i32, i32)>,
    /// Its devices, or why it tells of none.
    pub devices: Result<Vec<CudaDevice>, String>,
}

/// An NVIDIA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CudaDevice {
    /// As its maker calls it.
    pub name: String,
    /// Compute capability, such as (8, 6).
    pub capability: (i32, i32),
    /// Bytes, all of them.
    pub memory: u64,
}

/// The NVIDIA driver; `None` where none is installed.
pub fn driver() -> Option<&'static Driver> {
    static DRIVER: OnceLock<Option<Driver>> = OnceLock::new();
    // SAFETY: the name is that of the driver's library, whose start-up code touches nothing of ours. It stays loaded.
    let load = || unsafe { Some(Driver::of(&*Box::leak(Box::new(Library::new(NAME).ok()?)))) };
    DRIVER.get_or_init(load).as_ref()
}

/// What a call of the driver's answers: zero, or the number of an error.
type Status = c_int;

impl Driver {
    /// # Safety
    /// The library is the driver's.
    unsafe fn of(library: &Library) -> Self {
        let mut cuda = 0;
        // SAFETY: the types are those of its header; one number is written.
        let is_known = unsafe {
            let version = library.get::<unsafe extern "C" fn(*mut c_int) -> Status>("cuDriverGetVersion");
            version.is_ok_and(|version| version(&mut cuda) == 0)
        };
        let cuda = is_known.then_some((cuda / 1000, cuda % 1000 / 10));
        // SAFETY: as for this function.
        Self { cuda, devices: unsafe { devices(library) } }
    }
}

/// # Safety
/// The library is the driver's.
unsafe fn devices(library: &Library) -> Result<Vec<CudaDevice>, String> {
    let said = |error: libloading::Error| error.to_string();
    // SAFETY: names and types are those of its header; numbers and texts are written where they are expected.
    unsafe {
        let init = library.get::<unsafe extern "C" fn(u32) -> Status>("cuInit").map_err(said)?;
        let count = library.get::<unsafe extern "C" fn(*mut c_int) -> Status>("cuDeviceGetCount").map_err(said)?;
        let get = library.get::<unsafe extern "C" fn(*mut c_int, c_int) -> Status>("cuDeviceGet").map_err(said)?;
        let name = library
            .get::<unsafe extern "C" fn(*mut c_char, c_int, c_int) -> Status>("cuDeviceGetName")
            .map_err(said)?;
        let attribute = library
            .get::<unsafe extern "C" fn(*mut c_int, c_int, c_int) -> Status>("cuDeviceGetAttribute")
            .map_err(said)?;
        let memory =
            library.get::<unsafe extern "C" fn(*mut usize, c_int) -> Status>("cuDeviceTotalMem_v2").map_err(said)?;
        let text = library.get::<unsafe extern "C" fn(Status, *mut *const c_char) -> Status>("cuGetErrorString");
        let checked = |status: Status| {
            let mut words = std::ptr::null();
            match status {
                0 => Ok(()),
                _ if text.as_ref().is_ok_and(|text| text(status, &mut words) == 0) && !words.is_null() => {
                    Err(CStr::from_ptr(words).to_string_lossy().into_owned())
                }
                number => Err(format!("error {number}")),
            }
        };
        checked(init(0))?;
        let mut number = 0;
        checked(count(&mut number))?;
        let device = |i: c_int| -> Result<CudaDevice, String> {
            let (mut device, mut letters, mut capability, mut bytes) = (0, [0; 256], [0; 2], 0);
            checked(get(&mut device, i))?;
            checked(name(letters.as_mut_ptr(), letters.len() as c_int - 1, device))?;
            for (value, kind) in capability.iter_mut().zip(CAPABILITY) {
                checked(attribute(value, kind, device))?;
            }
            checked(memory(&mut bytes, device))?;
            let name = CStr::from_ptr(letters.as_ptr()).to_string_lossy().into_owned();
            Ok(CudaDevice { name, capability: (capability[0], capability[1]), memory: bytes as u64 })
        };
        (0..number).map(device).collect()
    }
}
