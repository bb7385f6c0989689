#!/bin/sh
# Builds the test cluster (main.go) into target/cluster/KEY/cluster, where KEY is a hash of its sources, and points
# target/cluster/current at it. Does nothing when it is there already. Cold it takes 6 minutes on 2 cores, then seconds.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
out=$here/../../target/cluster
mkdir -p "$out"
out=$(cd "$out" && pwd)

kubernetes=$(sed -n 's|^.*k8s.io/kubernetes \(v[0-9.]*\)$|\1|p' "$here/go.mod")
key=$(cat "$here"/go.mod "$here"/go.sum "$here"/*.go "$here"/build.sh | sha256sum | cut -c 1-16)
tags=
what="etcd, Kubernetes $kubernetes and helm (6 minutes when Go's cache is cold)"
if [ -n "${KUBEBUILDER_ASSETS:-}" ]; then
    # Only the launcher is built, in a second and from the standard library alone; the programs are the caller's.
    for program in etcd kube-apiserver kube-controller-manager kubectl helm; do
        if [ ! -x "$KUBEBUILDER_ASSETS/$program" ]; then
            echo "KUBEBUILDER_ASSETS is set to $KUBEBUILDER_ASSETS, which has no $program: put it there, or unset KUBEBUILDER_ASSETS and everything is built" >&2
            exit 1
        fi
    done
    echo "test cluster: using the programs in KUBEBUILDER_ASSETS=$KUBEBUILDER_ASSETS"
    key=$key-assets
    tags=assets
    what="the launcher"
fi

if [ ! -x "$out/$key/cluster" ]; then
    if ! command -v go >/dev/null; then
        echo "the test cluster is built with Go 1.26 or newer, and there is no go command: install it from https://go.dev/dl, or set KUBEBUILDER_ASSETS to a folder with etcd, kube-apiserver, kube-controller-manager, kubectl and helm" >&2
        exit 1
    fi
    echo "test cluster: building $what"
    started=$(date +%s)
    partial=$out/$key.$$
    trap 'rm -rf "$partial"' EXIT
    trap 'exit 130' INT TERM
    mkdir -p "$partial"
    # helm refuses a server without a version, so one is stamped in. Low priority: it is long and nobody waits for it alone.
    (cd "$here" && CGO_ENABLED=0 nice -n 5 go build -trimpath -buildvcs=false -tags "$tags" \
        -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$kubernetes" -o "$partial/cluster" .)
    for program in kubectl helm; do
        ln -s cluster "$partial/$program"
    done
    # Renamed into place, so that a build that was cut short, or another that runs beside, is never taken for a whole one.
    mv -T "$partial" "$out/$key" 2>/dev/null || [ -x "$out/$key/cluster" ]
    echo "test cluster: built in $(($(date +%s) - started)) s ($(du -mL "$out/$key/cluster" | cut -f 1) MB)"
fi
ln -sfn "$key" "$out/current"

# Older builds are 155 MB each and nothing names them any more.
for old in "$out"/*; do
    case $old in
    "$out/current" | "$out/${key%-assets}" | "$out/${key%-assets}-assets" | *.*) ;;
    *) rm -rf "$old" ;;
    esac
done
