//! The `kubectl patch` commands of the pages, as they stand, taken by a real API server (which keeps nothing of them).

use std::path::Path;
use std::process::Command;

use crate::examples::plane;
use crate::support::control_plane::succeeded;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Pages, and how many of their blocks have such a command.
const PAGES: [(&str, usize); 3] = [("docs/operating.md", 2), ("docs/sending.md", 1), ("examples/prepaid/README.md", 1)];
/// Every kubectl command but `patch` does nothing here.
const SHELL: &str = r#"kubectl() { if [ "$1" = patch ]; then command kubectl "$@" --dry-run=server; fi; }
"#;

/// The blocks of code of a page that have a `kubectl patch`.
fn blocks(page: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(page)).expect("a page");
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(code), Some(block)) => *block += &format!("{code}\n"),
            _ => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| block.contains("kubectl patch"));
    blocks
}

#[test]
fn every_patch_of_the_pages_is_taken_by_a_real_api_server() {
    for example in ["examples/quickstart.yaml", "examples/prepaid"] {
        let example = format!("{ROOT}/{example}");
        succeeded(plane().kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &example]));
    }
    let ours = Path::new(ROOT).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    for (page, count) in PAGES {
        let blocks = blocks(page);
        assert_eq!(blocks.len(), count, "{page}: {blocks:?}");
        for block in blocks {
            let mut shell = Command::new("sh");
            shell.args(["-e", "-c", &format!("{SHELL}{block}")]).env("PATH", &path);
            let output = shell.env("KUBECONFIG", plane().admin_kubeconfig()).output().expect("a shell is there");
            let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!complaints.contains("Warning"), "{page}: {complaints}");
            let said = succeeded(output);
            let patched = said.lines().filter(|line| line.contains("patched")).count();
            assert_eq!(patched, block.matches("kubectl patch").count(), "{page}: {said}");
        }
    }
}
