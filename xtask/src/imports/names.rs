//! What names stand for: paths followed through aliases and re-exports to where an item lives.

use std::collections::{HashMap, HashSet};

/// The crates `src` makes. Places begin with one of them, or with the name of another crate.
pub const LIBRARY: &str = "chain_of_zoom";
pub const PROGRAM: &str = "main";

/// The way to a module, an item or a block from its crate on, such as chain_of_zoom, engine, Command.
///
/// A block of code is a scope too, for it may have its own `use`; its part of the way begins with `{`.
pub type Place = Vec<String>;

/// All scopes: modules, enums (their variants can be imported) and blocks.
#[derive(Default)]
pub struct Tree {
    scopes: HashMap<Place, Scope>,
}

#[derive(Default)]
struct Scope {
    names: HashMap<String, Vec<Binding>>,
    globs: Vec<Binding>,
}

/// What a name stands for: the path it was bound to, or without one an item of this scope.
struct Binding {
    path: Option<Vec<String>>,
    /// The scope it can be seen from, and all inside that.
    seen_from: Place,
}

/// The lookups under way, so that modules that import each other come to an end.
type Busy = HashSet<(Place, String)>;

impl Tree {
    /// Binds a name in a scope; `*` binds all names of what the path leads to.
    pub fn bind(&mut self, scope: &[String], name: &str, path: Option<Vec<String>>, seen_from: Place) {
        let scope = self.scopes.entry(scope.to_vec()).or_default();
        let bindings = if name == "*" { &mut scope.globs } else { scope.names.entry(name.into()).or_default() };
        bindings.push(Binding { path, seen_from });
    }

    /// Where that lives which is written so in this scope. A name can be a type, a value and a macro: all are meant.
    pub fn homes(&self, scope: &[String], path: &[String]) -> HashSet<Place> {
        self.follow(scope, path, &mut Busy::new()).into_iter().collect()
    }

    /// Whether something in this scope is called so; what is not may be a crate.
    pub fn knows(&self, scope: &[String], name: &str) -> bool {
        !self.visible(scope, name, &mut Busy::new()).is_empty()
    }

    fn follow(&self, scope: &[String], path: &[String], busy: &mut Busy) -> Vec<Place> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let mut homes = match first.as_str() {
            // `::tch`: a crate whatever is called so here.
            "" => vec![Place::new()],
            "crate" => vec![scope[..1].to_vec()],
            "self" => vec![module(scope)],
            "super" => vec![parent(scope)],
            name => self.visible(scope, name, busy),
        };
        if homes.is_empty() {
            homes.push(vec![first.clone()]);
        }
        for name in rest {
            homes = homes.iter().flat_map(|home| self.member(home, name, scope, busy)).collect();
        }
        homes
    }

    /// What a lone name means in a scope. Blocks see what is around them, modules do not.
    fn visible(&self, scope: &[String], name: &str, busy: &mut Busy) -> Vec<Place> {
        let found = self.named(scope, name, scope, false, busy);
        match scope.split_last() {
            Some((last, around)) if found.is_empty() && is_block(last) => self.visible(around, name, busy),
            _ => found,
        }
    }

    /// What `name` is in `home`, seen from `viewer`; with `*` everything there.
    fn member(&self, home: &[String], name: &str, viewer: &[String], busy: &mut Busy) -> Vec<Place> {
        if name == "super" {
            return vec![parent(home)];
        }
        let mut found = self.named(home, name, viewer, false, busy);
        if found.is_empty() || name == "*" {
            found.extend(self.named(home, name, viewer, true, busy));
            // What is of another crate, belongs to a type or was made by a macro.
            found.push([home, &[name.to_string()]].concat());
        }
        found
    }

    /// What a scope itself calls so and lets `viewer` see. Of other crates nothing is known: `foreign` says whether
    /// those it has globs of are taken to have the name.
    fn named(&self, at: &[String], name: &str, viewer: &[String], foreign: bool, busy: &mut Busy) -> Vec<Place> {
        let Some(scope) = self.scopes.get(at) else { return Vec::new() };
        let key = (at.to_vec(), name.to_string());
        let is_first = busy.insert(key.clone());
        let sees = |binding: &&Binding| viewer.starts_with(&binding.seen_from);
        let bindings: Vec<&Binding> = match name {
            "*" => scope.names.values().flatten().filter(sees).collect(),
            _ => scope.names.get(name).into_iter().flatten().filter(sees).collect(),
        };
        let mut found = Vec::new();
        for binding in bindings {
            match &binding.path {
                None => found.push([at, &[name.to_string()]].concat()),
                Some(path) if is_first => found.extend(self.follow(at, path, busy)),
                Some(_) => {}
            }
        }
        // A glob brings in only what is not named one by one.
        if is_first && (found.is_empty() || name == "*") {
            for path in scope.globs.iter().filter(sees).filter_map(|glob| glob.path.as_ref()) {
                for target in self.follow(at, path, busy) {
                    if self.scopes.contains_key(&target) {
                        found.extend(self.named(&target, name, at, foreign, busy));
                    } else if foreign {
                        found.push([&target[..], &[name.to_string()]].concat());
                    }
                }
            }
        }
        if is_first {
            busy.remove(&key);
        }
        found
    }
}

fn is_block(part: &str) -> bool {
    part.starts_with('{')
}

/// The module a scope lies in.
fn module(scope: &[String]) -> Place {
    let blocks = scope.iter().rev().take_while(|part| is_block(part)).count();
    scope[..scope.len() - blocks].to_vec()
}

/// The module around the module a scope lies in.
pub fn parent(scope: &[String]) -> Place {
    let mut inner = module(scope);
    inner.pop();
    module(&inner)
}
