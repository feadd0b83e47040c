//! Where models are to run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// `auto`, `cpu`, `cuda`, `cuda:n`, or two devices: `cuda:n,cuda:m`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceChoice {
    /// The first CUDA device where there is one, else the processor.
    #[default]
    Auto,
    /// The processor.
    Cpu,
    /// A CUDA device by number.
    Cuda(usize),
    /// Two of them: the first for prompts, the second for the picture.
    TwoCuda(usize, usize),
}

impl FromStr for DeviceChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "cpu" => Ok(Self::Cpu),
            "cuda" => Ok(Self::Cuda(0)),
            _ => {
                let number = |part: &str| part.trim().strip_prefix("cuda:").and_then(|number| number.parse().ok());
                let choice = match text.split_once(',') {
                    Some((first, second)) => {
                        number(first).zip(number(second)).map(|(first, second)| Self::TwoCuda(first, second))
                    }
                    None => number(text).map(Self::Cuda),
                };
                choice.ok_or_else(|| format!("expected auto, cpu, cuda, cuda:NUMBER or cuda:N,cuda:M, found {text:?}"))
            }
        }
    }
}

impl TryFrom<String> for DeviceChoice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<DeviceChoice> for String {
    fn from(choice: DeviceChoice) -> Self {
        choice.to_string()
    }
}

impl fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(number) => write!(f, "cuda:{number}"),
            Self::TwoCuda(first, second) => write!(f, "cuda:{first},cuda:{second}"),
        }
    }
}

impl DeviceChoice {
    /// The device, where these CUDA devices can be used, as people read it: `cuda:0` or `cpu`, with `auto` resolved.
    pub fn among(self, usable: &[usize]) -> String {
        match self {
            Self::Auto => usable.first().map_or_else(|| "cpu".into(), |number| format!("cuda:{number}")),
            Self::Cpu => "cpu".into(),
            Self::Cuda(number) if !usable.contains(&number) => format!("{self} (not usable)"),
            Self::TwoCuda(first, second) if ![first, second].iter().all(|number| usable.contains(number)) => {
                format!("{self} (not both usable)")
            }
            Self::Cuda(_) | Self::TwoCuda(..) => self.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_read_as_they_are_written() {
        for text in ["auto", "cpu", "cuda:3", "cuda:0,cuda:1"] {
            assert_eq!(text.parse::<DeviceChoice>().expect(text).to_string(), text);
        }
        assert_eq!("cuda".parse(), Ok(DeviceChoice::Cuda(0)));
        for text in ["", "gpu", "cuda:", "cuda:x", "cuda:0,cpu", "cuda:0,"] {
            assert!(text.parse::<DeviceChoice>().is_err(), "{text}");
        }
        assert_eq!(DeviceChoice::TwoCuda(0, 1).among(&[0]), "cuda:0,cuda:1 (not both usable)");
        assert_eq!([DeviceChoice::Auto.among(&[1, 2]), DeviceChoice::Auto.among(&[])], ["cuda:1", "cpu"]);
    }
}
