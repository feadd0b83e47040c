//! `coz evaluate`: scores of runs by the paper's metrics, at every scale.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use strum::VariantNames;

use super::interruption::Interruption;
use super::shard::shard;
use crate::base::{DeviceChoice, METRICS, MetricSpec, UserError, names, write_atomic};
use crate::evaluate::evaluator::{Evaluation, Evaluator, Task, evaluate};
use crate::evaluate::paper::Dataset;
use crate::evaluate::scores::{ScoreCache, ScoreLog, cached};
use crate::evaluate::{Failures, Item, References, Run, Scored, Summary, plot, report};
use crate::hub::metric_files;
use crate::runtime::device;

/// Options of `coz evaluate`.
#[derive(Args)]
#[command(
    after_help = "RUN is what `coz zoom -o RUN` or the reference has written (per-scale/scaleI or per-sample), or a folder of \
                  pictures.\nNothing is written into it. Exit code: 0 all judged, also where pictures have no score; 1 something \
                  failed; 130 stopped by Ctrl+C.\n\nExamples:\n  coz evaluate out                             NIQE, and every \
                  metric whose weights are here\n  coz evaluate nearest onestep recursive --metrics niqe --paper div2k -o scores\n  \
                  coz evaluate restored --reference originals --metrics psnr_y,ssim_y,lpips_alex"
)]
pub(super) struct Arguments {
    /// Folders of results; several are compared with the first
    #[arg(required = true, value_name = "RUN")]
    runs: Vec<PathBuf>,
    /// Folder with what the pictures should be, by the same names: for PSNR, SSIM, LPIPS, DISTS
    #[arg(long, value_name = "DIR")]
    reference: Option<PathBuf>,
    /// Metrics: niqe, musiq, maniqa, clipiqa; with --reference psnr, psnr_y, ssim, ssim_y, lpips_alex, lpips_vgg, dists
    /// [default: all whose weights are here]
    #[arg(long, value_delimiter = ',', value_name = "NAMES", value_parser = MetricSpec::named)]
    metrics: Vec<&'static MetricSpec>,
    /// Folder with weights of metrics, by plain or published names (musiq.pth, clip_rn50.safetensors, ...), before the
    /// usual places
    #[arg(long, value_name = "DIR")]
    metrics_weights: Option<PathBuf>,
    /// Where networks run: auto, cpu, cuda or cuda:NUMBER
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// Folder for scores.csv, scores.json, summary.md, summary.csv, a plot of each metric, and the rows by which a later
    /// run goes on (scores*.jsonl)
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// File for all scores by metric and name
    #[arg(long, value_name = "FILE")]
    scores_json: Option<PathBuf>,
    /// What a picture without a score counts as in means: the worst value, as in the paper, or nothing
    #[arg(long, default_value_t = Failures::Worst, value_parser = failures)]
    failures: Failures,
    /// Rows of the paper's table beside one's own: div2k or div8k
    #[arg(long, value_name = "DATASET", value_parser = dataset)]
    paper: Option<Dataset>,
    /// Judge only the I-th of every N pictures, for several machines (auto: as Slurm, Kubernetes or torchrun say); the same
    /// command without it then joins what lies in the output folder
    #[arg(long, value_name = "I/N", value_parser = shard, requires = "output")]
    shard: Option<(usize, usize)>,
}

fn failures(text: &str) -> Result<Failures, String> {
    text.parse().map_err(|_| names::unknown::<Failures>(text))
}

fn dataset(text: &str) -> Result<Dataset, String> {
    text.to_lowercase().parse().map_err(|_| format!("expected {}, found {text:?}", names::either(Dataset::VARIANTS)))
}

