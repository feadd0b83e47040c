//! `--shard`: which of many pictures a run takes, by numbers or as a batch system says in the environment.

use crate::train::distributed::Place;

/// Names of a run's index and of how many runs there are: Slurm's job arrays, Kubernetes' indexed jobs (whose number of
/// completions is set by the user).
const ARRAYS: [[&str; 2]; 2] =
    [["SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"], ["JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"]];

/// `I/N` with I from 1 to N; `auto`, or `auto/N` where the environment says I alone.
pub(super) fn shard(text: &str) -> Result<(usize, usize), String> {
    shard_in(text, &|name| std::env::var(name).ok())
}

fn shard_in(text: &str, variable: &dyn Fn(&str) -> Option<String>) -> Result<(usize, usize), String> {
    let wrong = || format!("expected I/N with I from 1 to N, auto, or auto/N; found {text:?}");
    let (i, n) = match text.split_once('/') {
        None if text == "auto" => automatic(None, variable)?,
        Some(("auto", n)) => automatic(Some(n.parse().map_err(|_| wrong())?), variable)?,
        Some((i, n)) => (i.parse().map_err(|_| wrong())?, n.parse().map_err(|_| wrong())?),
        None => return Err(wrong()),
    };
    if 1 <= i && i <= n { Ok((i, n)) } else { Err(format!("{}: found {i}/{n}", wrong())) }
}

fn automatic(count: Option<usize>, variable: &dyn Fn(&str) -> Option<String>) -> Result<(usize, usize), String> {
    let number = |name: &str| variable(name).and_then(|text| text.parse::<usize>().ok());
    for [index_name, count_name] in ARRAYS {
        let Some(index) = number(index_name) else { continue };
        // An array may begin anywhere.
        let first = number("SLURM_ARRAY_TASK_MIN").filter(|_| index_name.starts_with("SLURM")).unwrap_or(0);
        let step = number("SLURM_ARRAY_TASK_STEP").filter(|_| index_name.starts_with("SLURM")).unwrap_or(1).max(1);
        let count = count.or_else(|| number(count_name));
        let count = count.ok_or_else(|| format!("{count_name} is not set: say how many there are, as auto/N"))?;
        let last = number("SLURM_ARRAY_TASK_MAX").filter(|_| index_name.starts_with("SLURM"));
        if last.is_some_and(|last| last != first + count.saturating_sub(1) * step) {
            return Err("the job array leaves out some: give I/N yourself".into());
        }
        return Ok((index.saturating_sub(first) / step + 1, count));
    }
    match Place::of(variable).map_err(|error| error.to_string())? {
        Some(place) => Ok((place.rank + 1, count.unwrap_or(place.size))),
        None if number("WORLD_SIZE") == Some(1) => Ok((1, 1)),
        None => Err("neither SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX nor RANK and WORLD_SIZE are set".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_are_told_or_found() {
        let in_array = |variables: &'static [(&'static str, &'static str)], text: &str| {
            let find =
                |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| (*value).to_owned());
            shard_in(text, &find)
        };
        assert_eq!(in_array(&[], "2/4"), Ok((2, 4)));
        let array: &[_] = &[
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_ARRAY_TASK_MIN", "3"),
            ("SLURM_ARRAY_TASK_STEP", "2"),
            ("SLURM_ARRAY_TASK_MAX", "7"),
            ("SLURM_JOB_ID", "1"),
        ];
        let gaps: &[_] = &[
            ("SLURM_ARRAY_TASK_ID", "7"),
            ("SLURM_ARRAY_TASK_COUNT", "3"),
            ("SLURM_ARRAY_TASK_MIN", "1"),
            ("SLURM_ARRAY_TASK_MAX", "7"),
        ];
        assert!(in_array(gaps, "auto").is_err_and(|error| error.contains("leaves out some")));
        assert_eq!(in_array(array, "auto"), Ok((3, 3)));
        assert_eq!(in_array(&[("JOB_COMPLETION_INDEX", "0")], "auto/8"), Ok((1, 8)));
        assert_eq!(in_array(&[("JOB_COMPLETION_INDEX", "2"), ("JOB_COMPLETIONS", "3")], "auto"), Ok((3, 3)));
        assert_eq!(in_array(&[("RANK", "1"), ("WORLD_SIZE", "2")], "auto"), Ok((2, 2)));
        assert_eq!(in_array(&[("RANK", "0"), ("WORLD_SIZE", "1")], "auto"), Ok((1, 1)));
        for (variables, text) in
            [(&[][..], "auto"), (&[("JOB_COMPLETION_INDEX", "2")][..], "auto"), (&[][..], "3/2"), (&[][..], "x/2")]
        {
            assert!(in_array(variables, text).is_err(), "{text}");
        }
    }
}
