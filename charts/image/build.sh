#!/bin/sh
# Writes the image of Franking as one tar, target/franking-image.tar, with no docker: an OCI image layout (image-spec 1.1)
# that `ctr image import`, `podman load`, `skopeo copy oci-archive:…`, `kind load image-archive` and `docker load` take.
#
#   BINARY  the program to put in; built statically when unset (a release build: some minutes)
#   OUTPUT  where the tar goes
#   NAME    what the image is called
#
# The same binary gives the same bytes.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
version=$(sed -n '/^\[package\]/,/^\[/s/^version = "\(.*\)"$/\1/p' "$root/Cargo.toml")
output=${OUTPUT:-$root/target/franking-image.tar}
name=${NAME:-ghcr.io/franking/franking:$version}

case $(uname -m) in
x86_64) architecture=amd64 ;;
aarch64) architecture=arm64 ;;
*)
    echo "image: $(uname -m) is not an architecture that this script knows; it knows x86_64 and aarch64" >&2
    exit 1
    ;;
esac

binary=${BINARY:-}
if [ -z "$binary" ]; then
    target=$(rustc --version --verbose | sed -n 's/^host: //p')
    echo "image: building the static binary for $target"
    # --target, because otherwise the static C library would be asked of build scripts and procedural macros too.
    (cd "$root" && RUSTFLAGS='-C target-feature=+crt-static' cargo build --release --locked --target "$target")
    binary=$root/target/$target/release/franking
fi
if [ ! -x "$binary" ]; then
    echo "image: BINARY $binary is not a program" >&2
    exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
files=$work/files
layout=$work/layout
mkdir -p "$files" "$layout/blobs/sha256"

cp -R "$here/rootfs/." "$files/"
cp "$binary" "$files/franking"
chmod 0755 "$files" "$files/franking" "$files/etc"
chmod 0644 "$files"/etc/*
mkdir "$files/tmp"
chmod 1777 "$files/tmp"
# A binary that is not static (a debug build) brings the libraries that it names, at the paths that it looks for.
if ldd "$binary" >"$work/libraries" 2>/dev/null; then
    sed -n 's/^.*[[:space:]]\(\/[^ ]*\) (0x.*$/\1/p' "$work/libraries" | while read -r library; do
        mkdir -p "$files$(dirname "$library")"
        cp -L "$library" "$files$library"
        chmod 0755 "$files$library"
    done
    find "$files" -type d ! -name tmp -exec chmod 0755 {} +
fi

# Packs these names of a folder with nothing in it that depends on who packs, where or when.
pack() {
    from=$1 to=$2
    shift 2
    tar --create --file "$to" --directory "$from" --format=ustar --sort=name --mtime=@0 --owner=0 --group=0 --numeric-owner "$@"
}
digest() {
    sha256sum "$1" | cut -d ' ' -f 1
}
# Moves a file among the blobs and leaves its digest and size in $digest and $size.
blob() {
    digest=$(digest "$1")
    size=$(stat -c %s "$1")
    mv "$1" "$layout/blobs/sha256/$digest"
}

pack "$files" "$work/layer.tar" .
contents=$(digest "$work/layer.tar")
gzip -n -9 <"$work/layer.tar" >"$work/layer"
blob "$work/layer"
layer=$digest layer_size=$size

cat >"$work/config" <<JSON
{"architecture":"$architecture","os":"linux","config":{"User":"65532:65532","Entrypoint":["/franking"],"WorkingDir":"/","Labels":{"org.opencontainers.image.title":"franking","org.opencontainers.image.version":"$version","org.opencontainers.image.licenses":"Apache-2.0"}},"rootfs":{"type":"layers","diff_ids":["sha256:$contents"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"charts/image/build.sh"}]}
JSON
blob "$work/config"
config=$digest config_size=$size

cat >"$work/manifest" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$config","size":$config_size},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"sha256:$layer","size":$layer_size}]}
JSON
blob "$work/manifest"
manifest=$digest manifest_size=$size

printf '{"imageLayoutVersion":"1.0.0"}\n' >"$layout/oci-layout"
cat >"$layout/index.json" <<JSON
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:$manifest","size":$manifest_size,"platform":{"architecture":"$architecture","os":"linux"},"annotations":{"io.containerd.image.name":"$name","org.opencontainers.image.ref.name":"${name##*:}"}}]}
JSON
# What docker before 25 reads instead.
cat >"$layout/manifest.json" <<JSON
[{"Config":"blobs/sha256/$config","RepoTags":["$name"],"Layers":["blobs/sha256/$layer"]}]
JSON

mkdir -p "$(dirname "$output")"
# By their names and not as `./name`, which crane does not find.
pack "$layout" "$work/image.tar" blobs index.json manifest.json oci-layout
mv "$work/image.tar" "$output"
echo "image: $name is $output ($(du -m "$output" | cut -f 1) MB), sha256:$manifest"
