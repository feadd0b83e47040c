//! An option for each file of a model, out of the models' own tables.

use std::path::PathBuf;

use clap::error::Error;
use clap::{Arg, ArgMatches, Args, Command, FromArgMatches, value_parser};

use crate::base::{BACKBONES, FileSpec, PROMPT_SOURCES, Published};
use crate::hub::ModelPaths;

/// The files of super-resolution models.
#[derive(Clone)]
pub(super) struct BackboneFiles(pub ModelPaths);

/// The files of prompt sources.
#[derive(Clone)]
pub(super) struct PromptSourceFiles(pub ModelPaths);

fn of_backbones() -> Vec<&'static FileSpec> {
    with_options(BACKBONES.iter().flat_map(|spec| spec.files))
}

fn of_prompt_sources() -> Vec<&'static FileSpec> {
    with_options(PROMPT_SOURCES.iter().flat_map(|spec| spec.files))
}

/// Those that have an option, each once.
fn with_options(files: impl Iterator<Item = &'static FileSpec>) -> Vec<&'static FileSpec> {
    let mut unique: Vec<&FileSpec> = Vec::new();
    for file in files.filter(|file| !file.option.is_empty()) {
        if !unique.iter().any(|known| known.id == file.id) {
            unique.push(file);
        }
    }
    unique
}

fn option(file: &FileSpec) -> Arg {
    let value = match file.published {
        Published::Repository(_) => "FOLDER OR NAME",
        _ if file.is_folder() => "FOLDER",
        _ => "FILE",
    };
    // The reference writes its options with underscores.
    let alias = file.option.replace('-', "_");
    let arg = Arg::new(file.option).long(file.option).alias(alias).value_name(value).help(file.help);
    arg.value_parser(value_parser!(PathBuf))
}

fn given(matches: &ArgMatches, files: &[&FileSpec]) -> ModelPaths {
    let mut paths = ModelPaths::default();
    for file in files {
        if let Some(path) = matches.get_one::<PathBuf>(file.option) {
            paths.set(file.id, path.clone());
        }
    }
    paths
}

macro_rules! arguments {
    ($name:ident, $files:ident) => {
        impl FromArgMatches for $name {
            fn from_arg_matches(matches: &ArgMatches) -> Result<Self, Error> {
                Ok(Self(given(matches, &$files())))
            }

            fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), Error> {
                *self = Self::from_arg_matches(matches)?;
                Ok(())
            }
        }

        impl Args for $name {
            fn augment_args(command: Command) -> Command {
                command.args($files().into_iter().map(option))
            }

            fn augment_args_for_update(command: Command) -> Command {
                Self::augment_args(command)
            }
        }
    };
}

arguments!(BackboneFiles, of_backbones);
arguments!(PromptSourceFiles, of_prompt_sources);
