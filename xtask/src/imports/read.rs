//! Rust read as Rust: what every scope calls by which name, and every path that is written.

use anyhow::Context;
use proc_macro2::{Delimiter, Literal, Span, TokenStream, TokenTree};
use syn::ext::IdentExt;
use syn::visit::{self, Visit};
use syn::{Attribute, Ident, ImplItem, Item, Meta, Stmt, TraitItem, Type, UseTree, Visibility};

use super::names::{LIBRARY, PROGRAM, Place, Tree, parent};

/// A path as it is written somewhere.
pub struct Mention {
    /// The number of the file.
    pub file: usize,
    pub line: usize,
    pub scope: Place,
    /// Its names; the first is empty where it begins with `::`, the last is `*` for a glob.
    pub written: Vec<String>,
    /// Whether it is the path of a `use`, which brings its name in.
    pub imports: bool,
}

/// All names of these files, paths under `src` with their texts, and all mentions outside tests.
pub fn all(files: &[(String, String)]) -> anyhow::Result<(Tree, Vec<Mention>)> {
    let mut reader = Reader::default();
    for (number, (file, text)) in files.iter().enumerate() {
        let parsed = syn::parse_file(text)
            .map_err(|error| anyhow::anyhow!("line {}: {error}", error.span().start().line))
            .with_context(|| format!("cannot read src/{file}"))?;
        reader.file = number;
        reader.scope = place(file);
        if for_tests(&parsed.attrs) {
            reader.tests.push(reader.scope.clone());
        } else {
            reader.visit_file(&parsed);
        }
    }
    let Reader { tree, mut mentions, tests, .. } = reader;
    mentions.retain(|mention| !tests.iter().any(|test| mention.scope.starts_with(test)));
    Ok((tree, mentions))
}

/// The module a file is.
fn place(file: &str) -> Place {
    let way = file.trim_end_matches(".rs").trim_end_matches("/mod");
    match way {
        "main" => vec![PROGRAM.into()],
        "lib" => vec![LIBRARY.into()],
        way => [LIBRARY].into_iter().chain(way.split('/')).map(String::from).collect(),
    }
}

#[derive(Default)]
struct Reader {
    tree: Tree,
    mentions: Vec<Mention>,
    /// Modules for tests alone, which may lie in files of their own.
    tests: Vec<Place>,
    file: usize,
    scope: Place,
    blocks: usize,
}

impl Reader {
    fn mention(&mut self, written: Vec<String>, span: Span, imports: bool) {
        // A lone name stands for what was brought in by that name, and that is mentioned there.
        if imports || written.len() > 1 {
            let Self { file, scope, .. } = self;
            self.mentions.push(Mention {
                file: *file,
                line: span.start().line,
                scope: scope.clone(),
                written,
                imports,
            });
        }
    }

    fn within(&mut self, part: String, visit: impl FnOnce(&mut Self)) {
        self.scope.push(part);
        visit(self);
        self.scope.pop();
    }

    /// The scope from which something of this scope can be seen: the empty one is around all crates.
    fn seen_from(&self, visibility: &Visibility) -> Place {
        match visibility {
            Visibility::Public(_) => Place::new(),
            Visibility::Restricted(to) if to.path.is_ident("super") => parent(&self.scope),
            Visibility::Restricted(to) if !to.path.is_ident("self") => self.scope[..1].to_vec(),
            Visibility::Restricted(_) | Visibility::Inherited => self.scope.clone(),
        }
    }

