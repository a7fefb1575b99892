//! The binary under test.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail, ensure};

/// The binary that `RAFTMQ_BIN` names; without that, the one cargo builds in the profile of the running test. It is
/// built once for each process; cargo itself keeps several processes apart.
pub fn raftmq_binary() -> Result<PathBuf> {
    static BINARY: OnceLock<std::result::Result<PathBuf, String>> = OnceLock::new();
    let found = BINARY.get_or_init(|| find().map_err(|error| format!("{error:#}")));
    found.clone().map_err(anyhow::Error::msg)
}

fn find() -> Result<PathBuf> {
    if let Some(binary) = std::env::var_os("RAFTMQ_BIN") {
        let binary = PathBuf::from(binary);
        ensure!(binary.is_file(), "RAFTMQ_BIN is {}, which is no file", binary.display());
        return Ok(binary);
    }
    build()
}

fn build() -> Result<PathBuf> {
    let exe = std::env::current_exe().context("where the running program is")?;
    // target/PROFILE/deps/TEST or target/PROFILE/PROGRAM.
    let beside = exe.parent().filter(|dir| dir.ends_with("deps")).and_then(Path::parent).or(exe.parent());
    let (profile_dir, target) = beside
        .and_then(|dir| Some((dir.file_name()?.to_str()?, dir.parent()?)))
        .with_context(|| format!("{} is not in a target directory; set RAFTMQ_BIN", exe.display()))?;
    let profile = if profile_dir == "debug" { "dev" } else { profile_dir };
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .args([
            "build",
            "--package",
            "raftmq",
            "--bin",
            "raftmq",
            "--message-format",
            "json-render-diagnostics",
        ])
        .args(["--profile", profile, "--target-dir"])
        .arg(target)
        .arg("--manifest-path")
        .arg(manifest)
        .output()
        .context("run cargo")?;
    let messages = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        bail!("cargo build --bin raftmq failed:\n{}", String::from_utf8_lossy(&output.stderr));
    }
    messages.lines().find_map(executable).context("cargo built raftmq but named no executable")
}

/// The path in one of cargo's messages, if it tells of an executable.
fn executable(message: &str) -> Option<PathBuf> {
    let message: serde_json::Value = serde_json::from_str(message).ok()?;
    message.get("executable")?.as_str().map(PathBuf::from)
}
