//! One source file: what its modules declare, and which paths its production code names.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Context;
use proc_macro2::{TokenStream, TokenTree};
use syn::punctuated::Punctuated;
use syn::visit::{self, Visit};
use syn::{Attribute, Expr, Ident, ImplItem, Item, Meta, Token, TraitItem, Type, UseTree, Visibility};

/// The segments of a path, `crate`, `self` and `super` among them. One that begins with `::` has an empty first one.
pub(crate) type Path = Vec<String>;

/// A module as its source has it, without what is compiled for tests alone.
#[derive(Debug, Default)]
pub(crate) struct Module {
    /// What is defined in it.
    pub(crate) items: BTreeSet<String>,
    /// Modules that lie in it.
    pub(crate) inline: BTreeMap<String, Module>,
    /// Modules that have a file of their own.
    pub(crate) files: BTreeSet<String>,
    pub(crate) uses: Vec<Use>,
    /// Paths in code. A call of a method on `self` counts as one of the type's functions.
    pub(crate) paths: BTreeSet<Path>,
    /// Types with the functions that inherent `impl`s give them here.
    pub(crate) functions: Vec<(Path, String)>,
}

/// One name that a `use` brings in.
#[derive(Debug)]
pub(crate) struct Use {
    pub(crate) path: Path,
    /// What it is called here; nothing where all names of a module come in.
    pub(crate) name: Option<String>,
    /// Others are to find it here.
    pub(crate) is_shown: bool,
}

/// Reads a file.
pub(crate) fn read(source: &str) -> anyhow::Result<Module> {
    let file = syn::parse_file(source).context("not Rust")?;
    let mut reader = Reader::default();
    file.items.iter().for_each(|item| reader.visit_item(item));
    Ok(reader.module)
}

#[derive(Default)]
struct Reader {
    module: Module,
    /// The type of the `impl` around.
    this: Option<Path>,
}

