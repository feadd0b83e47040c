//! The canvas in its panel: hands the pointer to camera and boxes, and the layers to the renderer.
//!
//! "Canvas pixels" are physical pixels from the canvas's top left corner; egui's points are used only for painting.

use egui::{
    CursorIcon, Event, EventFilter, Key, MouseWheelSource, MouseWheelUnit, Painter, PointerButton, Pos2, Rect,
    Response, Sense, vec2,
};

use super::{boxes, compare, minimap};
use crate::base::{MAX_FACTOR, Region, magnification_label, square_around};
use crate::document::{CachedPicture, History, StateId, THUMBNAIL};
use crate::scene::canvas::{Layer, Renderer, Scene, compose};
use crate::viewer::Viewer;
use crate::viewer::actions::{Action, Against, Tool};
use crate::viewer::commands::Command;
use crate::viewer::state::{Document, PlacedBox};

/// One notch of a wheel.
const NOTCH: f64 = 1.25;
/// Points a wheel scrolls for one notch, in egui's default.
const POINTS_A_NOTCH: f64 = 40.0;
/// A drag shorter than this many canvas pixels is a click.
const SMALLEST_DRAG: f64 = 6.0;
/// A child is shown as a box to dive into while it takes less than this much of the screen.
const DIVABLE: f64 = 0.5;

/// Between egui's points and canvas pixels.
#[derive(Clone, Copy)]
struct Frame {
    rect: Rect,
    scale: f32,
}

impl Frame {
    fn pixels(&self, at: Pos2) -> [f64; 2] {
        let at = (at - self.rect.min) * self.scale;
        [at.x.into(), at.y.into()]
    }

    fn points(&self, [x, y]: [f64; 2]) -> Pos2 {
        self.rect.min + vec2(x as f32, y as f32) / self.scale
    }

    fn points_rect(&self, [left, top, right, bottom]: [f64; 4]) -> Rect {
        // Painting far outside the window helps nobody and loses precision.
        let limit = |value: f64| value.clamp(-1e5, 1e5);
        Rect::from_min_max(self.points([limit(left), limit(top)]), self.points([limit(right), limit(bottom)]))
    }
}

/// One frame's canvas: what is on it and where the pointer is.
struct Surface<'a> {
    ui: &'a egui::Ui,
    painter: Painter,
    frame: Frame,
    layers: Vec<Layer>,
    pointer: Option<Pos2>,
}

/// The canvas as a control.
pub(super) fn id() -> egui::Id {
    egui::Id::unique("canvas")
}

/// What is on it, in words.
fn description(document: &Document) -> String {
    let state = document.history.current();
    let (width, height) = (state.picture.width(), state.picture.height());
    let mut text = format!("{}: {}, {width} x {height} pixels", document.name, Document::title(state));
    if let Some(placed) = &document.placed {
        let Region { x, y, width, height } = placed.target;
        let from = document.history.get(placed.parent).map_or(1.0, |parent| parent.magnification);
        let to = magnification_label(from * placed.plan.factor);
        text += &format!(". Box of {width} x {height} pixels at {x}, {y}, to {to}");
    }
    text
}

