//! Text about a picture, as picture files carry it: an XMP packet.

/// A packet, and shorter ones for formats that hold less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Xmp(Vec<String>);

impl Xmp {
    /// With packets that say less and less.
    pub fn with_shorter(mut self, shorter: impl IntoIterator<Item = String>) -> Self {
        self.0.extend(shorter);
        self
    }

    /// The first that is so short, in bytes.
    pub(super) fn within(&self, bytes: usize) -> Option<&str> {
        self.0.iter().find(|packet| packet.len() <= bytes).map(String::as_str)
    }
}

impl From<String> for Xmp {
    fn from(packet: String) -> Self {
        Self(vec![packet])
    }
}
