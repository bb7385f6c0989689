#!/bin/bash
# Rules of the ledger, and of who may write to it, taken away one by one: each must be missed by a test, on each engine
# that has it. Works on a copy of what is committed, in target/mutants. Takes about a minute for each; for those of tenants
# some minutes, and TENANT_MINUTES (60) at most. With a word, only those whose name has it: tests/mutants.sh tenants
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
tree=$root/target/mutants/tree
export CARGO_TARGET_DIR=$root/target/mutants/build
survived=0
only=${1:-}

git worktree prune
rm -rf "$tree"
git worktree add --quiet --force --detach "$tree"
trap 'git -C "$root" worktree remove --force "$tree"' EXIT
cd "$tree"
# The Kubernetes programs of the tests that need an API server.
mkdir -p target
ln -s "$root/target/cluster" target/cluster

# A test that fails anyway would seem to miss every rule.
stands() {
    if ! cargo test --locked "$@" >"$root/target/mutants/log" 2>&1; then
        cat "$root/target/mutants/log" >&2
        echo "tests fail while all rules are there" >&2
        exit 1
    fi
}
stands --lib -- sqlite::tests:: postgres::tests:: operator::plan::
TENANT_HISTORIES=2 stands --test it -- tenants::random operator::orphans::keys_and_accounts replaced::nothing_is_refilled

# what is taken away; the file; what to do to it (perl); the tests that must miss it
mutant() {
    seeks "$1" "$2" "$3" --lib "$4"
}

# The same for a test of the whole: with a real API server, operator and relay.
whole() {
    seeks "$1" "$2" "$3" "--test it" "$4"
}

seeks() {
    local what=$1 file=$2 change=$3 target=$4 tests=$5
    [[ $what == *"$only"* ]] || return 0
    git checkout --quiet .
    perl -0pi -e "$change" "$file"
    if git diff --quiet; then
        echo "the rule is not where it was: $what ($file); correct tests/mutants.sh" >&2
        exit 1
    fi
    # Unquoted: the target may be two words.
    if ! cargo test --locked $target --no-run >/dev/null 2>"$root/target/mutants/log"; then
        cat "$root/target/mutants/log" >&2
        echo "it does not compile: $what" >&2
        exit 1
    fi
    local since=$SECONDS
    if cargo test --locked $target -- "$tests" >"$root/target/mutants/log" 2>&1; then
        echo "SURVIVED  $what"
        survived=1
    else
        local failed
        failed=$(grep -c '^test .* FAILED$' "$root/target/mutants/log")
        echo "found     $what  ($failed tests of $tests, $((SECONDS - since)) s)"
        # What the random tenant saw: seed, and the rule that did not hold.
        grep --max-count=1 '^TENANT_SEED=' "$root/target/mutants/log" | cut -c1-300 | sed 's/^/          /' || true
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

# What keeps a tenant from minting, stripping and acting as others. The random tenant must find each.
export TENANT_MINUTES=${TENANT_MINUTES:-60} TENANT_SEED=${TENANT_SEED:-1000}
admission=charts/franking/templates/admission.yaml
random=tenants::random

whole "tenants: a field that a plan requires may be left out" src/crd/account_terms.rs \
    's/Some\(Requirement::Required\) => true/Some(Requirement::Required) => false/' $random
whole "tenants: anybody takes the finalizer off" $admission 's/!variables\.letGo \|\|/true ||/' $random
# Where admission is in force no tenant gets here: the test takes the finalizer as an administrator.
whole "tenants: what vanishes is not written off" src/operator/write_off.rs \
    's/(if loss\(context, what, holder\)\.await\?\.is_none\(\)) \{/$1 || true {/' operator::orphans::keys_and_accounts
whole "tenants: a limit of another period begins with nothing used" src/ledger/rules/lots.rs \
    's/(fn cut\(.*?limit\.credits, overage, )used\)/${1}0)/s' $random
whole "tenants: money is counted only where it is limited" src/ledger/rules/holding.rs \
    's/terms\.priced \|\| terms\.spend_limit/terms.spend_limit/' $random
whole "tenants: an account that moves away leaves its place free" src/domain/directory/mod.rs \
    's/departed\(&self\.departures, self\.policy, self\.removed_at\.unwrap_or\(now\)\)/{ let _ = now; Vec::new() }/' $random
whole "tenants: an account that is removed leaves its place free" src/operator/books.rs \
    's/(let removed = account\.removed_at)\.map/$1.filter(|_| false).map/' $random
whole "tenants: grant on one plan takes off what another imposed" $admission \
    's/object == null \|\| size\(variables\.taken\) == 0 \|\|/true ||/' $random
# Each test that installs the chart waits until this one is refused.
whole "tenants: anybody adopts a Secret" $admission 's/!variables\.adopted \|\|/true ||/' $random
whole "tenants: a key adopts a Secret by an edit" $admission \
    's/(# What franking does to a Secret.*?operations: \[)CREATE, UPDATE\]/${1}CREATE]/s' $random
whole "tenants: an adopted Secret is overwritten" src/operator/plan/present.rs \
    's/if clashes\.is_empty\(\) \{/if true || clashes.is_empty() {/' $random
whole "tenants: every copy of a message stands in" src/ledger/rules/dedup.rs \
    's/STAND_INS_MAX: u32 = 2/STAND_INS_MAX: u32 = 1_000/' $random
whole "tenants: a currency is changed in two edits" src/operator/plan/credit_policy.rs \
    's/let known = known_currency\(policy, observed\.entry\.as_ref\(\)\);/let known: Option<String> = None;/' $random
whole "tenants: the account does not narrow its keys" src/relay/judge.rs \
    's/account\.allowed_senders\.as_deref\(\)/account.allowed_senders.as_deref().and(None)/' $random
# No tenant replaces a ledger, so these are found by the engines' tests and by one that replaces it.
mutant "tenants, SQLite: an accepted ledger does not start from what was used" src/ledger/rules/floors.rs \
    's/let by = room\.min\(missing\);/let by = 0 * room.min(missing);/' sqlite::tests::
mutant "tenants, PostgreSQL: a floor of any meter raises the period" src/ledger/postgres/floors.rs \
    's/of_holder\.raise\(floor, /of_holder.raise(&Floor { meter: Meter::AccountCap, ..**floor }, /' postgres::tests::
mutant "tenants: an accepted account does not start from the sum of its keys" src/ledger/rules/floors.rs \
    's/within\.map\(\|child\| child\.by\)\.sum::<i64>\(\)/within.map(|_| 0).sum::<i64>()/' sqlite::tests::
whole "tenants: what is deleted while the ledger is held is forgotten" src/operator/rebuild.rs \
    's/for (account|key) in references\.(\w+)\.state\(\) \{/for $1 in references.$2.state().into_iter().filter(|o| is_live(o.as_ref())) {/g' \
    replaced::nothing_is_refilled

if ((survived)); then
    echo "no test misses a rule that says SURVIVED" >&2
    exit 1
fi
