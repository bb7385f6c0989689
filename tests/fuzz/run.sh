#!/bin/bash
# Fuzzes each target in turn, from the committed seeds, on one core. Arguments: seconds for each, then targets (all).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seconds=${1:-600}
shift || true
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "there is no cargo-fuzz; install it with \`cargo install cargo-fuzz --locked\`, and a nightly toolchain for it" >&2
    exit 1
fi
if (($# == 0)); then
    read -ra targets < <(cd tests/fuzz/seeds && echo *)
    set -- "${targets[@]}"
fi
for target; do
    corpus=target/fuzz/corpus/$target
    mkdir -p "$corpus" "target/fuzz/artifacts/$target"
    echo "== $target, $seconds s"
    cargo +nightly fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz "$target" "$corpus" "tests/fuzz/seeds/$target" -- \
        -max_total_time="$seconds" -max_len=8192 -timeout=10 -rss_limit_mb=1024 -print_final_stats=1 -verbosity=0 \
        -artifact_prefix="target/fuzz/artifacts/$target/"
done
