//! `coz evaluate`: scores of runs by the paper's metrics, at every scale.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use strum::VariantNames;

use super::batch::shard;
use super::interruption::Interruption;
use crate::base::{DeviceChoice, METRICS, MetricSpec, UserError, names, write_atomic};
use crate::evaluate::judge::{Judge, Task, judge};
use crate::evaluate::paper::Dataset;
use crate::evaluate::scores::{Known, ScoreLog, known};
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
    /// Judge only the I-th of every N pictures, for several machines; the same command without it then joins what lies in
    /// the output folder
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
    let runs = runs(&arguments.runs)?;
    let work = work(arguments, &runs)?;
    outside(arguments)?;
    let judges = judges(arguments)?;
    let (known, mut log) = match &arguments.output {
        Some(folder) => open_log(folder, arguments.shard)?,
        None => (Known::new(), None),
    };
    let interruption = Interruption::watch();
    let bar = progress_bar(work.len() as u64);
    let tasks: Vec<Task> = work.iter().map(|work| work.task.clone()).collect();
    let mut work = work.into_iter();
    let (mut scored, mut reasons) = (Vec::new(), 0);
    let keep_going = || !interruption.is_requested();
    let is_done = judge(&tasks, &judges, &known, &keep_going, |_, judged| {
        let Some(Work { run, item, .. }) = work.next() else { return Ok(()) };
        let mut scores = Vec::new();
        for (judge, judged) in judges.iter().zip(judged) {
            if let (Some(key), Some(score), Some(log)) = (&judged.new, &judged.score, &mut log) {
                log.add(key, score)?;
            }
            if let Some(Err(reason)) = &judged.score {
                reasons += 1;
                let label = judge.version.spec.label;
                bar.suspend(|| eprintln!("{}: no {label}: {reason}", item.file.display()));
            }
            scores.push(judged.score);
        }
        scored.push(Scored { run, item, scores });
        bar.inc(1);
        Ok::<(), io::Error>(())
    })
    .map_err(|error| not_written(arguments.output.as_deref().unwrap_or(Path::new("")), &error))?;
    bar.finish_and_clear();
    if !is_done {
        let kept =
            if arguments.output.is_some() { "the scores so far are kept: the same command goes on" } else { "stopped" };
        eprintln!("{} of {} pictures judged; {kept}", scored.len(), tasks.len());
        return Ok(interruption.exit_code());
    }
    let summary =
        Summary::new(&runs, judges.iter().map(|judge| judge.version.spec).collect(), &scored, arguments.failures);
    let text = report::markdown(&summary, arguments.paper);
    if let Some(file) = &arguments.scores_json {
        write_atomic(file, |out| serde_json::to_writer_pretty(out, &report::scores_json(&summary, &scored)))?;
    }
    match (&arguments.output, arguments.shard) {
        (Some(folder), None) => write(folder, &summary, &scored, &judges, &text)?,
        (Some(folder), Some((i, n))) => {
            eprintln!("shard {i} of {n} is in {}: run the command without --shard when all are", folder.display());
            return Ok(ExitCode::SUCCESS);
        }
        (None, _) => {}
    }
    print!("{text}");
    if reasons > 0 {
        eprintln!("{reasons} scores are missing; they count as --failures {} says", arguments.failures);
    }
    Ok(ExitCode::SUCCESS)
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

/// The runs, each with a name of its own; what one lacks is told.
fn runs(folders: &[PathBuf]) -> Result<Vec<Run>, UserError> {
    let mut runs: Vec<Run> = Vec::new();
    for folder in folders {
        let mut run = Run::of(folder).map_err(|error| unreadable(folder, &error))?;
        if run.items.is_empty() {
            let details =
                format!("{} has no pictures, nor per-scale or per-sample folders with some", folder.display());
            return Err(UserError::new("There is nothing to judge", details, "Name what `coz zoom -o` has written."));
        }
        if runs.iter().any(|other| other.name == run.name) {
            run.name = folder.display().to_string();
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
fn outside(arguments: &Arguments) -> Result<(), UserError> {
    let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| whole(path));
    let Some(output) = &arguments.output else { return Ok(()) };
    match arguments.runs.iter().find(|run| real(output).starts_with(real(run))) {
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
    let lonely = all.iter().filter(|work| work.task.reference.is_none()).count();
    if references.is_some() && lonely > 0 {
        eprintln!("{lonely} of {} pictures have no reference of their name", all.len());
    }
    if let Some((i, n)) = arguments.shard {
        all = all.into_iter().skip(i - 1).step_by(n).collect();
    }
    Ok(all)
}

/// The metrics that were asked for, else all that can be computed; what one lacks is told.
fn judges(arguments: &Arguments) -> Result<Vec<Judge>, UserError> {
    let has_reference = arguments.reference.is_some();
    let asked: Vec<&'static MetricSpec> = match arguments.metrics.is_empty() {
        true => METRICS.iter().filter(|spec| has_reference || !spec.needs_reference).collect(),
        false => METRICS.iter().filter(|spec| arguments.metrics.contains(spec)).collect(),
    };
    let device = device::resolve(arguments.device).map_err(crate::pipelines::PipelineError::from)?.picture;
    let mut judges = Vec::new();
    for spec in asked {
        if spec.needs_reference && !has_reference {
            eprintln!("{} is left out: it compares with --reference, which is not given", spec.label);
            continue;
        }
        let (files, missing) = metric_files(spec, arguments.metrics_weights.as_deref());
        if !missing.is_empty() {
            let what = missing.iter().map(|file| format!("{} ({})", file.names[0], file.page)).collect::<Vec<_>>();
            eprintln!("{} is left out: {} is not here", spec.label, what.join(" and "));
            continue;
        }
        judges.push(Judge::open(spec, &files, device)?);
    }
    if judges.is_empty() {
        let hint = "Get weights with `coz models download`, or name a folder with --metrics-weights.";
        return Err(UserError::new("There is nothing to do", "no metric can be computed", hint));
    }
    Ok(judges)
}

/// The scores in a folder, and the file that those to come are added to.
fn open_log(folder: &Path, shard: Option<(usize, usize)>) -> Result<(Known, Option<ScoreLog>), UserError> {
    let name = match shard {
        Some((i, n)) => format!("scores-{i}-of-{n}.jsonl"),
        None => "scores.jsonl".into(),
    };
    let open = || -> io::Result<_> {
        std::fs::create_dir_all(folder)?;
        Ok((known(folder)?, Some(ScoreLog::open(&folder.join(name))?)))
    };
    open().map_err(|error| not_written(folder, &error))
}

fn write(folder: &Path, summary: &Summary, scored: &[Scored], judges: &[Judge], text: &str) -> anyhow::Result<()> {
    write_atomic(&folder.join("summary.md"), |out| io::Write::write_all(out, text.as_bytes()))?;
    write_atomic(&folder.join("summary.csv"), |out| report::csv(summary, out))?;
    write_atomic(&folder.join("scores.csv"), |out| report::scores_csv(summary, scored, out))?;
    let details = report::details(summary, scored, judges);
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
