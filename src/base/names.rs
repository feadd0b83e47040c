//! Names of enumerations, as people write and read them.

use strum::VariantNames;

/// What is said of a name that no variant of `E` has.
pub fn unknown<E: VariantNames>(found: &str) -> String {
    format!("expected {}, found {found:?}", either(E::VARIANTS))
}

/// `a, b or c`.
pub fn either(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use crate::base::MemoryPlan;

    #[test]
    fn unknown_names_are_answered_with_the_known() {
        let wrong = "tiny".parse::<MemoryPlan>();
        assert_eq!(wrong, Err("expected auto, resident, staged or streamed, found \"tiny\"".into()));
        assert_eq!("staged".parse(), Ok(MemoryPlan::Staged));
        assert_eq!(MemoryPlan::Staged.to_string(), "staged");
    }
}
