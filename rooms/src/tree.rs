//! The modules of a crate, and where a path in one of them leads.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

use crate::source::{self, Module};

/// Reads a file; nothing if there is none.
pub type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// Pairs of files of which the first names something of the second, with the names.
pub type Ties = BTreeMap<(PathBuf, PathBuf), BTreeSet<String>>;

/// All modules of a library or a binary; the first is its root.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug)]
struct Node {
    file: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    module: Module,
}

/// What a path leads to. Modules go by their numbers in the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Module(usize),
    /// What a module defines, and which of that's own functions or variants.
    Item(usize, String, Option<String>),
    /// The path in another crate.
    Outside(Vec<String>),
}

/// `use`s that are being followed, each by its module and place in it.
type Followed = Vec<(usize, usize)>;

impl Tree {
    /// The tree that grows from a file.
    pub fn grow(root: &Path, read: Read<'_>) -> anyhow::Result<Self> {
        let mut tree = Self::default();
        let folder = root.parent().context("a root without a folder")?;
        let source = read(root).with_context(|| format!("no {}", root.display()))?;
        let module = source::read(&source).with_context(|| root.display().to_string())?;
        tree.add(root, folder, None, module, read)?;
        Ok(tree)
    }

    /// Adds a module of a file with all that are in it; their files are in `folder`.
    fn add(
        &mut self,
        file: &Path,
        folder: &Path,
        parent: Option<usize>,
        mut module: Module,
        read: Read<'_>,
    ) -> anyhow::Result<usize> {
        let (files, inline) = (std::mem::take(&mut module.files), std::mem::take(&mut module.inline));
        let id = self.nodes.len();
        self.nodes.push(Node { file: file.to_owned(), parent, children: BTreeMap::new(), module });
        for (name, inner) in inline {
            let child = self.add(file, &folder.join(&name), Some(id), inner, read)?;
            self.nodes[id].children.insert(name, child);
        }
        for name in files {
            let below = folder.join(&name);
            let candidates = [below.with_extension("rs"), below.join("mod.rs")];
            let found = candidates.iter().find_map(|file| Some((file, read(file)?)));
            let Some((file, source)) = found else { bail!("no {}", candidates[0].display()) };
            let inner = source::read(&source).with_context(|| file.display().to_string())?;
            let child = self.add(file, &below, Some(id), inner, read)?;
            self.nodes[id].children.insert(name, child);
        }
        Ok(id)
    }

    /// Which files name what of which others.
    pub fn ties(&self) -> Ties {
        let added = self.added_functions();
        let mut ties = Ties::new();
        let mut tie = |from: &PathBuf, to: &PathBuf, name: &str| {
            if from != to {
                ties.entry((from.clone(), to.clone())).or_default().insert(name.to_owned());
            }
        };
        for (file, found) in self.named() {
            let Found::Item(owner, name, function) = found else { continue };
            tie(file, &self.nodes[owner].file, &name);
            let Some(function) = function else { continue };
            let called = format!("{name}::{function}");
            for adding in added.get(&(owner, name, function)).into_iter().flatten() {
                tie(file, adding, &called);
            }
        }
        ties
    }

    /// What all files name for themselves. What they show by a `pub use` is for others; they have used it only where
    /// their code names it.
    fn named(&self) -> impl Iterator<Item = (&PathBuf, Found)> {
        self.nodes.iter().enumerate().flat_map(move |(id, node)| {
            let own = node.module.uses.iter().filter(|brought| !brought.is_shown && brought.name.is_some());
            let paths = own.map(|brought| &brought.path).chain(&node.module.paths);
            let found = paths.flat_map(move |path| self.resolve(id, path, &mut Followed::new()));
            found.map(|found| (&node.file, found))
        })
    }

    /// Functions of types that other files than the type's own give them, with those files.
    fn added_functions(&self) -> BTreeMap<(usize, String, String), BTreeSet<PathBuf>> {
        let mut added: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for (id, node) in self.nodes.iter().enumerate() {
            for (this, function) in &node.module.functions {
                for found in self.resolve(id, this, &mut Followed::new()) {
                    if let Found::Item(owner, name, None) = found
                        && self.nodes[owner].file != node.file
                    {
                        added.entry((owner, name, function.clone())).or_default().insert(node.file.clone());
                    }
                }
            }
        }
        added
    }

