#!/bin/bash
# Rules of the ledger, and of who may write to it, taken away one by one: each must be missed by a test, on each engine
# that has it. Works on a copy of what is committed, in target/mutants. Takes about a minute for each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
tree=$root/target/mutants/tree
export CARGO_TARGET_DIR=$root/target/mutants/build
survived=0

git worktree prune
rm -rf "$tree"
git worktree add --quiet --force --detach "$tree"
trap 'git -C "$root" worktree remove --force "$tree"' EXIT
cd "$tree"

# A test that fails anyway would seem to miss every rule.
if ! cargo test --locked --lib -- sqlite::tests:: postgres::tests:: operator::plan:: >"$root/target/mutants/log" 2>&1; then
    cat "$root/target/mutants/log" >&2
    echo "tests fail while all rules are there" >&2
    exit 1
fi

# what is taken away; the file; what to do to it (perl); the tests that must miss it
mutant() {
    local what=$1 file=$2 change=$3 tests=$4
    git checkout --quiet .
    perl -0pi -e "$change" "$file"
    if git diff --quiet; then
        echo "the rule is not where it was: $what ($file); correct tests/mutants.sh" >&2
        exit 1
    fi
    if ! cargo test --locked --lib --no-run >/dev/null 2>"$root/target/mutants/log"; then
        cat "$root/target/mutants/log" >&2
        echo "it does not compile: $what" >&2
        exit 1
    fi
    if cargo test --locked --lib -- "$tests" >"$root/target/mutants/log" 2>&1; then
        echo "SURVIVED  $what"
        survived=1
    else
        echo "found     $what  ($(grep -c '^test .* FAILED$' "$root/target/mutants/log") tests of $tests)"
    fi
}

sqlite=src/ledger/sqlite
postgres=src/ledger/postgres

mutant "SQLite: a refund moves no balance" $sqlite/charge.rs \
    's/lots\.lot\(self, id\)\?\.refund\(amount\);/lots.lot(self, id)?;/' sqlite::tests::random_histories
mutant "SQLite: a refund leaves no row" $sqlite/charge.rs \
    's/(INSERT INTO settlement \(message, correction, outcome, at, counted\)) VALUES \(\?1, \?2, \?3, \?4, 0\)/$1 SELECT ?1, ?2, ?3, ?4, 0 WHERE ?3 <> \x27refused\x27/' \
    sqlite::tests::random_histories
mutant "SQLite: a session that was given up goes on" $sqlite/write.rs \
    's/if self\.touch\(session\)\? \{ Ok\(\(\)\) \} else \{ Err\(Failure::Fenced\) \}/self.touch(session).map(drop)/' \
    sqlite::tests::
mutant "SQLite: synchronous=NORMAL" $sqlite/file.rs \
    's/"synchronous", "FULL"/"synchronous", "NORMAL"/; s/SYNCHRONOUS_FULL: i64 = 2/SYNCHRONOUS_FULL: i64 = 1/' \
    sqlite::tests::commits_are_durable
mutant "SQLite: lots are remembered whoever wrote since" $sqlite/memory.rs \
    's/if self\.version != Some\(version\)/if self.version.is_none()/' sqlite::tests::racing_processes
mutant "PostgreSQL: a refund moves no balance" $postgres/settle.rs \
    's/lot\.refund\(\*amount\);/let _ = (lot, amount);/' postgres::tests::random_histories
mutant "PostgreSQL: a refund leaves no row" $postgres/settle.rs \
    's/(x\(day, message, outcome, correction\))",/$1 WHERE x.outcome <> 2",/' postgres::tests::random_histories
mutant "PostgreSQL: lots are locked in any order" $postgres/memory.rs \
    's/for \(\(_, lot\), delta\) in deltas \{/for ((_, lot), delta) in deltas.into_iter().collect::<HashMap<_, _>>() {/' \
    postgres::tests::faults::lots_are_locked
mutant "PostgreSQL: a session that was given up goes on" src/ledger/migrations/postgres/0001_ledger.sql \
    's/fenced := NOT EXISTS \([^;]*;/fenced := false;/' postgres::tests::
mutant "PostgreSQL: a transaction that finds its work done writes no session" src/ledger/migrations/postgres/0001_ledger.sql \
    's/    INSERT INTO beat AS b \(session.*?excluded\.seen_at\);\n/    PERFORM 1;\n/s' \
    postgres::tests::faults::a_charge_whose_wait
mutant "PostgreSQL: synchronous_commit=off is good enough" $postgres/fitness.rs \
    's/\["off", "local"\]\.contains/["never"].contains/' postgres::tests::fitness
mutant "operator: what another leader may still write is forgotten" src/domain/credential.rs \
    's/STAGED_MAX: usize = 4/STAGED_MAX: usize = 1/' operator::plan::tests::handover
mutant "operator: an account is in service before its policy is" src/operator/plan/sub_account.rs \
    's/Ok\(accepted\) if accepted\.stands =>/Ok(accepted) =>/' operator::plan::tests::steadfast

if ((survived)); then
    echo "no test misses a rule that says SURVIVED" >&2
    exit 1
fi