pub(super) fn show(viewer: &mut Viewer, ui: &mut egui::Ui) {
    let rect = ui.available_rect_before_wrap();
    ui.advance_cursor_after_rect(rect);
    let response = ui.interact(rect, id(), Sense::click_and_drag());
    response.widget_info(|| egui::WidgetInfo::labeled(egui::Role::Image, true, "Canvas"));
    if let Some(document) = &viewer.state.document {
        ui.ctx().accesskit_node_builder(response.id, |node| node.set_value(description(document)));
    }
    // Arrow keys walk the history here, not the controls.
    let filter = EventFilter { horizontal_arrows: true, vertical_arrows: true, ..EventFilter::default() };
    ui.memory_mut(|memory| memory.set_focus_lock_filter(response.id, filter));
    let frame = Frame { rect, scale: ui.ctx().pixels_per_point() };
    let Some(document) = &mut viewer.state.document else { return };
    document.screen = [f64::from(rect.width() * frame.scale), f64::from(rect.height() * frame.scale)];
    if document.fit_pending {
        ui.ctx().request_repaint();
        return;
    }
    if document.film.is_some() {
        play(viewer, ui, rect);
        return;
    }
    move_camera(document, &response, ui, frame, viewer.state.tool);

    let running = viewer.state.running.iter().flat_map(|running| running.overlays.clone());
    let overlays: Vec<_> = running.chain(document.fading_in.values().map(|(_, overlay)| overlay.clone())).collect();
    let (fading_in, camera, screen) = (&document.fading_in, document.camera, document.screen);
    let opacity = |id| Document::opacity(fading_in, id);
    let scene = Scene { history: &document.history, camera, screen, overlays: &overlays, opacity: &opacity };
    let layers = compose(&scene);

    let pointer = response.hover_pos().filter(|_| !viewer.state.help);
    viewer.pointer_in_state = pointer.and_then(|at| {
        let layer = layer_of(&layers, document.history.current().id)?;
        let [x, y] = layer.placement.picture_from_screen(frame.pixels(at));
        let inside = x >= 0.0 && y >= 0.0 && x < layer.size[0].into() && y < layer.size[1].into();
        inside.then_some([x.floor(), y.floor()])
    });
    let mut in_view = at_full_size(&document.history, &layers);
    if let Against::State(other) = viewer.state.against {
        let other = document.history.get(other).map(|state| state.picture.clone());
        in_view.splice(0..0, other);
    }
    viewer.look_at(in_view);
    let comparison = compare::choose(viewer, ui, &layers, pointer.map(|at| frame.pixels(at)));
    let drawn = comparison.as_ref().map_or_else(|| layers.clone(), |other| other.arrange(&layers, screen));
    let painter = ui.painter().with_clip_rect(rect);
    painter
        .add(egui_wgpu::Callback::new_paint_callback(rect, Paint { layers: drawn, screen, context: ui.ctx().clone() }));

    let surface = Surface { ui, painter: painter.clone(), frame, layers, pointer };
    let hovered = children(viewer, &surface);
    let chosen = hand_box(viewer, &surface, &response, hovered);
    viewer.prefetch(chosen.as_ref());
    running_box(viewer, &surface);
    waiting_boxes(viewer, &surface);
    if let Some(comparison) = comparison {
        comparison.paint(viewer, ui, &painter, rect);
    }
    if let Some(document) = &viewer.state.document {
        let texture = viewer.thumbnails.get(ui.ctx(), document.history.photo());
        minimap::show(document, &texture, ui, rect);
    }
}

/// The pictures of states for which their thumbnails would be too small: the state at hand, then what lies on top.
fn at_full_size(history: &History, layers: &[Layer]) -> Vec<CachedPicture> {
    let at_hand = Some(history.current().id);
    let (current, others): (Vec<&Layer>, Vec<&Layer>) = layers.iter().rev().partition(|layer| layer.state == at_hand);
    let layers = current.into_iter().chain(others);
    let large = layers.filter(|layer| {
        let ([left, top, right, bottom], longest) = (layer.screen_rect(), layer.size[0].max(layer.size[1]));
        (right - left).max(bottom - top) > f64::from(longest.min(THUMBNAIL))
    });
    large.filter_map(|layer| Some(history.get(layer.state?)?.picture.clone())).collect()
}

/// The film's frame of this moment, drawn by the canvas itself.
fn play(viewer: &mut Viewer, ui: &egui::Ui, rect: Rect) {
    let Some(document) = &viewer.state.document else { return };
    let Some(film) = &document.film else { return };
    let moment = film.path.at(film.start.elapsed());
    let opacity = |id| moment.opacity(id);
    let screen = document.screen;
    let scene = Scene { history: &film.branch, camera: moment.camera, screen, overlays: &[], opacity: &opacity };
    let layers = compose(&scene);
    let in_view = at_full_size(&film.branch, &layers);
    let painter = ui.painter().with_clip_rect(rect);
    painter.add(egui_wgpu::Callback::new_paint_callback(rect, Paint { layers, screen, context: ui.ctx().clone() }));
    viewer.look_at(in_view);
    viewer.pointer_in_state = None;
    ui.ctx().request_repaint();
}

fn is_hand(ui: &egui::Ui, tool: Tool) -> bool {
    tool == Tool::Hand || (ui.input(|input| input.key_down(Key::Space)) && !ui.ctx().text_edit_focused())
}

