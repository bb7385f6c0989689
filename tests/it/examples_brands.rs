//! The five steps of `examples/brands/`, as its README has them, with an upstream that keeps what it is sent.

use std::path::Path;
use std::process::Command;

use serde_json::json;

use crate::support::control_plane::succeeded;
use crate::support::franking::eventually;
use crate::tenants::Cluster;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
const FROM: &str = "news@lumen.example.com";
const SOON: std::time::Duration = std::time::Duration::from_secs(60);

/// The blocks of commands of the README, in their order.
fn blocks() -> Vec<String> {
    let text = std::fs::read_to_string(Path::new(ROOT).join("examples/brands/README.md")).expect("the README");
    let mut blocks = vec![String::new()];
    for line in text.lines() {
        match (line.strip_prefix("    "), blocks.last_mut()) {
            (Some(code), Some(block)) => *block += &format!("{code}\n"),
            _ => blocks.push(String::new()),
        }
    }
    blocks.retain(|block| !block.is_empty());
    blocks
}

/// Runs a block as it stands, and gives what it prints.
fn run(cluster: &Cluster, block: &str) -> Result<String, String> {
    let ours = Path::new(ROOT).join("target/cluster/current");
    let path = std::env::join_paths([ours, "/usr/bin".into(), "/bin".into()]).expect("a path");
    let mut shell = Command::new("sh");
    shell.args(["-e", "-c", block]).current_dir(ROOT).env("PATH", path);
    let output = shell.env("KUBECONFIG", cluster.stage.plane.admin_kubeconfig()).output().expect("a shell is there");
    match output.status.success() {
        true => Ok(succeeded(output)),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_brand_is_made_filled_watched_paused_and_removed_as_the_page_says() {
    let cluster = Cluster::install().await;
    let franking = cluster.stage.home.start();
    let blocks = blocks();
    let [create, once, monthly, watch, pause, resume, remove] = blocks.as_slice() else {
        panic!("seven blocks: {blocks:?}");
    };
    let done = |block: &str| run(&cluster, block).unwrap_or_else(|error| panic!("{block}{error}"));

    done(create);
    let upstream = json!({"spec": {"upstream": {"host": "127.0.0.1", "port": cluster.stage.sink.address().port()}}});
    cluster.stage.kubectl(&["patch", "creditpolicy", "brands", "--type=merge", "-p", &upstream.to_string()]);
    let key = cluster.credentials("brands", "lumen-smtp");
    let answers = |start: &str| {
        eventually(&format!("an answer that begins with {start}"), SOON, || {
            cluster.send(&key, FROM).starts_with(start).then_some(())
        });
    };

    done(once);
    let twice = run(&cluster, once).expect_err("the same grant twice");
    assert!(twice.contains("Duplicate value"), "{twice}");
    done(monthly);
    let said = done(watch);
    assert!(said.contains("lumen") && said.contains("north") && said.contains("\"prepaid\":1700"), "{said}");
    answers("250");
    eventually("the credit to be charged", SOON, || {
        let account = cluster.get("subaccount", "brands", "lumen")?;
        (account["status"]["credits"]["prepaid"].as_u64()? < 1700).then_some(())
    });
    let stranger = cluster.send(&key, "news@north.example.com");
    assert!(stranger.starts_with("550 5.7.1"), "{stranger}");

    done(pause);
    eventually("the reason to be told", SOON, || {
        cluster.send(&key, FROM).contains("The campaign is being checked.").then_some(())
    });
    done(resume);
    answers("250");

    done(remove);
    answers("535");
    eventually("the garbage collector to take the Secret", SOON, || {
        cluster.get("secret", "brands", "lumen-smtp").is_none().then_some(())
    });
    assert!(cluster.get("secret", "brands", "north-smtp").is_some(), "the other brand is untouched");
    assert_eq!(franking.stop(), 0, "{}", cluster.stage.home.log());
}
