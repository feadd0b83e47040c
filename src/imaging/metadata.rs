//! What a picture file says beside its pixels.

use super::Xmp;
use crate::base::Exif;

/// It.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// How it was made.
    pub xmp: Option<Xmp>,
    /// What the camera wrote.
    pub exif: Option<Exif>,
}