/// Wheel, pinch and hand.
fn move_camera(document: &mut Document, response: &Response, ui: &egui::Ui, frame: Frame, tool: Tool) {
    let screen = document.screen;
    let panned = response.dragged_by(PointerButton::Middle)
        || (is_hand(ui, tool) && response.dragged_by(PointerButton::Primary) && document.drawing_from.is_none());
    if panned {
        let by = response.drag_delta() * frame.scale;
        document.camera.pan([by.x.into(), by.y.into()]);
        document.follow_camera();
    }
    let Some(pointer) = response.hover_pos().map(|at| frame.pixels(at)) else { return };
    let (touchpad, scrolled, pinched) = ui.input(|input| {
        let by_fingers = |event: &Event| match event {
            Event::MouseWheel { modifiers, .. } if modifiers.command => false,
            Event::MouseWheel { source: MouseWheelSource::Unknown, unit, .. } => *unit == MouseWheelUnit::Point,
            Event::MouseWheel { source, .. } => *source != MouseWheelSource::Wheel,
            _ => false,
        };
        (input.events.iter().any(by_fingers), input.smooth_scroll_delta(), input.zoom_delta())
    });
    if pinched != 1.0 {
        document.camera.zoom_at(&document.history, pointer, pinched.into(), screen);
        document.follow_camera();
    } else if touchpad {
        let by = scrolled * frame.scale;
        document.camera.pan([by.x.into(), by.y.into()]);
        document.follow_camera();
    } else if scrolled.y != 0.0 {
        let factor = NOTCH.powf(f64::from(scrolled.y) / POINTS_A_NOTCH);
        document.camera.zoom_at(&document.history, pointer, factor, screen);
        document.follow_camera();
    }
}

/// Outlines of the states that lie on what is looked at; the one under the pointer, with its tooltip.
fn children(viewer: &mut Viewer, surface: &Surface) -> Option<StateId> {
    let Surface { ui, painter, frame, layers, pointer } = surface;
    let document = viewer.state.document.as_ref()?;
    let small = |rect: [f64; 4]| {
        (rect[2] - rect[0]).max(rect[3] - rect[1]) < DIVABLE * document.screen[0].min(document.screen[1])
    };
    let boxes: Vec<(StateId, Rect)> = layers
        .iter()
        .filter(|layer| layer.state != Some(document.history.photo().id) && small(layer.screen_rect()))
        .filter_map(|layer| Some((layer.state?, frame.points_rect(layer.screen_rect()))))
        .collect();
    let busy = document.drawing_from.is_some() || document.placed.is_some() || is_hand(ui, viewer.state.tool);
    let under = |&(id, rect): &(StateId, Rect)| pointer.is_some_and(|at| rect.contains(at)).then_some(id);
    // Of nested ones the outermost: from there one dives on.
    let hovered = if busy { None } else { boxes.iter().find_map(under) };
    for (id, rect) in &boxes {
        boxes::made(painter, *rect, hovered == Some(*id));
    }
    if let Some(state) = hovered.and_then(|id| document.history.get(id)) {
        let texture = viewer.thumbnails.get(ui.ctx(), state);
        let prompt = state.record.as_ref().map(|record| record.prompt.clone()).unwrap_or_default();
        let title = Document::title(state);
        let tip = egui::Tooltip::always_open(
            ui.ctx().clone(),
            ui.layer_id(),
            ui.scope_id().with("child"),
            egui::PopupAnchor::Pointer,
        );
        tip.show(|ui| {
            ui.image((texture.id(), texture.size_vec2()));
            ui.label(title);
            if !prompt.is_empty() {
                ui.label(super::dim(ui, prompt));
            }
        });
    }
    hovered
}

