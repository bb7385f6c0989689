//! The image that `charts/image/build.sh` writes without docker: a valid OCI layout, small, and not root's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use ring::digest;
use serde_json::Value;

use crate::support::chart::utf8;

const BUILD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/image/build.sh");
/// Any program does: the script puts it in with the libraries that it names.
const PROGRAM: &str = "/bin/sh";

fn build(output: &Path) {
    let result = Command::new(BUILD).env("BINARY", PROGRAM).env("OUTPUT", output).output().expect("sh is there");
    assert!(result.status.success(), "{}", String::from_utf8_lossy(&result.stderr));
}

/// The files of a tar, by their paths without a leading `./`.
fn unpack(archive: &[u8], folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let file = folder.join("archive.tar");
    let into = folder.join("unpacked");
    std::fs::write(&file, archive).expect("a temporary folder");
    std::fs::create_dir_all(&into).expect("a temporary folder");
    let status = Command::new("tar").args(["-xf", &utf8(&file), "-C", &utf8(&into)]).status().expect("tar is there");
    assert!(status.success(), "tar does not read it");
    let mut files = BTreeMap::new();
    read(&into, &into, &mut files);
    files
}

fn read(root: &Path, folder: &Path, into: &mut BTreeMap<String, Vec<u8>>) {
    for entry in std::fs::read_dir(folder).expect("it was unpacked") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            read(root, &path, into);
        } else {
            let name = utf8(path.strip_prefix(root).expect("it is under its root"));
            into.insert(name, std::fs::read(&path).expect("it was unpacked"));
        }
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().fold("sha256:".to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// What a descriptor names, checked against its digest and size.
fn follow<'a>(layout: &'a BTreeMap<String, Vec<u8>>, descriptor: &Value, media_type: &str) -> &'a [u8] {
    assert_eq!(descriptor["mediaType"], media_type);
    let digest = descriptor["digest"].as_str().expect("a digest");
    let path = format!("blobs/{}", digest.replace(':', "/"));
    let bytes = layout.get(&path).unwrap_or_else(|| panic!("{path} is not in the image"));
    assert_eq!(sha256(bytes), digest);
    assert_eq!(descriptor["size"], bytes.len());
    bytes
}

#[test]
fn the_image_is_an_oci_layout_with_one_program_that_is_not_root() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = folder.path().join("image.tar");
    build(&output);
    let listed = Command::new("tar").args(["-tf", &utf8(&output)]).output().expect("tar is there").stdout;
    let listed = String::from_utf8(listed).expect("text");
    assert!(listed.lines().any(|name| name == "manifest.json"), "crane asks for it by this name: {listed}");
    let layout = unpack(&std::fs::read(&output).expect("it was written"), folder.path());
    assert_eq!(layout["oci-layout"], b"{\"imageLayoutVersion\":\"1.0.0\"}\n");
    let json = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("JSON");
    let index = json(&layout["index.json"]);
    let manifest = json(follow(&layout, &index["manifests"][0], "application/vnd.oci.image.manifest.v1+json"));
    let config = json(follow(&layout, &manifest["config"], "application/vnd.oci.image.config.v1+json"));
    let layer = follow(&layout, &manifest["layers"][0], "application/vnd.oci.image.layer.v1.tar+gzip");
    assert_eq!(layout.len(), 6, "three blobs, the index, the version and docker's manifest");

    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], serde_json::json!(["/franking"]));
    let packed = folder.path().join("layer");
    std::fs::write(&packed, layer).expect("a temporary folder");
    let unzipped = Command::new("gzip").args(["-dc", &utf8(&packed)]).output().expect("gzip is there").stdout;
    assert_eq!(config["rootfs"]["diff_ids"], serde_json::json!([sha256(&unzipped)]));

    let inside = folder.path().join("layer-files");
    std::fs::create_dir(&inside).expect("a temporary folder");
    let files = unpack(&unzipped, &inside);
    assert_eq!(files["franking"], std::fs::read(PROGRAM).expect("the program"));
    for name in files.keys() {
        let known = name == "franking" || name.starts_with("etc/") || name.contains(".so");
        assert!(known, "{name} has no business in the image");
    }
}

#[test]
fn the_same_program_gives_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (first, second) = (folder.path().join("first.tar"), folder.path().join("second.tar"));
    build(&first);
    build(&second);
    let digest = |path: &Path| sha256(&std::fs::read(path).expect("it was written"));
    assert_eq!(digest(&first), digest(&second));
}
