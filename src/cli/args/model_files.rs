//! An option for each file of a model, out of the models' own tables.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::error::Error;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};
use indexmap::IndexMap;

use crate::base::{BACKBONES, FileSpec, PROMPT_SOURCES, Published};
use crate::hub::ModelPaths;

/// The files of super-resolution models that are given.
#[derive(Clone)]
pub(super) struct BackboneFiles(pub Given);

/// Those of prompt sources.
#[derive(Clone)]
pub(super) struct PromptSourceFiles(pub Given);

/// Paths by the options they were given with.
#[derive(Clone)]
pub(super) struct Given(BTreeMap<&'static str, PathBuf>);

impl Given {
    /// How many of a model's files are given.
    pub(super) fn count(&self, files: &[FileSpec]) -> usize {
        files.iter().filter(|file| self.0.contains_key(file.option)).count()
    }

    /// The options of files that a model does not have.
    pub(super) fn others(&self, files: &[FileSpec]) -> Vec<String> {
        let is_other = |option: &&&str| !files.iter().any(|file| file.option == **option);
        self.0.keys().filter(is_other).map(|option| format!("--{option}")).collect()
    }

    /// Where those of a model lie.
    pub(super) fn paths(&self, files: &[FileSpec]) -> ModelPaths {
        let mut paths = ModelPaths::default();
        for file in files {
            if let Some(path) = self.0.get(file.option) {
                paths.set(file.id, path.clone());
            }
        }
        paths
    }
}

type Files = Vec<&'static FileSpec>;

fn of_backbones() -> Files {
    BACKBONES.iter().flat_map(|spec| spec.files).collect()
}

fn of_prompt_sources() -> Files {
    PROMPT_SOURCES.iter().flat_map(|spec| spec.files).collect()
}

/// Every option once, with the files it is for.
fn by_option(files: Files) -> IndexMap<&'static str, Files> {
    let mut options = IndexMap::<&str, Files>::new();
    for file in files.into_iter().filter(|file| !file.option.is_empty()) {
        let known = options.entry(file.option).or_default();
        if !known.iter().any(|known| known.id == file.id) {
            known.push(file);
        }
    }
    options
}

fn option((name, files): (&'static str, Files)) -> Arg {
    let value = match files.first() {
        Some(FileSpec { published: Published::Repository(_), .. }) => "FOLDER OR NAME",
        Some(file) if file.is_folder() => "FOLDER",
        _ => "FILE",
    };
    let help = files.iter().map(|file| file.help).collect::<Vec<_>>().join(". ");
    // The reference writes its options with underscores.
    let arg = Arg::new(name).long(name).alias(name.replace('-', "_")).value_name(value).help(help);
    arg.value_parser(value_parser!(PathBuf))
}

fn given(matches: &ArgMatches, files: Files) -> Given {
    let path = |name: &'static str| Some((name, matches.get_one::<PathBuf>(name)?.clone()));
    Given(by_option(files).into_keys().filter_map(path).collect())
}

macro_rules! arguments {
    ($name:ident, $files:ident) => {
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
                Ok(Self(given(matches, $files())))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                command.args(by_option($files()).into_iter().map(option))
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }
    };
}

arguments!(BackboneFiles, of_backbones);
arguments!(PromptSourceFiles, of_prompt_sources);