/// Draws, hints at and places the zoom box.
///
/// Returns the box that would be run if it were let go now.
fn hand_box(
    viewer: &mut Viewer,
    surface: &Surface,
    response: &Response,
    hovered: Option<StateId>,
) -> Option<PlacedBox> {
    let Surface { ui, painter, frame, layers, pointer } = surface;
    let size = viewer.state.choices.process_size;
    let hand = is_hand(ui, viewer.state.tool);
    let queues = ui.input(|input| input.modifiers.command);
    let place = |placed: &PlacedBox| match queues {
        true => Action::QueueBox(placed.parent, placed.target),
        false => Action::PlaceBox(placed.parent, placed.target),
    };
    let document = viewer.state.document.as_mut()?;
    if hand && document.drawing_from.is_none() {
        ui.ctx().set_cursor_icon(if response.dragged() { CursorIcon::Grabbing } else { CursorIcon::Grab });
        return None;
    }
    if response.drag_started_by(PointerButton::Primary) {
        // Where it was pressed, not where it was first seen moving.
        let pressed = ui.input(|input| input.pointer.press_origin()).or(response.interact_pointer_pos());
        document.drawing_from = pressed.map(|at| frame.pixels(at));
        document.placed = None;
    }
    if response.secondary_clicked() || ui.input(|input| input.pointer.button_pressed(PointerButton::Secondary)) {
        if document.drawing_from.is_some() || document.placed.is_some() {
            viewer.actions.push(Command::Cancel.into());
        }
        return None;
    }
    let drawn = document
        .drawing_from
        .zip(response.interact_pointer_pos())
        .and_then(|(from, to)| dragged_box(document, layers, from, frame.pixels(to), size));
    if response.drag_stopped_by(PointerButton::Primary) {
        if document.drawing_from.take().is_some()
            && let Some(placed) = &drawn
        {
            viewer.actions.push(place(placed));
        }
    } else if response.clicked_by(PointerButton::Primary) {
        document.drawing_from = None;
        if let Some(child) = hovered {
            viewer.actions.push(Action::GoTo(child));
        } else if let Some(placed) = pointer.and_then(|at| clicked_box(document, layers, frame.pixels(at), size)) {
            viewer.actions.push(place(&placed));
        }
        return None;
    }
    if let Some(chosen) = drawn.or_else(|| document.placed.clone()) {
        paint_box(document, surface, &chosen);
        return Some(chosen);
    } else if hovered.is_some() {
        ui.ctx().set_cursor_icon(CursorIcon::PointingHand);
    } else if let Some(hint) = pointer.and_then(|at| clicked_box(document, layers, frame.pixels(at), size)) {
        ui.ctx().set_cursor_icon(CursorIcon::Crosshair);
        if let Some(rect) = target_rect(layers, &hint, frame) {
            let magnification = document.history.get(hint.parent).map_or(1.0, |state| state.magnification);
            let label = magnification_label(magnification * hint.plan.factor);
            boxes::hinted(painter, frame.rect, rect, &format!("click: {label}"));
        }
        // A pointer that rests is about to click.
        return Some(hint).filter(|_| ui.input(|input| !input.pointer.is_moving()));
    }
    None
}

/// The square between two points, on the topmost state that holds all of it (else on the photo, cut to it).
fn dragged_box(document: &Document, layers: &[Layer], from: [f64; 2], to: [f64; 2], size: u32) -> Option<PlacedBox> {
    let (dx, dy) = (to[0] - from[0], to[1] - from[1]);
    let side = dx.abs().max(dy.abs());
    if side < SMALLEST_DRAG {
        return None;
    }
    let corner = |at: f64, by: f64| if by < 0.0 { at - side } else { at };
    let (left, top) = (corner(from[0], dx), corner(from[1], dy));
    let holds = |layer: &&Layer| {
        let rect = layer.screen_rect();
        rect[0] <= left && rect[1] <= top && rect[2] >= left + side && rect[3] >= top + side
    };
    let layer = layers.iter().rev().filter(|layer| layer.state.is_some()).find(holds).or(layers.first())?;
    let [x, y] = layer.placement.picture_from_screen([left + side / 2.0, top + side / 2.0]);
    let (width, height) = (layer.size[0], layer.size[1]);
    let near =
        |at: f64, end: u32| at > -side / layer.placement.scale && at < f64::from(end) + side / layer.placement.scale;
    if !near(x, width) || !near(y, height) {
        return None;
    }
    let target = square_around(x, y, (side / layer.placement.scale).max(1.0), width, height);
    document.placed_box(layer.state?, target, size)
}

/// The x4 box around the pointer, on the topmost state under it.
fn clicked_box(document: &Document, layers: &[Layer], at: [f64; 2], size: u32) -> Option<PlacedBox> {
    let holds = |layer: &&Layer| {
        let rect = layer.screen_rect();
        rect[0] <= at[0] && rect[1] <= at[1] && rect[2] >= at[0] && rect[3] >= at[1]
    };
    let layer = layers.iter().rev().filter(|layer| layer.state.is_some()).find(holds)?;
    let [x, y] = layer.placement.picture_from_screen(at);
    let side = f64::from(size.div_ceil(MAX_FACTOR));
    let target = square_around(x, y, side, layer.size[0], layer.size[1]);
    document.placed_box(layer.state?, target, size)
}