/// A picture and the run it is of.
struct Work {
    run: usize,
    item: Item,
    task: Task,
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    check_output_outside_runs(arguments)?;
    let runs = runs(&arguments.runs)?;
    let work = work(arguments, &runs)?;
    let evaluators = evaluators(arguments)?;
    let (cache, mut log) = match &arguments.output {
        Some(folder) => open_log(folder, arguments.shard)?,
        None => (ScoreCache::new(), None),
    };
    let interruption = Interruption::watch();
    let bar = progress_bar(work.len() as u64);
    let tasks: Vec<Task> = work.iter().map(|work| work.task.clone()).collect();
    let mut scored: Vec<Scored> = Vec::new();
    let mut problems = Problems::default();
    let keep_going = || !interruption.is_requested();
    let is_done = evaluate(&tasks, &evaluators, cache, &keep_going, |i, metric, evaluation| {
        let Work { run, item, .. } = &work[i];
        let label = evaluators[metric].version.spec.label;
        if metric == 0 {
            scored.push(Scored { run: *run, item: item.clone(), scores: Vec::new() });
        }
        let score = match evaluation {
            Evaluation::Scored(score, new) => {
                if let (Some(key), Some(log)) = (new, &mut log) {
                    log.add(&key, &score)?;
                }
                if let Err(reason) = &score {
                    problems.add(label, reason.clone());
                }
                Some(score)
            }
            Evaluation::NoReference => None,
            Evaluation::Failed(reason) => {
                problems.add(label, format!("{reason}; this counts as nothing"));
                None
            }
        };
        if let Some(scored) = scored.last_mut() {
            scored.scores.push(score);
        }
        if metric + 1 == evaluators.len() {
            problems.print(&bar, &item.file);
            bar.inc(1);
        }
        Ok::<(), io::Error>(())
    })
    .map_err(|error| not_written(arguments.output.as_deref().unwrap_or(Path::new("")), &error))?;
    bar.finish_and_clear();
    if !is_done {
        let kept = match arguments.output {
            Some(_) => "the scores so far are kept: the same command goes on",
            None => "stopped",
        };
        eprintln!("{} of {} pictures scored; {kept}", scored.len(), tasks.len());
        return Ok(interruption.exit_code());
    }
    let specs = evaluators.iter().map(|evaluator| evaluator.version.spec).collect();
    let summary = Summary::new(&runs, specs, &scored, arguments.failures);
    if let Some(file) = &arguments.scores_json {
        write_atomic(file, |out| serde_json::to_writer_pretty(out, &report::scores_json(&summary, &scored)))?;
    }
    let text = report::markdown(&summary, arguments.paper);
    match (&arguments.output, arguments.shard) {
        (Some(folder), Some((i, n))) => {
            let folder = folder.display();
            eprintln!(
                "shard {i} of {n} is in {folder}; when all are there, the same command without --shard joins them"
            );
            return Ok(ExitCode::SUCCESS);
        }
        (Some(folder), None) => write(folder, &summary, &scored, &evaluators, &text)?,
        (None, _) => {}
    }
    print!("{text}");
    Ok(ExitCode::SUCCESS)
}

