//! Which operators of libtorch a piece of work runs, and on what: to find tensors that are where, or what, they should not be
//! (`at::RecordFunction`, as the profiler uses it).

use std::cell::RefCell;
use std::ffi::{CStr, c_char};

use tch::Kind;

unsafe extern "C" {
    fn coz_operators_begin(take: extern "C" fn(*const c_char, *const [i32; 3], usize)) -> u64;
    fn coz_operators_end(handle: u64);
}

/// An operator, as it was run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operator {
    /// Such as `aten::matmul`.
    pub name: String,
    /// The tensors it was given.
    pub inputs: Vec<Input>,
}

/// A tensor that an operator was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// Whether it was on the CPU.
    pub is_on_cpu: bool,
    /// `None` for dtypes that are none of ours.
    pub kind: Option<Kind>,
    /// Dimensions; one number has none.
    pub dims: i32,
}

thread_local! {
    static TAKEN: RefCell<Vec<Operator>> = const { RefCell::new(Vec::new()) };
}

/// c10's numbers of dtypes.
fn kind(number: i32) -> Option<Kind> {
    use Kind::{BFloat16, Bool, Double, Float, Half, Int, Int8, Int16, Int64, Uint8};
    let known =
        [(0, Uint8), (1, Int8), (2, Int16), (3, Int), (4, Int64), (5, Half), (6, Float), (7, Double), (11, Bool)];
    known.into_iter().chain([(15, BFloat16)]).find(|(known, _)| *known == number).map(|(_, kind)| kind)
}

extern "C" fn take(name: *const c_char, inputs: *const [i32; 3], count: usize) {
    // SAFETY: libtorch lends us a text and so many numbers for this call.
    let (name, inputs) = unsafe { (CStr::from_ptr(name), slice_of(inputs, count)) };
    let input = |&[device, dtype, dims]: &[i32; 3]| Input { is_on_cpu: device == 0, kind: kind(dtype), dims };
    let operator = Operator { name: name.to_string_lossy().into_owned(), inputs: inputs.iter().map(input).collect() };
    TAKEN.with_borrow_mut(|taken| taken.push(operator));
}

/// # Safety
/// There are so many, or none.
unsafe fn slice_of<'a>(inputs: *const [i32; 3], count: usize) -> &'a [[i32; 3]] {
    // SAFETY: as above.
    if count == 0 { &[] } else { unsafe { std::slice::from_raw_parts(inputs, count) } }
}

/// What `work` returns, and the operators it ran on this thread, those within others too.
pub fn of<T>(work: impl FnOnce() -> T) -> (T, Vec<Operator>) {
    struct Observed(u64);
    impl Drop for Observed {
        fn drop(&mut self) {
            // SAFETY: it was begun on this thread, and ends once.
            unsafe { coz_operators_end(self.0) };
        }
    }
    TAKEN.take();
    // SAFETY: operators are only written down, until it is ended.
    let observed = Observed(unsafe { coz_operators_begin(take) });
    let result = work();
    drop(observed);
    (result, TAKEN.take())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::rng::noise;

    #[test]
    fn operators_are_seen_with_what_they_were_given() {
        let (a, b) = (noise(&[3, 4]), noise(&[4, 5]));
        let (product, operators) = of(|| a.to_kind(Kind::BFloat16).matmul(&b.to_kind(Kind::BFloat16)));
        assert_eq!(product.size(), [3, 5]);
        let matrix = Input { is_on_cpu: true, kind: Some(Kind::BFloat16), dims: 2 };
        let matmul = Operator { name: "aten::matmul".into(), inputs: vec![matrix; 2] };
        assert!(operators.contains(&matmul), "{operators:?}");
        assert!(operators.iter().any(|operator| operator.name == "aten::mm"), "those within it too");
        let (_, operators) = of(|| ());
        assert_eq!(operators, []);
    }
}
