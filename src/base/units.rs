//! Numbers as people read them.

/// `48x`, `4.7x`, `0.25x`: as many digits as tell something.
pub fn magnification_label(magnification: f64) -> String {
    match magnification {
        m if m >= 9.95 || (m - m.round()).abs() < 0.005 => format!("{m:.0}x"),
        m if m >= 1.0 => format!("{m:.1}x"),
        m => format!("{m:.2}x"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let labels = [1.0, 4.7, 48.2, 256.0, 0.254, 9.97].map(magnification_label);
        assert_eq!(labels, ["1x", "4.7x", "48x", "256x", "0.25x", "10x"]);
    }
}
