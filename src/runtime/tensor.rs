//! Between pictures and tensors: the only place where bytes become floats and back.

use tch::{Device, Kind, TchError, Tensor};

use crate::imaging::Picture;

/// A picture as its own bytes, `[1, 3, H, W]` on the CPU.
pub fn levels_from_picture(picture: &Picture) -> Result<Tensor, TchError> {
    let size = [i64::from(picture.height()), i64::from(picture.width()), 3];
    Tensor::f_from_data_size(picture.rgb(), &size, Kind::Uint8)?.f_permute([2, 0, 1])?.f_unsqueeze(0)
}

/// A picture as float32 `[1, 3, H, W]` in [0, 1] on `device`.
pub fn tensor_from_picture(picture: &Picture, device: Device) -> Result<Tensor, TchError> {
    levels_from_picture(picture)?.f_to_device(device)?.f_to_kind(Kind::Float)?.f_div_scalar(255.0)
}

/// A tensor `[1, 3, H, W]` in [0, 1] as a picture; values outside are clamped, fractions rounded to the nearest level.
pub fn picture_from_tensor(tensor: &Tensor) -> Result<Picture, TchError> {
    picture_from_levels(&tensor.f_to_kind(Kind::Float)?.f_mul_scalar(255.0)?.f_round()?)
}

/// The same with fractions cut off, as torchvision's `ToPILImage` does.
pub fn picture_from_tensor_truncated(tensor: &Tensor) -> Result<Picture, TchError> {
    picture_from_levels(&tensor.f_to_kind(Kind::Float)?.f_mul_scalar(255.0)?)
}

/// From `[1, 3, H, W]` in levels, 0 to 255.
fn picture_from_levels(tensor: &Tensor) -> Result<Picture, TchError> {
    let bytes = tensor
        .f_squeeze_dim(0)?
        .f_permute([1, 2, 0])?
        .f_clamp(0.0, 255.0)?
        .f_to_kind(Kind::Uint8)?
        .f_contiguous()?
        .f_to_device(Device::Cpu)?;
    let [height, width, channels] = bytes.size()[..] else {
        return Err(TchError::Shape(format!("expected [1, 3, H, W], found {:?}", tensor.size())));
    };
    let mut rgb = vec![0; bytes.numel()];
    bytes.f_copy_data_u8(&mut rgb, bytes.numel())?;
    (channels == 3)
        .then(|| Picture::from_rgb(width as u32, height as u32, rgb))
        .flatten()
        .ok_or_else(|| TchError::Shape(format!("expected [1, 3, H, W], found {:?}", tensor.size())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() -> Result<(), TchError> {
        let picture = Picture::from_fn(6, 3, |x, y| [(x * 40) as u8, (y * 80) as u8, 255]);
        let tensor = tensor_from_picture(&picture, Device::Cpu)?;
        assert_eq!(tensor.size(), [1, 3, 3, 6]);
        assert_eq!(picture_from_tensor(&tensor)?, picture);
        Ok(())
    }
}