    /// A `use`, whose groups are taken apart.
    fn import(&mut self, tree: &UseTree, before: &[String], seen_from: &Place) {
        let with = |last: String| [before, &[last]].concat();
        match tree {
            UseTree::Path(path) => self.import(&path.tree, &with(text(&path.ident)), seen_from),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.import(tree, before, seen_from)),
            UseTree::Glob(glob) => {
                self.tree.bind(&self.scope, "*", Some(before.to_vec()), seen_from.clone());
                self.mention(with("*".into()), glob.star_token.spans[0], true);
            }
            UseTree::Name(name) => self.import_one(before, &name.ident, None, seen_from),
            UseTree::Rename(name) => self.import_one(before, &name.ident, Some(&name.rename), seen_from),
        }
    }

    fn import_one(&mut self, before: &[String], last: &Ident, rename: Option<&Ident>, seen_from: &Place) {
        let mut path = before.to_vec();
        // `use crate::engine::{self}` is `use crate::engine`.
        if last != "self" || path.is_empty() {
            path.push(text(last));
        }
        let name = rename.map(text).or_else(|| path.last().cloned()).unwrap_or_default();
        self.tree.bind(&self.scope, &name, Some(path.clone()), seen_from.clone());
        self.mention(path, last.span(), true);
    }

    /// The paths among the tokens of a macro or an attribute; `before` goes before those in the group of a `use`.
    fn tokens(&mut self, tokens: TokenStream, before: &[String]) {
        // The path so far, where its first name of these tokens stands, and the colons since its last.
        let (mut path, mut start, mut colons) = (before.to_vec(), None, if before.is_empty() { 0 } else { 2 });
        // Whether `>` went before, and not that of an arrow.
        let (mut after_generics, mut last) = (false, ' ');
        let end = |reader: &mut Self, path: &mut Vec<String>, start: &mut Option<Span>| {
            let path = std::mem::take(path);
            if let Some(start) = start.take() {
                reader.mention(path, start, false);
            }
        };
        for token in tokens {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(ident) => {
                    if colons != 2 {
                        end(self, &mut path, &mut start);
                    }
                    if colons >= 2 && path.is_empty() {
                        // `::a` begins at the root; `Vec::<u8>::a` belongs to a type nothing is known of.
                        path.push(if after_generics { "?" } else { "" }.into());
                    }
                    start = start.or(Some(ident.span()));
                    path.push(text(&ident));
                }
                TokenTree::Group(group) => {
                    let is_use = group.delimiter() == Delimiter::Brace && colons == 2;
                    self.tokens(group.stream(), if is_use { &path } else { &[] });
                    end(self, &mut path, &mut start);
                }
                TokenTree::Punct(punct) => {
                    end(self, &mut path, &mut start);
                    after_generics = punct.as_char() == '>' && !matches!(last, '-' | '=');
                    last = punct.as_char();
                    colons = 0;
                    if last == ',' && !before.is_empty() {
                        (path, colons) = (before.to_vec(), 2);
                    }
                    continue;
                }
                TokenTree::Literal(_) => end(self, &mut path, &mut start),
            }
            (colons, last) = (0, ' ');
        }
        end(self, &mut path, &mut start);
    }

    /// The strings of an attribute that are paths, such as serde's `with = "a::b"`.
    fn strings(&mut self, tokens: TokenStream) {
        for token in tokens {
            match token {
                TokenTree::Group(group) => self.strings(group.stream()),
                TokenTree::Literal(literal) => {
                    if let Some(mut path) = path_in(&literal) {
                        path.segments.iter_mut().for_each(|segment| segment.ident.set_span(literal.span()));
                        self.visit_path(&path);
                    }
                }
                TokenTree::Ident(_) | TokenTree::Punct(_) => {}
            }
        }
    }
}

fn path_in(literal: &Literal) -> Option<syn::Path> {
    let string: syn::LitStr = syn::parse2(TokenTree::from(literal.clone()).into()).ok()?;
    string.parse().ok()
}

fn text(ident: &Ident) -> String {
    ident.unraw().to_string()
}

/// The attributes of a node that is one of these kinds.
macro_rules! attributes {
    ($node:expr, $kind:ident: $($one:ident)+) => {
        match $node {
            $($kind::$one(node) => &node.attrs[..],)+
            _ => &[],
        }
    };
}

/// Whether something is compiled only for tests, which may look further than what they test.
fn for_tests(attributes: &[Attribute]) -> bool {
    fn needs_test(condition: &Meta) -> bool {
        match condition {
            Meta::Path(path) => path.is_ident("test"),
            Meta::List(list) if list.path.is_ident("all") || list.path.is_ident("cfg") => list
                .parse_args_with(syn::punctuated::Punctuated::<Meta, syn::Token![,]>::parse_terminated)
                .is_ok_and(|all| all.iter().any(needs_test)),
            _ => false,
        }
    }
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg") && needs_test(&attribute.meta))
}