impl<'ast> Visit<'ast> for Reader {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attrs, name) = described(item);
        if is_test(attrs) {
            return;
        }
        self.module.items.extend(name.map(Ident::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        let name = item.ident.to_string();
        let Some((_, items)) = &item.content else {
            self.module.files.insert(name);
            return;
        };
        let mut inner = Self::default();
        items.iter().for_each(|item| inner.visit_item(item));
        self.module.inline.insert(name, inner.module);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let prefix = if item.leading_colon.is_some() { vec![String::new()] } else { Vec::new() };
        let is_shown = !matches!(item.vis, Visibility::Inherited);
        self.bring_in(&item.tree, prefix, is_shown);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        let this = match &*item.self_ty {
            Type::Path(this) => Some(segments(&this.path)),
            _ => None,
        };
        if let (Some(this), None) = (&this, &item.trait_) {
            for item in &item.items {
                if let ImplItem::Fn(function) = item {
                    self.module.functions.push((this.clone(), function.sig.ident.to_string()));
                }
            }
        }
        let around = std::mem::replace(&mut self.this, this);
        visit::visit_item_impl(self, item);
        self.this = around;
    }

    fn visit_impl_item(&mut self, item: &'ast ImplItem) {
        let attrs = match item {
            ImplItem::Const(item) => &item.attrs,
            ImplItem::Fn(item) => &item.attrs,
            ImplItem::Type(item) => &item.attrs,
            _ => return visit::visit_impl_item(self, item),
        };
        if !is_test(attrs) {
            visit::visit_impl_item(self, item);
        }
    }

    fn visit_trait_item(&mut self, item: &'ast TraitItem) {
        if !matches!(item, TraitItem::Fn(function) if is_test(&function.attrs)) {
            visit::visit_trait_item(self, item);
        }
    }

    fn visit_field(&mut self, field: &'ast syn::Field) {
        if !is_test(&field.attrs) {
            visit::visit_field(self, field);
        }
    }

    fn visit_field_value(&mut self, value: &'ast syn::FieldValue) {
        if !is_test(&value.attrs) {
            visit::visit_field_value(self, value);
        }
    }

    fn visit_variant(&mut self, variant: &'ast syn::Variant) {
        if !is_test(&variant.attrs) {
            visit::visit_variant(self, variant);
        }
    }

    fn visit_arm(&mut self, arm: &'ast syn::Arm) {
        if !is_test(&arm.attrs) {
            visit::visit_arm(self, arm);
        }
    }

    fn visit_local(&mut self, local: &'ast syn::Local) {
        if !is_test(&local.attrs) {
            visit::visit_local(self, local);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.name(segments(path));
        visit::visit_path(self, path);
    }

    fn visit_pat_ident(&mut self, pattern: &'ast syn::PatIdent) {
        // Either a constant or a new variable.
        let name = pattern.ident.to_string();
        if name.starts_with(|first: char| first.is_uppercase()) {
            self.name(vec![name]);
        }
        visit::visit_pat_ident(self, pattern);
    }

    fn visit_expr_method_call(&mut self, call: &'ast syn::ExprMethodCall) {
        if matches!(&*call.receiver, Expr::Path(receiver) if receiver.path.is_ident("self")) {
            self.name(vec!["Self".to_owned(), call.method.to_string()]);
        }
        visit::visit_expr_method_call(self, call);
    }

    fn visit_macro(&mut self, call: &'ast syn::Macro) {
        self.name_all(call.tokens.clone());
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if let Meta::List(list) = &attribute.meta {
            self.name_all(list.tokens.clone());
        }
    }

    /// The path in `pub(in path)` uses nothing.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}
}

impl Reader {
    fn bring_in(&mut self, tree: &UseTree, mut path: Path, is_shown: bool) {
        match tree {
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                self.bring_in(&inner.tree, path, is_shown);
            }
            UseTree::Group(group) => {
                group.items.iter().for_each(|tree| self.bring_in(tree, path.clone(), is_shown));
            }
            UseTree::Glob(_) => self.module.uses.push(Use { path, name: None, is_shown }),
            UseTree::Name(name) if name.ident == "self" => {
                self.module.uses.push(Use { name: path.last().cloned(), path, is_shown });
            }
            UseTree::Name(name) => {
                path.push(name.ident.to_string());
                self.module.uses.push(Use { path, name: Some(name.ident.to_string()), is_shown });
            }
            UseTree::Rename(renamed) => {
                if renamed.ident != "self" {
                    path.push(renamed.ident.to_string());
                }
                self.module.uses.push(Use { path, name: Some(renamed.rename.to_string()), is_shown });
            }
        }
    }

    fn name(&mut self, mut path: Path) {
        if path.first().is_some_and(|first| first == "Self") {
            let Some(this) = &self.this else { return };
            path.splice(..1, this.iter().cloned());
        }
        self.module.paths.insert(path);
    }

    /// Names every path that stands in tokens which nobody has parsed.
    fn name_all(&mut self, tokens: TokenStream) {
        let mut path = Path::new();
        // The punctuation since the last name.
        let mut between = String::new();
        for token in tokens {
            match token {
                TokenTree::Ident(ident) if between == "::" && !path.is_empty() => {
                    path.push(ident.to_string());
                    between.clear();
                }
                TokenTree::Ident(ident) => {
                    self.end_path(&mut path);
                    let is_field = between.ends_with('.') && !between.ends_with("..");
                    let is_variable = between.ends_with('$') && ident != "crate";
                    let is_lifetime = between.ends_with('\'');
                    if !is_field && !is_variable && !is_lifetime {
                        path.push(ident.to_string());
                    }
                    between.clear();
                }
                TokenTree::Punct(punct) => between.push(punct.as_char()),
                TokenTree::Literal(_) => {
                    self.end_path(&mut path);
                    between.clear();
                }
                TokenTree::Group(group) => {
                    self.end_path(&mut path);
                    between.clear();
                    self.name_all(group.stream());
                }
            }
        }
        self.end_path(&mut path);
    }

    fn end_path(&mut self, path: &mut Path) {
        if !path.is_empty() {
            self.name(std::mem::take(path));
        }
    }
}