    /// All paths into other crates, with the files that name them. One that ends in `*` brings in all names.
    pub(crate) fn outside(&self) -> BTreeSet<(PathBuf, Vec<String>)> {
        let mut all = BTreeSet::new();
        for (id, node) in self.nodes.iter().enumerate() {
            let uses = node.module.uses.iter().map(|brought| (&brought.path, brought.name.is_none()));
            let paths = node.module.paths.iter().map(|path| (path, false));
            for (path, is_glob) in uses.chain(paths) {
                for found in self.resolve(id, path, &mut Followed::new()) {
                    if let Found::Outside(mut path) = found {
                        path.extend(is_glob.then(|| "*".to_owned()));
                        all.insert((node.file.clone(), path));
                    }
                }
            }
        }
        all
    }

    /// What a path in a module leads to: several things where a name stands for a module and for a function.
    fn resolve(&self, from: usize, path: &[String], followed: &mut Followed) -> Vec<Found> {
        let Some((first, rest)) = path.split_first() else { return Vec::new() };
        let mut found = match first.as_str() {
            "crate" => vec![Found::Module(0)],
            "self" => vec![Found::Module(from)],
            "super" => self.parent(from),
            "" => vec![Found::Outside(Vec::new())],
            name => self.look_up(from, name, followed),
        };
        if found.is_empty() {
            found.push(Found::Outside(vec![first.clone()]));
        }
        for segment in rest {
            if found.iter().any(|found| matches!(found, Found::Module(_))) {
                // Only that goes on.
                found.retain(|found| matches!(found, Found::Module(_)));
            }
            found = found.into_iter().flat_map(|found| self.step(found, segment, followed)).collect();
        }
        found
    }

    fn step(&self, found: Found, segment: &str, followed: &mut Followed) -> Vec<Found> {
        match found {
            Found::Module(id) if segment == "super" => self.parent(id),
            Found::Module(id) => {
                let found = self.look_up(id, segment, followed);
                if !found.is_empty() {
                    return found;
                }
                // A macro has made it.
                vec![Found::Item(id, segment.to_owned(), None)]
            }
            Found::Item(id, name, function) => {
                vec![Found::Item(id, name, function.or_else(|| Some(segment.to_owned())))]
            }
            Found::Outside(mut path) => {
                path.push(segment.to_owned());
                vec![Found::Outside(path)]
            }
        }
    }

    fn parent(&self, id: usize) -> Vec<Found> {
        self.nodes[id].parent.map(Found::Module).into_iter().collect()
    }

    /// What a name means in a module.
    fn look_up(&self, id: usize, name: &str, followed: &mut Followed) -> Vec<Found> {
        let node = &self.nodes[id];
        let mut found = Vec::new();
        if node.module.items.contains(name) {
            found.push(Found::Item(id, name.to_owned(), None));
        }
        found.extend(node.children.get(name).map(|child| Found::Module(*child)));
        let uses = || node.module.uses.iter().enumerate();
        for (place, brought) in uses().filter(|(_, brought)| brought.name.as_deref() == Some(name)) {
            found.extend(self.follow((id, place), &brought.path, None, followed));
        }
        if !found.is_empty() {
            return found;
        }
        for (place, brought) in uses().filter(|(_, brought)| brought.name.is_none()) {
            found.extend(self.follow((id, place), &brought.path, Some(name), followed));
        }
        found
    }

    /// What a `use` leads to, or what a name means in all of that; nothing where it is being followed already.
    fn follow(
        &self,
        place: (usize, usize),
        path: &[String],
        name: Option<&str>,
        followed: &mut Followed,
    ) -> Vec<Found> {
        if followed.contains(&place) {
            return Vec::new();
        }
        followed.push(place);
        let mut found = self.resolve(place.0, path, followed);
        if let Some(name) = name {
            let modules = found.into_iter().filter_map(|found| match found {
                Found::Module(id) => Some(id),
                _ => None,
            });
            found = modules.flat_map(|id| self.look_up(id, name, followed)).collect();
        }
        followed.pop();
        found
    }
}