/// The name an item gives itself, and who sees it.
fn named(item: &Item) -> Option<(&Ident, &Visibility)> {
    match item {
        Item::Const(item) => Some((&item.ident, &item.vis)),
        Item::Enum(item) => Some((&item.ident, &item.vis)),
        Item::Fn(item) => Some((&item.sig.ident, &item.vis)),
        Item::Macro(item) => item.ident.as_ref().map(|name| (name, &Visibility::Inherited)),
        Item::Mod(item) => Some((&item.ident, &item.vis)),
        Item::Static(item) => Some((&item.ident, &item.vis)),
        Item::Struct(item) => Some((&item.ident, &item.vis)),
        Item::Trait(item) => Some((&item.ident, &item.vis)),
        Item::Type(item) => Some((&item.ident, &item.vis)),
        Item::Union(item) => Some((&item.ident, &item.vis)),
        _ => None,
    }
}

/// The path a `type` is another name for, which makes it a re-export.
fn stands_for(item: &Item) -> Option<Vec<String>> {
    let Item::Type(item) = item else { return None };
    match &*item.ty {
        Type::Path(ty) if ty.qself.is_none() => Some(names(&ty.path)),
        _ => None,
    }
}

fn names(path: &syn::Path) -> Vec<String> {
    let root = path.leading_colon.map(|_| String::new());
    root.into_iter().chain(path.segments.iter().map(|segment| text(&segment.ident))).collect()
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = attributes!(item, Item: Const Enum ExternCrate Fn ForeignMod Impl Macro Mod Static Struct Trait Type Union Use);
        let inside = |name: &Ident| [&self.scope[..], &[text(name)]].concat();
        if for_tests(attributes) {
            if let Item::Mod(item) = item {
                self.tests.push(inside(&item.ident));
            }
            return;
        }
        if let Some((name, visibility)) = named(item) {
            self.tree.bind(&self.scope, &text(name), stands_for(item), self.seen_from(visibility));
        }
        match item {
            Item::Mod(item) => return self.within(text(&item.ident), |reader| visit::visit_item_mod(reader, item)),
            Item::Use(item) => {
                let root = item.leading_colon.map(|_| String::new());
                self.import(&item.tree, root.as_slice(), &self.seen_from(&item.vis));
            }
            Item::ExternCrate(item) => {
                let path = if item.ident == "self" { vec!["crate".into()] } else { vec!["".into(), text(&item.ident)] };
                let name = item.rename.as_ref().map_or(&item.ident, |(_, name)| name);
                self.tree.bind(&self.scope, &text(name), Some(path.clone()), self.seen_from(&item.vis));
                self.mention(path, item.ident.span(), true);
            }
            Item::Enum(item) => {
                let scope = inside(&item.ident);
                item.variants
                    .iter()
                    .for_each(|variant| self.tree.bind(&scope, &text(&variant.ident), None, Place::new()));
            }
            Item::Macro(macros) if attributes.iter().any(|attribute| attribute.path().is_ident("macro_export")) => {
                // An exported macro goes by its name in the crate's root.
                if let (Some(name), [root, _, ..]) = (&macros.ident, &self.scope[..]) {
                    let mut path = inside(name);
                    path[0] = "crate".into();
                    self.tree.bind(std::slice::from_ref(root), &text(name), Some(path), Place::new());
                }
            }
            _ => {}
        }
        visit::visit_item(self, item);
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        if !for_tests(attributes!(item, ImplItem: Const Fn Type Macro)) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        if !for_tests(attributes!(item, TraitItem: Const Fn Type Macro)) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_stmt(&mut self, statement: &'ast Stmt) {
        if !for_tests(attributes!(statement, Stmt: Local Macro)) {
            visit::visit_stmt(self, statement);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !for_tests(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, field: &'ast syn::FieldValue) {
        if !for_tests(&field.attrs) {
            visit::visit_field_value(self, field);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !for_tests(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_block(&mut self, block: &'ast syn::Block) {
        self.blocks += 1;
        self.within(format!("{{{}}}", self.blocks), |reader| visit::visit_block(reader, block));
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        if let Some(first) = path.segments.first() {
            self.mention(names(path), first.ident.span(), false);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.tokens(call.tokens.clone(), &[]);
        visit::visit_macro(self, call);
    }

    fn visit_meta_list(&mut self, list: &'ast syn::MetaList) {
        self.tokens(list.tokens.clone(), &[]);
        self.strings(list.tokens.clone());
        visit::visit_meta_list(self, list);
    }
}
