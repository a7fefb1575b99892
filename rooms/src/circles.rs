//! Files of a crate that use each other.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};

use crate::tree::Ties;

/// Files of which each leads to every other.
#[derive(Debug, PartialEq, Eq)]
pub struct Circle {
    /// More than one.
    pub files: BTreeSet<PathBuf>,
    /// What ties them.
    pub ties: Ties,
}

impl fmt::Display for Circle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "a circle of {} files:", self.files.len())?;
        for ((from, to), names) in &self.ties {
            let names: Vec<_> = names.iter().map(String::as_str).collect();
            writeln!(f, "  {} names {} of {}", from.display(), names.join(", "), to.display())?;
        }
        Ok(())
    }
}

/// All circles.
pub fn circles(ties: &Ties) -> Vec<Circle> {
    let mut left: BTreeSet<&Path> = ties.keys().map(|(from, _)| from.as_path()).collect();
    let mut circles = Vec::new();
    while let Some(file) = left.pop_first() {
        let mut files: BTreeSet<PathBuf> = reached(ties, file).into_iter().map(Path::to_owned).collect();
        files.retain(|other| reached(ties, other).contains(file));
        if files.len() > 1 {
            left.retain(|other| !files.contains(*other));
            let mut ties = ties.clone();
            ties.retain(|(from, to), _| files.contains(from) && files.contains(to));
            circles.push(Circle { files, ties });
        }
    }
    circles
}

/// Where the ties lead from a file.
fn reached<'a>(ties: &'a Ties, from: &'a Path) -> BTreeSet<&'a Path> {
    let mut reached = BTreeSet::new();
    let mut next = vec![from];
    while let Some(file) = next.pop() {
        let to = ties.keys().filter(|(from, _)| from == file).map(|(_, to)| to.as_path());
        next.extend(to.filter(|to| reached.insert(*to)));
    }
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Tree;

    /// The circles of a made-up crate, as they are told.
    fn told(files: &[(&str, &str)]) -> Vec<String> {
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, source)| (*source).to_owned())
        };
        let tree = Tree::grow(Path::new("lib.rs"), &read).unwrap();
        circles(&tree.ties()).iter().map(Circle::to_string).collect()
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn two_files_that_use_each_other_are_told_with_the_names() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c;"),
            ("a.rs", "use crate::b::B; pub struct A(B);"),
            ("b.rs", "pub struct B; fn f() { super::a::A; }"),
            ("c.rs", "use crate::a::A; use crate::b::B;"),
        ];
        let circle = "a circle of 2 files:\n  a.rs names B of b.rs\n  b.rs names A of a.rs\n";
        assert_eq!(told(&files), [circle]);
    }

    #[test]
    fn a_longer_circle_is_one() {
        let files = [
            ("lib.rs", "mod a; mod b; mod c; mod d; mod e;"),
            ("a.rs", "use crate::b::B; pub struct A;"),
            ("b.rs", "use crate::c::C; pub struct B;"),
            ("c.rs", "use crate::a::A; use crate::d::D; pub struct C;"),
            ("d.rs", "use crate::e::E; pub struct D;"),
            ("e.rs", "use crate::d::D; pub struct E;"),
        ];
        let told = told(&files);
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("a circle of 3 files") && told[1].starts_with("a circle of 2 files"));
    }

    #[test]
    fn a_name_leads_to_where_it_is_defined() {
        let files = [
            ("lib.rs", "mod a; mod b; pub use a::A; pub use b::{B, *};"),
            ("a.rs", "pub struct A;"),
            ("b.rs", "use crate::A; pub struct B(A); pub struct C;"),
        ];
        assert_eq!(told(&files), NONE);
        let files = [files[0], ("a.rs", "use crate::C; pub struct A;"), files[2]];
        assert_eq!(told(&files).len(), 1, "the re-exports hide nothing");
    }

    #[test]
    fn a_parent_with_nothing_but_modules_is_in_no_circle() {
        let files = [
            ("lib.rs", "mod p; fn f() { p::A; }"),
            ("p/mod.rs", "mod a; mod b; pub use a::A; use std::fmt;"),
            ("p/a.rs", "use super::b::B; use super::fmt; pub struct A;"),
            ("p/b.rs", "pub(in super::super) struct B;"),
        ];
        assert_eq!(told(&files), NONE);
    }

    #[test]
    fn a_parent_whose_code_uses_a_child_that_uses_it_is_in_one() {
        let parent = "mod a; pub struct Node; fn f() { a::visit(); }";
        let child = "use super::Node; pub fn visit(_: Node) {}";
        assert_eq!(told(&[("lib.rs", parent), ("a.rs", child)]).len(), 1);
        let all = "use super::*; pub fn visit(_: Node) {}";
        assert_eq!(told(&[("lib.rs", parent), ("a.rs", all)]).len(), 1);
        let shown = "mod a; pub use a::visit; pub struct Node; fn f() { visit(); }";
        assert_eq!(told(&[("lib.rs", shown), ("a.rs", child)]).len(), 1);
        let shown_only = "mod a; pub use a::visit; pub struct Node;";
        assert_eq!(told(&[("lib.rs", shown_only), ("a.rs", child)]), NONE);
    }

    #[test]
    fn what_tests_use_does_not_count() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "use crate::b::B; pub struct A; #[cfg(test)] mod tests;"),
            ("a/tests.rs", "use super::*;"),
            ("b.rs", "pub struct B; #[cfg(test)] mod tests { use crate::a::A; }"),
        ];
        assert_eq!(told(&files), NONE);
    }

    #[test]
    fn a_function_that_another_file_gives_a_type_is_that_file_s() {
        let files = [
            ("lib.rs", "mod a; mod b;"),
            ("a.rs", "pub struct A; impl A { pub fn f(&self) { self.g() } }"),
            ("b.rs", "use crate::a::A; impl A { pub fn g(&self) {} }"),
        ];
        let circle = "a circle of 2 files:\n  a.rs names A::g of b.rs\n  b.rs names A of a.rs\n";
        assert_eq!(told(&files), [circle]);
    }

    #[test]
    fn a_module_and_a_function_may_have_one_name() {
        let files = [
            ("lib.rs", "mod send; pub use send::send; mod b;"),
            ("send.rs", "use crate::b::B; pub fn send() {}"),
            ("b.rs", "pub struct B; fn f() { crate::send(); }"),
        ];
        assert_eq!(told(&files).len(), 1);
    }
}
