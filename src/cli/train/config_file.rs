//! Options of a trainer from a TOML file, by their names on the command line, whose own options come after them and win.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use serde::Serialize;
use toml::{Table, Value};

use crate::base::{UserError, write_atomic};

/// The command line with the options of its `--config_file`, where there is one, behind the trainer's name.
pub(in crate::cli) fn expanded(mut arguments: Vec<OsString>) -> Result<Vec<OsString>, UserError> {
    let is_train = arguments.get(1).is_some_and(|command| command == "train");
    let Some(file) = is_train.then(|| named_file(&arguments)).flatten() else { return Ok(arguments) };
    let options = options(Path::new(&file))?;
    arguments.splice(3..3, options);
    Ok(arguments)
}

fn named_file(arguments: &[OsString]) -> Option<OsString> {
    let is_option = |argument: &OsStr| argument == "--config_file" || argument == "--config-file";
    let place = arguments.iter().position(|argument| is_option(argument));
    let joined = |argument: &OsString| {
        let (option, file) = argument.to_str()?.split_once('=')?;
        is_option(OsStr::new(option)).then(|| file.into())
    };
    place.and_then(|place| arguments.get(place + 1).cloned()).or_else(|| arguments.iter().find_map(joined))
}

fn options(file: &Path) -> Result<Vec<OsString>, UserError> {
    let wrong = |details: String| {
        let details = format!("{}: {details}", file.display());
        UserError::new("The config file cannot be used", details, "It holds options as `learning_rate = 5e-5`.")
    };
    let text = std::fs::read_to_string(file).map_err(|error| wrong(error.to_string()))?;
    let table: Table = text.parse().map_err(|error: toml::de::Error| wrong(error.to_string()))?;
    let mut options = Vec::new();
    for (name, value) in &table {
        match value {
            Value::Boolean(true) => options.push(format!("--{name}").into()),
            Value::Boolean(false) => (),
            value => {
                let text =
                    text_of(value).ok_or_else(|| wrong(format!("{name} is no number, text or list of those")))?;
                options.push(format!("--{name}={text}").into());
            }
        }
    }
    Ok(options)
}

fn text_of(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Integer(number) => Some(number.to_string()),
        Value::Float(number) => Some(number.to_string()),
        Value::Array(values) => Some(values.iter().map(text_of).collect::<Option<Vec<_>>>()?.join(",")),
        _ => None,
    }
}

/// Writes all options of a run, given or not, so that the file leads to the same run.
pub(super) fn save(options: &impl Serialize, file: &Path) -> Result<(), UserError> {
    let wrong = |details: String| UserError::new("The options cannot be saved", details, "Check the room on the disk.");
    let text = toml::to_string(options).map_err(|error| wrong(format!("{}: {error}", file.display())))?;
    write_atomic(file, |out| std::io::Write::write_all(out, text.as_bytes())).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_file_come_before_those_of_the_command_line() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.toml");
        let text = "learning_rate = 5e-5\nnull_prompt = true\ndry_run = false\nneg_prompt = \"a, b\"\n\
                    dataset_prob_paths_list = [1, 2]\nseed = 7\n";
        std::fs::write(&file, text).unwrap();
        let path = file.to_str().unwrap();
        let expanded = |arguments: &[&str]| super::expanded(arguments.iter().map(OsString::from).collect()).unwrap();
        let given = [
            "--learning_rate=0.00005",
            "--null_prompt",
            "--neg_prompt=a, b",
            "--dataset_prob_paths_list=1,2",
            "--seed=7",
        ];
        for config in [vec!["--config_file", path], vec![&format!("--config-file={path}")]] {
            let found = expanded(&[&["coz", "train", "sr", "--seed", "8"], &config[..]].concat());
            let mut inside = found[3..8].to_vec();
            inside.sort();
            let mut expected = given.map(OsString::from);
            expected.sort();
            assert_eq!(inside, expected);
            assert_eq!(found[8..10], ["--seed", "8"]);
        }
        assert_eq!(expanded(&["coz", "zoom", "--config_file", path]).len(), 4);
        std::fs::write(&file, "[table]\na = 1").unwrap();
        let wrong = super::expanded(["coz", "train", "sr", "--config_file", path].map(OsString::from).to_vec());
        assert!(wrong.is_err_and(|error| error.to_string().contains("config.toml")));
    }
}
