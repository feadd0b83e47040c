//! Pictures that are not opaque: laid over a background they are worked with, and taken off it again when they are written.

use super::Picture;

/// The same where the picture's colours were never laid over anything: they stay, but where nothing can be seen.
pub fn without_hidden(picture: &Picture, alpha: &Picture, background: [u8; 3]) -> Picture {
    let (width, height) = (picture.width().min(alpha.width()), picture.height().min(alpha.height()));
    let colour = |x, y| if alpha.pixel(x, y)[0] == 0 { background } else { picture.pixel(x, y) };
    Picture::from_fn(width, height, colour)
}

/// The colours of a picture that lies over `background` with an opacity of `alpha`, a grey picture of the same size, so that laid
/// over it they look the same. Where nothing can be seen they are the background's own.
pub fn straight(picture: &Picture, alpha: &Picture, background: [u8; 3]) -> Picture {
    let (width, height) = (picture.width().min(alpha.width()), picture.height().min(alpha.height()));
    Picture::from_fn(width, height, |x, y| {
        let opacity = i32::from(alpha.pixel(x, y)[0]);
        let seen = picture.pixel(x, y);
        std::array::from_fn(|channel| {
            let (seen, below) = (i32::from(seen[channel]), i32::from(background[channel]));
            match opacity {
                0 => background[channel],
                _ => (below + ((seen - below) * 255 + (seen - below).signum() * opacity / 2) / opacity).clamp(0, 255)
                    as u8,
            }
        })
    })
}

/// The greys of the checker behind what is transparent.
const CHECKER: [u8; 2] = [0xff, 0xcc];
/// Cells of it along the longer side of a picture.
const CELLS: u32 = 64;
const SMALLEST_CELL: u32 = 8;

/// A picture that lies over white, as greys of the same size say, over a checker instead, as windows show it.
pub fn over_checker(picture: &Picture, alpha: &Picture) -> Picture {
    let (width, height) = (picture.width().min(alpha.width()), picture.height().min(alpha.height()));
    let cell = (width.max(height) / CELLS).max(SMALLEST_CELL);
    Picture::from_fn(width, height, |x, y| {
        let below = CHECKER[((x / cell + y / cell) % 2) as usize];
        let seen_through = u16::from(255 - alpha.pixel(x, y)[0]);
        let darker = (u16::from(255 - below) * seen_through + 127) / 255;
        picture.pixel(x, y).map(|level| level.saturating_sub(darker as u8))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_transparent_shows_the_checker() {
        let alpha = Picture::from_fn(20, 20, |_, y| [if y < 10 { 0 } else { 255 }; 3]);
        let picture = Picture::from_fn(20, 20, |_, y| if y < 10 { [255; 3] } else { [7, 8, 9] });
        let seen = over_checker(&picture, &alpha);
        assert_eq!([seen.pixel(0, 0), seen.pixel(8, 0), seen.pixel(8, 8)], [[0xff; 3], [0xcc; 3], [0xff; 3]]);
        assert_eq!(seen.pixel(3, 15), [7, 8, 9]);
    }

    #[test]
    fn laid_over_the_background_again_it_looks_the_same() {
        let alpha = Picture::from_fn(4, 1, |x, _| [[0u8, 51, 128, 255][x as usize]; 3]);
        for background in [[255; 3], [0; 3], [10, 200, 90]] {
            let colours = Picture::from_fn(4, 1, |x, _| [40 * x as u8, 255 - 50 * x as u8, 77]);
            let over = |colours: &Picture| {
                Picture::from_fn(4, 1, |x, _| {
                    let opacity = u32::from(alpha.pixel(x, 0)[0]);
                    std::array::from_fn(|c| {
                        let (colour, below) = (u32::from(colours.pixel(x, 0)[c]), u32::from(background[c]));
                        ((colour * opacity + below * (255 - opacity) + 127) / 255) as u8
                    })
                })
            };
            let blended = over(&colours);
            let straight = straight(&blended, &alpha, background);
            assert_eq!(straight.pixel(0, 0), background);
            let again = over(&straight);
            assert!(again.rgb().iter().zip(blended.rgb()).all(|(a, b)| a.abs_diff(*b) <= 1), "{again:?}");
            assert_eq!(straight.pixel(3, 0), colours.pixel(3, 0));
        }
    }
}