fn layer_of(layers: &[Layer], state: StateId) -> Option<&Layer> {
    layers.iter().find(|layer| layer.state == Some(state))
}

fn rect_on(layer: &Layer, [x, y, width, height]: [f64; 4], frame: &Frame) -> Rect {
    let [left, top] = layer.placement.screen_from_picture([x, y]);
    let [right, bottom] = layer.placement.screen_from_picture([x + width, y + height]);
    frame.points_rect([left, top, right, bottom])
}

fn region_rect(layer: &Layer, region: Region, frame: &Frame) -> Rect {
    rect_on(layer, [region.x, region.y, region.width, region.height].map(f64::from), frame)
}

fn target_rect(layers: &[Layer], placed: &PlacedBox, frame: &Frame) -> Option<Rect> {
    Some(region_rect(layer_of(layers, placed.parent)?, placed.target, frame))
}

fn paint_box(document: &Document, Surface { painter, frame, layers, .. }: &Surface, chosen: &PlacedBox) {
    let Some(layer) = layer_of(layers, chosen.parent) else { return };
    let nested: Vec<Rect> =
        chosen.plan.nested.iter().map(|&[x, y, side]| rect_on(layer, [x, y, side, side], frame)).collect();
    let magnification = document.history.get(chosen.parent).map_or(1.0, |state| state.magnification);
    let label = boxes::plan_label(&chosen.plan, magnification);
    boxes::chosen(painter, frame.rect, &nested, region_rect(layer, chosen.target, frame), &label);
}

/// Where the running step will be, with how far it is.
fn running_box(viewer: &Viewer, Surface { painter, frame, layers, .. }: &Surface) {
    let Some(running) = viewer.state.running.as_ref().filter(|running| !running.captioning) else { return };
    let region = running.asked.regions.get(running.step);
    if let (Some(layer), Some(&region)) = (layer_of(layers, running.parent), region) {
        let rect = region_rect(layer, region, frame);
        boxes::outline(painter, rect);
        boxes::progress(painter, rect, running.fraction);
        if running.has_preview {
            boxes::preview(painter, frame.rect, rect);
        }
    }
}

/// Boxes whose turn is still to come.
fn waiting_boxes(viewer: &Viewer, Surface { painter, frame, layers, .. }: &Surface) {
    for queued in viewer.state.queue.iter().filter(|queued| queued.after.is_none()) {
        if let (Some(layer), Some(&region)) = (layer_of(layers, queued.parent), queued.job.regions.first()) {
            boxes::waiting(painter, region_rect(layer, region, frame));
        }
    }
}

/// The layers on their way to the GPU.
struct Paint {
    layers: Vec<Layer>,
    screen: [f64; 2],
    context: egui::Context,
}

impl egui_wgpu::CallbackTrait for Paint {
    fn prepare(
        &self,
        device: &wgpu::Device,
        queue: &wgpu::Queue,
        _: &egui_wgpu::ScreenDescriptor,
        encoder: &mut wgpu::CommandEncoder,
        resources: &mut egui_wgpu::CallbackResources,
    ) -> Vec<wgpu::CommandBuffer> {
        if let Some(renderer) = resources.get_mut::<Renderer>()
            && !renderer.prepare(device, queue, encoder, &self.layers, self.screen)
        {
            self.context.request_repaint();
        }
        Vec::new()
    }

    fn paint(
        &self,
        _: egui::PaintCallbackInfo,
        pass: &mut wgpu::RenderPass<'static>,
        resources: &egui_wgpu::CallbackResources,
    ) {
        if let Some(renderer) = resources.get::<Renderer>() {
            renderer.draw(pass);
        }
    }
}

#[cfg(test)]
mod tests {
    use egui::pos2;

    use super::*;

    #[test]
    fn points_and_pixels_agree() {
        let frame = Frame { rect: Rect::from_min_size(pos2(30.0, 40.0), vec2(100.0, 100.0)), scale: 1.5 };
        assert_eq!(frame.pixels(pos2(32.0, 40.0)), [3.0, 0.0]);
        assert_eq!(frame.points([3.0, 0.0]), pos2(32.0, 40.0));
    }
}
