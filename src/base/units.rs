//! Numbers as people read them.

/// `48x`, `4.7x`, `0.25x`: as many digits as tell something.
pub fn magnification_label(magnification: f64) -> String {
    match magnification {
        m if m >= 9.95 || (m - m.round()).abs() < 0.005 => format!("{m:.0}x"),
        m if m >= 1.0 => format!("{m:.1}x"),
        m => format!("{m:.2}x"),
    }
}

/// `45 MB`, `1.2 GB`.
pub fn bytes_label(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.0} kB", b / 1e3),
        b if b < 1e9 => format!("{:.0} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}

/// `0.03 s`, `4.5 s`, `45 s`, `3 min`, `1.5 h`.
pub fn secs_label(secs: f64) -> String {
    match secs {
        s if s < 0.095 => format!("{s:.2} s"),
        s if s < 9.5 => format!("{s:.1} s"),
        s if s < 90.0 => format!("{s:.0} s"),
        s if s < 5400.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short() {
        let labels = [1.0, 4.7, 48.2, 256.0, 0.254, 9.97].map(magnification_label);
        assert_eq!(labels, ["1x", "4.7x", "48x", "256x", "0.25x", "10x"]);
        assert_eq!([400_000, 45_000_000, 1_240_000_000].map(bytes_label), ["400 kB", "45 MB", "1.2 GB"]);
        assert_eq!([0.034, 4.51, 45.0, 200.0, 5600.0].map(secs_label), ["0.03 s", "4.5 s", "45 s", "3 min", "1.6 h"]);
    }
}
