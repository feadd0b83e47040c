//! What metrics say of states.

use egui_kittest::kittest::Queryable;

use super::{app, count, document, drag, idle, open, scrolled_to, settings, until};
use crate::samples::Folder;
use chain_of_zoom::base::MetricSpec;
use chain_of_zoom::viewer::Viewer;
use chain_of_zoom::viewer::commands::Command;

fn is_scored(viewer: &Viewer) -> bool {
    let document = viewer.state.document.as_ref().unwrap();
    !viewer.state.scoring && document.unscored(viewer.state.metric).is_empty()
}

#[test]
fn the_chain_of_a_state_is_scored_when_asked() {
    let folder = Folder::new();
    let mut harness = app(settings());
    open(&mut harness, &folder);
    drag(&mut harness, (300.0, 200.0), (316.0, 216.0));
    until(&mut harness, "two states", |viewer| count(viewer) == 3 && idle(viewer));
    until(&mut harness, "metrics to be looked for", |viewer| !viewer.state.found.metrics.is_empty());
    assert!(document(&harness).scores.is_empty(), "nothing is scored before it is asked for");
    scrolled_to(&mut harness, "Score this chain");
    harness.get_by_label("Score this chain").click();
    until(&mut harness, "scores", is_scored);
    let niqe = MetricSpec::named("niqe").unwrap();
    let scores: Vec<f64> =
        document(&harness).scores(niqe).into_iter().map(|(_, score)| *score.as_ref().unwrap()).collect();
    assert!(scores.len() == 3 && scores.iter().all(|score| (1.0..100.0).contains(score)), "{scores:?}");
    let label = format!("NIQE {}", niqe.format(scores[2]));
    assert!(harness.query_by_label(&label).is_some(), "{label}");
    let plot = format!("NIQE along the chain: 1x {}, ", niqe.format(scores[0]));
    assert!(harness.query_by_label_contains(&plot).is_some(), "{plot}");
    // A new state is scored with the others that are known.
    drag(&mut harness, (300.0, 200.0), (304.0, 204.0));
    until(&mut harness, "another state", |viewer| count(viewer) > 3 && idle(viewer));
    assert!(!is_scored(harness.state()));
    harness.state_mut().act(Command::ScoreChain);
    until(&mut harness, "its score", is_scored);
    assert_eq!(document(&harness).scores.len(), document(&harness).history.outline().len());
}
