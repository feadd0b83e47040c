//! Which keys do what: the actions' own, changed as the user likes.

use std::collections::BTreeMap;

use egui::{Key, KeyboardShortcut, Modifiers};

use super::actions::Action;
use super::commands::{Command, current_id};

/// Keys of all actions.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    all: Vec<(Action, Vec<KeyboardShortcut>)>,
    /// First those with the most modifiers, so that Ctrl+Shift+S is not taken for Ctrl+S.
    sorted: Vec<(Action, KeyboardShortcut)>,
}

impl Bindings {
    /// The usual ones; `changed` names actions ([`Action::id`], or as files of before did) and the keys they have instead, as `Ctrl+Shift+S`. What
    /// cannot be read is left out. A key that was given away means only what it was given to.
    pub fn new(changed: &BTreeMap<String, Vec<String>>) -> Self {
        let own: Vec<(Action, Vec<KeyboardShortcut>)> = Action::all()
            .into_iter()
            .filter_map(|action| {
                let named = |name: &&String| current_id(name) == action.id();
                let keys = changed.iter().find(|(name, _)| named(name)).map(|(_, keys)| keys)?;
                Some((action, keys.iter().filter_map(|key| parse(key)).collect()))
            })
            .collect();
        let taken: Vec<KeyboardShortcut> = own.iter().flat_map(|(_, keys)| keys.clone()).collect();
        let all = Action::all().into_iter().map(|action| {
            let keys = match own.iter().find(|(changed, _)| *changed == action) {
                Some((_, keys)) => keys.clone(),
                None => action.shortcuts().into_iter().filter(|key| !taken.contains(key)).collect(),
            };
            (action, keys)
        });
        let all: Vec<(Action, Vec<KeyboardShortcut>)> = all.collect();
        let mut sorted: Vec<_> =
            all.iter().flat_map(|(action, keys)| keys.iter().map(move |key| (action.clone(), *key))).collect();
        let modifiers = |m: Modifiers| u8::from(m.command || m.ctrl) + u8::from(m.shift) + u8::from(m.alt);
        sorted.sort_by_key(|(_, key)| std::cmp::Reverse(modifiers(key.modifiers)));
        Self { all, sorted }
    }

    /// Of one action, the first one to be shown.
    pub fn of(&self, action: &Action) -> &[KeyboardShortcut] {
        self.all.iter().find(|(other, _)| other == action).map_or(&[], |(_, keys)| keys)
    }

    /// All, those with the most modifiers first.
    pub fn sorted(&self) -> &[(Action, KeyboardShortcut)] {
        &self.sorted
    }

    /// Its name with its first key, for tooltips.
    pub fn tooltip(&self, action: impl Into<Action>, context: &egui::Context) -> String {
        let action = action.into();
        match self.of(&action).first() {
            Some(key) => format!("{}  ({})", action.label(), context.format_shortcut(key)),
            None => action.label(),
        }
    }

    /// Whether the key of a command that lasts while it is held is down.
    pub fn is_held(&self, command: Command, context: &egui::Context) -> bool {
        let keys = self.of(&command.into());
        !context.text_edit_focused()
            && context.input(|input| {
                keys.iter()
                    .any(|key| input.key_down(key.logical_key) && input.modifiers.matches_logically(key.modifiers))
            })
    }
}

/// `Ctrl+Shift+S`, the same on every system.
pub fn format(key: &KeyboardShortcut) -> String {
    let mut text = String::new();
    for (pressed, name) in [
        (key.modifiers.command || key.modifiers.ctrl, "Ctrl+"),
        (key.modifiers.shift, "Shift+"),
        (key.modifiers.alt, "Alt+"),
    ] {
        if pressed {
            text.push_str(name);
        }
    }
    text + key.logical_key.name()
}

/// Reads what [`format()`] wrote.
pub fn parse(text: &str) -> Option<KeyboardShortcut> {
    let mut modifiers = Modifiers::NONE;
    let mut rest = text.trim();
    loop {
        let (name, after) = match rest.split_once('+') {
            Some((name, after)) if !after.is_empty() => (name.trim(), after.trim()),
            _ => return Some(KeyboardShortcut::new(modifiers, Key::from_name(rest)?)),
        };
        match name.to_lowercase().as_str() {
            "ctrl" | "cmd" | "command" => modifiers |= Modifiers::COMMAND,
            "shift" => modifiers |= Modifiers::SHIFT,
            "alt" => modifiers |= Modifiers::ALT,
            _ => return None,
        }
        rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_means_two_things() {
        let mut seen = std::collections::HashMap::new();
        for (action, key) in Bindings::new(&BTreeMap::new()).sorted() {
            let other = seen.insert(format(key), action.clone());
            assert_eq!(other, None, "{} is also {action:?}", format(key));
        }
    }

    #[test]
    fn keys_survive_being_written() {
        for (action, key) in Bindings::new(&BTreeMap::new()).sorted() {
            assert_eq!(parse(&format(key)), Some(*key), "{action:?}");
        }
        assert_eq!(parse("Ctrl++").map(|key| key.logical_key), Some(Key::Plus));
        assert_eq!(parse("Hyper+X"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn a_key_given_away_means_only_that() {
        let changed =
            BTreeMap::from([(Action::from(Command::Fit).id(), vec!["Ctrl+O".to_owned(), "nonsense".to_owned()])]);
        let bindings = Bindings::new(&changed);
        assert_eq!(bindings.of(&Command::Fit.into()), [KeyboardShortcut::new(Modifiers::COMMAND, Key::O)]);
        assert!(bindings.of(&Command::Open.into()).is_empty());
        let names: std::collections::HashSet<String> = Action::all().iter().map(Action::id).collect();
        assert_eq!(names.len(), Action::all().len(), "every action has an id of its own");
    }
}
