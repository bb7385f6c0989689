//! Commands of the pages, as they stand: each `kubectl patch` is taken by a real API server (which keeps nothing of it), and
//! each `helm install` and `helm upgrade` renders.

use std::path::Path;
use std::process::{Command, Output};

use crate::examples::plane;
use crate::support::control_plane::succeeded;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Pages, and how many of their blocks have such a command.
const PAGES: [(&str, usize); 3] = [("docs/operating.md", 2), ("docs/sending.md", 1), ("examples/prepaid/README.md", 1)];
/// Every kubectl command but `patch` does nothing here.
const SHELL: &str = r#"kubectl() { if [ "$1" = patch ]; then command kubectl "$@" --dry-run=server; fi; }
"#;

/// Pages, and how many of their blocks have a `helm` command.
const HELM_PAGES: [(&str, usize); 6] = [
    ("README.md", 1),
    ("charts/franking/README.md", 1),
    ("docs/operating.md", 5),
    ("docs/security.md", 1),
    ("examples/postgres/README.md", 2),
    ("examples/printers/README.md", 1),
];
/// `helm install` and `helm upgrade --install` render; whatever else a page runs in one block does nothing here.
const RENDERING: &str = r#"kubectl() { :; }; make() { :; }; skopeo() { :; }; kind() { :; }; k3s() { :; }
helm() {
    case "$1" in install | upgrade) shift ;; *) return ;; esac
    for argument do
        shift
        case "$argument" in --install | --reuse-values) ;; *) set -- "$@" "$argument" ;; esac
    done
    echo "$(command helm template "$@" | grep -c '^kind:') objects"
}
"#;

/// The blocks of code of a page that have this command.
fn blocks(page: &str, command: &str) -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join(page)).expect("a page");
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            // In a list they are indented further.
            (Some(code), Some(block)) => *block += &format!("{}\n", code.trim_start()),
            _ => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| block.contains(command));
    blocks
}

#[test]
fn every_patch_of_the_pages_is_taken_by_a_real_api_server() {
    for example in ["examples/quickstart.yaml", "examples/prepaid"] {
        let example = format!("{ROOT}/{example}");
        succeeded(plane().kubectl(&["apply", "--server-side", "--force-conflicts", "--filename", &example]));
    }
    for (page, count) in PAGES {
        let blocks = blocks(page, "kubectl patch");
        assert_eq!(blocks.len(), count, "{page}: {blocks:?}");
        for block in blocks {
            let output = run(SHELL, &block);
            let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!complaints.contains("Warning"), "{page}: {complaints}");
            let said = succeeded(output);
            let patched = said.lines().filter(|line| line.contains("patched")).count();
            assert_eq!(patched, block.matches("kubectl patch").count(), "{page}: {said}");
        }
    }
}

#[test]
fn every_helm_command_of_the_pages_renders() {
    for (page, count) in HELM_PAGES {
        let blocks = blocks(page, "helm ");
        assert_eq!(blocks.len(), count, "{page}: {blocks:?}");
        for block in blocks {
            let said = succeeded(run(RENDERING, &block));
            let rendered = said.lines().filter_map(|line| line.strip_suffix(" objects")?.parse::<u32>().ok());
            let rendered: Vec<u32> = rendered.collect();
            let commands = block.matches("helm install ").count() + block.matches("helm upgrade ").count();
            assert!(
                rendered.len() == commands && rendered.iter().all(|objects| *objects > 10),
                "{page}: {block}{said}"
            );
        }
    }
}

/// Runs a block in a shell, with the functions that stand for its commands.
fn run(functions: &str, block: &str) -> Output {
    let ours = Path::new(ROOT).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", &format!("{functions}{block}")]).current_dir(ROOT).env("PATH", path);
    shell.env("KUBECONFIG", plane().admin_kubeconfig()).output().expect("a shell is there")
}
