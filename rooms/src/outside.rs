//! Names of other crates that a room must not know.

use crate::tree::Tree;

/// Where a crate names something of what is forbidden, as `file names path`.
pub fn named(tree: &Tree, forbidden: &[&str]) -> Vec<String> {
    let forbidden: Vec<Vec<&str>> = forbidden.iter().map(|path| path.split("::").collect()).collect();
    let is_forbidden = |path: &[String]| forbidden.iter().any(|forbidden| is_within(path, forbidden));
    let wrong = tree.outside().into_iter().filter(|(_, path)| is_forbidden(path));
    wrong.map(|(file, path)| format!("{} names {}", file.display(), path.join("::"))).collect()
}

/// Whether a path is a forbidden one or leads into it. One that ends in `*` may not lead to it either.
fn is_within(path: &[String], forbidden: &[&str]) -> bool {
    match path.split_last() {
        Some((last, before)) if last == "*" => before.iter().zip(forbidden).all(|(a, b)| a == b),
        _ => path.len() >= forbidden.len() && path.iter().zip(forbidden).all(|(a, b)| a == b),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named_in(source: &str) -> Vec<String> {
        let tree = Tree::grow("lib.rs".as_ref(), &|_| Some(source.to_owned())).unwrap();
        named(&tree, &["tokio::net", "raftmq_world::Stream"])
    }

    #[test]
    fn a_forbidden_name_is_found_however_it_comes_in() {
        let sources = [
            "fn f() { tokio::net::lookup_host(); }",
            "use tokio::{net::TcpStream, sync};",
            "use tokio::net as n;",
            "use tokio as t; fn f(_: t::net::TcpStream) {}",
            "use raftmq_world::*;",
            "pub use raftmq_world::Stream;",
            "fn f() { select! { x = ::tokio::net::lookup_host() => {} } }",
        ];
        for source in sources {
            assert!(!named_in(source).is_empty(), "{source}");
        }
        assert_eq!(named_in(sources[0]), ["lib.rs names tokio::net::lookup_host"]);
    }

    #[test]
    fn others_are_not() {
        assert_eq!(
            named_in("use tokio::sync::*; use raftmq_world::World; mod net { fn Stream() {} }"),
            [""; 0]
        );
    }
}
