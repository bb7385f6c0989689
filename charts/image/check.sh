#!/bin/sh
# Unpacks the image that build.sh wrote, checks every digest on the way, and runs the program in it as its own user with
# nothing else in sight. Needs root for chroot.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
image=${1:-$here/../../target/franking-image.tar}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM
# chroot's user must be able to enter.
chmod 0755 "$work"
mkdir "$work/layout" "$work/root"
tar --extract --file "$image" --directory "$work/layout"

for blob in "$work"/layout/blobs/sha256/*; do
    echo "$(basename "$blob")  $blob"
done | sha256sum --check --quiet

# The digest of the nth descriptor of a media type in a JSON document: the documents are build.sh's own and on one line.
descriptor() {
    sed -n "s|^.*\"mediaType\":\"$2\",\"digest\":\"sha256:\([0-9a-f]\{64\}\)\".*$|\1|p" "$1"
}
blobs=$work/layout/blobs/sha256
manifest=$(descriptor "$work/layout/index.json" application/vnd.oci.image.manifest.v1+json)
config=$(descriptor "$blobs/$manifest" application/vnd.oci.image.config.v1+json)
layer=$(descriptor "$blobs/$manifest" application/vnd.oci.image.layer.v1.tar+gzip)
unpacked=$(gzip -dc "$blobs/$layer" | sha256sum | cut -d ' ' -f 1)
grep -q "\"diff_ids\":\[\"sha256:$unpacked\"\]" "$blobs/$config" || {
    echo "image: the layer is not the one that the config names" >&2
    exit 1
}
tar --extract --file "$blobs/$layer" --directory "$work/root" --preserve-permissions
user=$(sed -n 's/^.*"User":"\([0-9:]*\)".*$/\1/p' "$blobs/$config")
case $user in
"" | 0*)
    echo "image: it would run as root" >&2
    exit 1
    ;;
esac
env -i PATH="$PATH" chroot --userspec="$user" "$work/root" /franking --version
echo "image: runs as $user with $(find "$work/root" -type f | wc -l) files in sight"
