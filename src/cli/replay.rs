//! `coz replay`: makes every state of a session again, each from the recorded picture it was cut from, and compares.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;
use serde::Serialize;

use super::{backbone, chain};
use crate::base::{
    AlignMethod, BICUBIC, Backbone, CaptionRequest, DeviceChoice, MemoryPlan, ModelUsed, PromptSource, StepRecord,
    UserError, magnification_label,
};
use crate::document::ScaleState;
use crate::engine::{Engine, Event, Job, JobOutcome, Restorer};
use crate::hub;
use crate::imaging::Picture;
use crate::imaging::metrics::luma_psnr;

/// Another device may round otherwise; more than this many levels apart is another picture.
const SAME: u8 = 2;

/// Options of `coz replay`.
#[derive(Args)]
#[command(after_help = "Exit code: 0 all states match, 1 some do not or could not be made.")]
pub(super) struct Arguments {
    /// The session (.coz), or a sample folder of `coz zoom`
    session: PathBuf,
    /// Where models run: auto, cpu, cuda or cuda:NUMBER
    #[arg(long, default_value_t = DeviceChoice::Auto)]
    device: DeviceChoice,
    /// A model that the session may use besides those of this machine, as for `coz zoom`; may be repeated
    #[arg(long)]
    backbone: Vec<String>,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
}

/// What came of one state.
#[derive(Serialize)]
struct Line {
    state: usize,
    magnification: String,
    model: String,
    prompt: String,
    #[serde(flatten)]
    outcome: Outcome,
    #[serde(skip_serializing_if = "Option::is_none")]
    note: Option<String>,
}

#[derive(Serialize)]
#[serde(tag = "outcome", rename_all = "lowercase")]
enum Outcome {
    /// To the bit.
    Same,
    /// By a rounding.
    Close {
        largest_difference: u8,
    },
    Different {
        largest_difference: u8,
        psnr: f64,
    },
    Failed {
        problem: UserError,
    },
}

impl Outcome {
    fn matches(&self) -> bool {
        matches!(self, Outcome::Same | Outcome::Close { .. })
    }
}

/// Runs the command.
pub(super) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let history = chain::open(&arguments.session)?.history;
    let wrong = |details: String| UserError::new("The model is not clear", details, "See `coz zoom --help`.");
    let named: Vec<Backbone> =
        arguments.backbone.iter().map(|text| backbone(text).map_err(wrong)).collect::<Result<_, _>>()?;
    let mut engine = Engine::start(Arc::new(|| ()))?;
    let interruption = super::interruption::Interruption::watch();
    let mut lines = Vec::new();
    for (number, (_, state)) in history.outline().into_iter().enumerate() {
        let (Some(record), Some(parent)) = (&state.record, state.parent.and_then(|id| history.get(id))) else {
            continue;
        };
        if interruption.is_requested() {
            return Ok(interruption.exit_code());
        }
        let (outcome, note) = again(&mut engine, parent, state, record, &named, arguments.device);
        let line = Line {
            state: number,
            magnification: magnification_label(state.magnification),
            model: record.model.as_ref().map_or("none, only reduced".into(), |model| model.backbone.name()),
            prompt: record.prompt.clone(),
            outcome,
            note,
        };
        if !arguments.json {
            println!("{}", format_line(&line));
        }
        lines.push(line);
    }
    let matching = lines.iter().filter(|line| line.outcome.matches()).count();
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        println!("{matching} of {} states match", lines.len());
    }
    Ok(if matching == lines.len() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn format_line(line: &Line) -> String {
    let outcome = match &line.outcome {
        Outcome::Same => "the same to the bit".into(),
        Outcome::Close { largest_difference } => format!("the same within {largest_difference} of 255"),
        Outcome::Different { largest_difference, psnr } => {
            format!("DIFFERENT: up to {largest_difference} of 255, {psnr:.1} dB")
        }
        Outcome::Failed { problem } => format!("FAILED: {problem}"),
    };
    let note = line.note.as_ref().map(|note| format!(" ({note})")).unwrap_or_default();
    format!("state {}  {}  {}: {outcome}{note}", line.state, line.magnification, line.model)
}

/// The model of this machine, or of the command line, that a session means: what it says of paths is not followed.
fn known(model: &ModelUsed, named: &[Backbone]) -> Result<Backbone, UserError> {
    let is_meant =
        |backbone: &&Backbone| backbone.spec == model.backbone.spec && backbone.name() == model.backbone.name();
    let named = named.iter().find(is_meant).cloned();
    named.or_else(|| hub::known(&model.backbone, model.sha256.as_deref())).ok_or_else(|| {
        let file = model.backbone.main_file().map(|file| file.display().to_string()).unwrap_or_default();
        let details = format!("{file} is none of this machine's models");
        let hint = format!("If you trust it, say --backbone {file}");
        UserError::new("The model is not known here", details, &hint)
    })
}

/// Makes a state again.
fn again(
    engine: &mut Engine,
    parent: &ScaleState,
    state: &ScaleState,
    record: &StepRecord,
    named: &[Backbone],
    device: DeviceChoice,
) -> (Outcome, Option<String>) {
    let (backbone, align) = match &record.model {
        Some(model) => match known(model, named) {
            Ok(backbone) => (backbone, model.align),
            Err(problem) => return (Outcome::Failed { problem }, None),
        },
        None => ((&BICUBIC).into(), AlignMethod::NoFix),
    };
    let id = engine.run(Job {
        source: parent.picture.clone(),
        regions: vec![record.region],
        size: (state.picture.width(), state.picture.height()),
        prompt: record.prompt.clone(),
        extracted_prompt: None,
        prompt_source: PromptSource::default(),
        request: CaptionRequest::default(),
        full_image: record.full_image.clone(),
        seed: record.seed,
        preview: false,
        restorer: Restorer { backbone, device, memory: MemoryPlan::Auto, align },
    });
    let mut outcome = None;
    let mut note = None;
    for event in engine.events().iter() {
        match event {
            Event::StepDone { job, output, .. } if job == id => {
                let used = output.record.model.as_ref().and_then(|model| model.sha256.as_ref());
                let then = record.model.as_ref().and_then(|model| model.sha256.as_ref());
                if used.zip(then).is_some_and(|(used, then)| used != then) {
                    note = Some("the model file is another one".to_owned());
                }
                outcome = Some(match state.picture.load() {
                    Ok(picture) => compare(&output.picture, &picture),
                    Err(error) => Outcome::Failed { problem: error.into() },
                });
            }
            Event::Finished { job, outcome: end } if job == id => {
                return match (end, outcome) {
                    (JobOutcome::Failed(problem), _) => (Outcome::Failed { problem }, note),
                    (_, Some(outcome)) => (outcome, note),
                    (_, None) => {
                        let problem = UserError::new("Something broke inside", "no picture was made", "");
                        (Outcome::Failed { problem }, note)
                    }
                };
            }
            _ => {}
        }
    }
    let problem = UserError::new("Something broke inside", "the engine's thread ended", "Please report it.");
    (Outcome::Failed { problem }, None)
}

fn compare(now: &Picture, then: &Picture) -> Outcome {
    let differences = now.rgb().iter().zip(then.rgb()).map(|(a, b)| a.abs_diff(*b));
    match differences.max().unwrap_or(0) {
        _ if (now.width(), now.height()) != (then.width(), then.height()) => {
            Outcome::Different { largest_difference: 255, psnr: 0.0 }
        }
        0 => Outcome::Same,
        few if few <= SAME => Outcome::Close { largest_difference: few },
        many => Outcome::Different { largest_difference: many, psnr: luma_psnr(now, then, 0) },
    }
}