fn segments(path: &syn::Path) -> Path {
    let outside = path.leading_colon.as_ref().map(|_| String::new());
    outside.into_iter().chain(path.segments.iter().map(|segment| segment.ident.to_string())).collect()
}

/// The attributes of an item, and its name where it defines one.
fn described(item: &Item) -> (&[Attribute], Option<&Ident>) {
    match item {
        Item::Const(item) => (&item.attrs, Some(&item.ident)),
        Item::Enum(item) => (&item.attrs, Some(&item.ident)),
        Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
        Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
        Item::Static(item) => (&item.attrs, Some(&item.ident)),
        Item::Struct(item) => (&item.attrs, Some(&item.ident)),
        Item::Trait(item) => (&item.attrs, Some(&item.ident)),
        Item::Type(item) => (&item.attrs, Some(&item.ident)),
        Item::Union(item) => (&item.attrs, Some(&item.ident)),
        Item::Impl(item) => (&item.attrs, None),
        Item::Mod(item) => (&item.attrs, None),
        Item::Use(item) => (&item.attrs, None),
        _ => (&[], None),
    }
}

/// Whether what has these attributes is compiled for tests alone.
fn is_test(attrs: &[Attribute]) -> bool {
    attrs.iter().any(|attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args().is_ok_and(|meta| needs_test(&meta))
    })
}

fn needs_test(condition: &Meta) -> bool {
    let Meta::List(list) = condition else { return condition.path().is_ident("test") };
    let Ok(parts) = list.parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated) else {
        return false;
    };
    let mut parts = parts.iter();
    (list.path.is_ident("all") && parts.any(needs_test))
        || (list.path.is_ident("any") && parts.len() > 0 && parts.all(needs_test))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(source: &str) -> Vec<String> {
        read(source).unwrap().paths.iter().map(|path| path.join("::")).collect()
    }

    #[test]
    fn what_is_for_tests_alone_is_left_out() {
        let source = "
            #[cfg(test)] use crate::a::A;
            #[cfg(all(unix, test))] mod b { fn f() { crate::a::f() } }
            #[cfg(test)] mod tests;
            #[cfg(any(test, unix))] mod kept;
            #[cfg(not(test))] mod kept_too;
            struct S { #[cfg(test)] a: crate::a::A }
            impl S { #[cfg(test)] fn f() { crate::a::f() } }
            fn f() { #[cfg(test)] let x = crate::a::f(); }
        ";
        let module = read(source).unwrap();
        assert!(module.uses.is_empty() && module.inline.is_empty());
        assert_eq!(module.files.iter().collect::<Vec<_>>(), ["kept", "kept_too"]);
        assert_eq!(paths(source), ["S"]);
    }

    #[test]
    fn paths_are_found_in_code_types_macros_and_attributes() {
        let source = "
            #[thing(with = crate::a::Attribute)]
            struct S(Vec<crate::a::Type>);
            fn f() { tell!(x.field, crate::a::in_macro(y), 'l', $var, $crate::a::Shown); ::std::f(); }
        ";
        let expected = [
            "::std::f",
            "Vec",
            "crate::a::Attribute",
            "crate::a::Shown",
            "crate::a::Type",
            "crate::a::in_macro",
            "tell",
            "with",
            "x",
            "y",
        ];
        assert_eq!(paths(source), expected);
    }

    #[test]
    fn self_is_the_type_of_the_impl() {
        let source = "impl a::T<'_> { fn f(&self) { self.g(); Self::h(); other.i() } }";
        assert_eq!(paths(source), ["a::T", "a::T::g", "a::T::h", "other", "self"]);
        assert_eq!(read(source).unwrap().functions, [(vec!["a".to_owned(), "T".to_owned()], "f".to_owned())]);
    }
}
