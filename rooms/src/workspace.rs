//! The crates of the workspace, as Cargo tells of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::Value;

/// A crate. Crates of the workspace go by the names of their folders, and the binary's by `src`.
#[derive(Debug)]
pub struct Package {
    /// Its folder, from the workspace's.
    pub name: String,
    /// What it depends on, at building too.
    pub dependencies: Vec<String>,
    /// What its tests depend on besides.
    pub dev_dependencies: Vec<String>,
    /// The first file of its library and of each binary, from the workspace's folder.
    pub roots: Vec<PathBuf>,
}

/// All crates of the workspace in a folder.
pub fn packages(workspace: &Path) -> anyhow::Result<Vec<Package>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let told = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(workspace)
        .output()
        .context("run cargo metadata")?;
    ensure!(told.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&told.stderr));
    let metadata: Value = serde_json::from_slice(&told.stdout)?;
    list(&metadata["packages"])?.iter().map(|package| read(package, workspace)).collect()
}

fn read(package: &Value, workspace: &Path) -> anyhow::Result<Package> {
    let folder =
        Path::new(text(&package["manifest_path"])?).parent().context("a manifest without a folder")?;
    let (dev, production): (Vec<_>, Vec<_>) =
        list(&package["dependencies"])?.iter().partition(|dependency| dependency["kind"] == "dev");
    let names = |dependencies: Vec<&Value>| -> anyhow::Result<Vec<String>> {
        dependencies.into_iter().map(|dependency| dependency_name(dependency, workspace)).collect()
    };
    let mut roots = Vec::new();
    for target in list(&package["targets"])? {
        if list(&target["kind"])?.iter().any(|kind| kind == "lib" || kind == "bin") {
            roots.push(Path::new(text(&target["src_path"])?).strip_prefix(workspace)?.to_owned());
        }
    }
    Ok(Package {
        name: room(folder, workspace)?,
        dependencies: names(production)?,
        dev_dependencies: names(dev)?,
        roots,
    })
}

/// The folder of a crate of the workspace, the name of any other.
fn dependency_name(dependency: &Value, workspace: &Path) -> anyhow::Result<String> {
    match dependency["path"].as_str() {
        Some(path) => room(Path::new(path), workspace),
        None => Ok(text(&dependency["name"])?.to_owned()),
    }
}

fn room(folder: &Path, workspace: &Path) -> anyhow::Result<String> {
    let name = folder.strip_prefix(workspace)?.display().to_string();
    Ok(if name.is_empty() { "src".to_owned() } else { name })
}

fn text(value: &Value) -> anyhow::Result<&str> {
    value.as_str().with_context(|| format!("cargo metadata has {value} instead of a string"))
}

fn list(value: &Value) -> anyhow::Result<&Vec<Value>> {
    value.as_array().with_context(|| format!("cargo metadata has {value} instead of a list"))
}