/// Why a picture lacks scores, and which: many metrics often have the same reason.
#[derive(Default)]
struct Problems(Vec<(String, Vec<&'static str>)>);

impl Problems {
    fn add(&mut self, label: &'static str, reason: String) {
        match self.0.iter_mut().find(|(known, _)| *known == reason) {
            Some((_, labels)) => labels.push(label),
            None => self.0.push((reason, vec![label])),
        }
    }

    /// Prints and forgets them.
    fn print(&mut self, bar: &ProgressBar, file: &Path) {
        for (reason, labels) in self.0.drain(..) {
            bar.suspend(|| eprintln!("{}: no {}: {reason}", file.display(), labels.join(", ")));
        }
    }
}

fn unreadable(folder: &Path, error: &io::Error) -> UserError {
    let details = format!("{}: {error}", folder.display());
    UserError::new(
        "The folder cannot be read",
        details,
        "Name a folder with pictures, or one that `coz zoom` has written.",
    )
}

fn not_written(folder: &Path, error: &io::Error) -> UserError {
    let details = format!("{}: {error}", folder.display());
    UserError::new(
        "The scores cannot be written",
        details,
        "What was written before is kept: the same command goes on.",
    )
}

/// The runs, each with a name of its own; what one lacks is printed.
fn runs(folders: &[PathBuf]) -> Result<Vec<Run>, UserError> {
    let mut runs: Vec<Run> = Vec::new();
    for (i, folder) in folders.iter().enumerate() {
        let is_same = |other: &PathBuf| other.canonicalize().ok() == folder.canonicalize().ok();
        if folders[..i].iter().any(is_same) {
            return Err(UserError::new("A run is named twice", folder.display().to_string(), "Name each run once."));
        }
        let mut run = Run::of(folder).map_err(|error| unreadable(folder, &error))?;
        if run.items.is_empty() {
            let details =
                format!("{} has no pictures, nor per-scale or per-sample folders with some", folder.display());
            return Err(UserError::new("There is nothing to judge", details, "Name what `coz zoom -o` has written."));
        }
        if runs.iter().any(|other| other.name == run.name) {
            run.name = folder.display().to_string();
        }
        if let Some(other) = runs.iter().find(|other| other.upscale != run.upscale) {
            let details = format!("a step of {} is x{}, of {} x{}", run.name, run.upscale, other.name, other.upscale);
            let hint = "Only runs whose steps enlarge alike are compared.";
            return Err(UserError::new("The runs have other scales", details, hint));
        }
        for (scale, stems) in run.missing() {
            let (count, some) = (stems.len(), stems.iter().take(3).copied().collect::<Vec<_>>().join(", "));
            eprintln!("{}: {count} pictures have no scale{scale}, such as {some}", folder.display());
        }
        runs.push(run);
    }
    Ok(runs)
}

/// Results never lie in a run: it would not be the same afterwards.
fn check_output_outside_runs(arguments: &Arguments) -> Result<(), UserError> {
    let Some(output) = &arguments.output else { return Ok(()) };
    // What of the path is there already, without links; the rest comes to lie below it.
    let absolute = std::path::absolute(output).unwrap_or_else(|_| output.clone());
    let there = absolute.ancestors().find_map(|ancestor| ancestor.canonicalize().ok()).unwrap_or_default();
    let is_inside = |run: &&PathBuf| run.canonicalize().is_ok_and(|run| there.starts_with(run));
    match arguments.runs.iter().find(is_inside) {
        None => Ok(()),
        Some(run) => {
            let details = format!("{} lies in {}", output.display(), run.display());
            Err(UserError::new("Nothing is written into a run", details, "Name another folder."))
        }
    }
}

fn work(arguments: &Arguments, runs: &[Run]) -> Result<Vec<Work>, UserError> {
    let references = arguments.reference.as_deref();
    let references = references.map(|folder| References::of(folder).map_err(|error| unreadable(folder, &error)));
    let references = references.transpose()?;
    let mut all = Vec::new();
    for (run, items) in runs.iter().map(|run| &run.items).enumerate() {
        for item in items {
            let reference = references.as_ref().and_then(|references| references.of_item(item)).map(Path::to_owned);
            let task = Task { file: item.file.clone(), reference };
            all.push(Work { run, item: item.clone(), task });
        }
    }
    let unpaired = all.iter().filter(|work| work.task.reference.is_none()).count();
    if references.is_some() && unpaired > 0 {
        eprintln!("{unpaired} of {} pictures have no reference of their name", all.len());
    }
    if let Some((i, n)) = arguments.shard {
        all = all.into_iter().skip(i - 1).step_by(n).collect();
    }
    Ok(all)
}

/// The metrics that were asked for, else all that can be computed; what one lacks is printed.
fn evaluators(arguments: &Arguments) -> Result<Vec<Evaluator>, UserError> {
    let has_reference = arguments.reference.is_some();
    let asked: Vec<&'static MetricSpec> = match arguments.metrics.is_empty() {
        true => METRICS.iter().filter(|spec| has_reference || !spec.needs_reference).collect(),
        false => METRICS.iter().filter(|spec| arguments.metrics.contains(spec)).collect(),
    };
    let device = device::resolve(arguments.device).map_err(crate::pipelines::PipelineError::from)?.picture;
    let mut evaluators = Vec::new();
    for spec in asked {
        if spec.needs_reference && !has_reference {
            eprintln!("{} is left out: it compares with --reference, which is not given", spec.label);
            continue;
        }
        let (files, missing) = metric_files(spec, arguments.metrics_weights.as_deref());
        if !missing.is_empty() {
            let what = missing.iter().map(|file| format!("{} ({})", file.names[0], file.page)).collect::<Vec<_>>();
            eprintln!("{} is left out: {} is not here (see `coz models list`)", spec.label, what.join(" and "));
            continue;
        }
        evaluators.push(Evaluator::open(spec, &files, device)?);
    }
    if evaluators.is_empty() {
        let hint = "Get weights with `coz models download`, or name a folder with --metrics-weights.";
        return Err(UserError::new("There is nothing to do", "no metric can be computed", hint));
    }
    Ok(evaluators)
}

/// The scores in a folder, and the file that those to come are added to.
fn open_log(folder: &Path, shard: Option<(usize, usize)>) -> Result<(ScoreCache, Option<ScoreLog>), UserError> {
    let name = match shard {
        Some((i, n)) => format!("scores-{i}-of-{n}.jsonl"),
        None => "scores.jsonl".into(),
    };
    let open = || -> io::Result<_> {
        std::fs::create_dir_all(folder)?;
        Ok((cached(folder)?, Some(ScoreLog::open(&folder.join(name))?)))
    };
    open().map_err(|error| not_written(folder, &error))
}

fn write(
    folder: &Path,
    summary: &Summary,
    scored: &[Scored],
    evaluators: &[Evaluator],
    text: &str,
) -> anyhow::Result<()> {
    write_atomic(&folder.join("summary.md"), |out| io::Write::write_all(out, text.as_bytes()))?;
    write_atomic(&folder.join("summary.csv"), |out| report::csv(summary, out))?;
    write_atomic(&folder.join("scores.csv"), |out| report::scores_csv(summary, scored, evaluators, out))?;
    let details = report::details(summary, scored, evaluators);
    write_atomic(&folder.join("scores.json"), |out| serde_json::to_writer_pretty(out, &details))?;
    for (metric, spec) in summary.specs.iter().enumerate() {
        if let Some(svg) = plot::svg(summary, metric).map_err(anyhow::Error::msg)? {
            write_atomic(&folder.join(format!("{}.svg", spec.id)), |out| io::Write::write_all(out, svg.as_bytes()))?;
        }
    }
    eprintln!("written to {}", folder.display());
    Ok(())
}

fn progress_bar(pictures: u64) -> ProgressBar {
    let bar = ProgressBar::new(pictures);
    if let Ok(style) = ProgressStyle::with_template("{wide_bar} {pos}/{len} pictures, {eta} left") {
        bar.set_style(style);
    }
    bar
}
