//! Metrics against implementations of their own in NumPy.

use safetensors::SafeTensors;

use super::fixture;
use chain_of_zoom::imaging::Picture;
use chain_of_zoom::imaging::metrics::niqe;

#[test]
fn niqe_is_that_of_its_authors() {
    let bytes = std::fs::read(fixture("metrics/niqe.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names: Vec<&str> = file.names().into_iter().filter_map(|name| name.strip_suffix(".picture")).collect();
    assert_eq!(names.len(), 6);
    for name in names {
        let picture = file.tensor(&format!("{name}.picture")).unwrap();
        let [height, width, 3] = picture.shape() else { panic!("{name}: {:?}", picture.shape()) };
        let picture = Picture::from_rgb(*width as u32, *height as u32, picture.data().to_vec()).unwrap();
        let score = file.tensor(&format!("{name}.score")).unwrap().data().try_into().map(f64::from_le_bytes).unwrap();
        let found = niqe(&picture);
        println!("{name}: {found:?}, expected {score}");
        match found {
            Some(found) => assert!((found - score).abs() < 1e-6, "{name}: {found}, expected {score}"),
            None => assert!(score.is_nan(), "{name}: none, expected {score}"),
        }
    }
}
