#!/bin/bash
# Rules of the ledger, and of who may write to it, taken away one by one: each must be missed by a test, on each engine
# that has it. Works on a copy of what is committed, in target/mutants. Takes about a minute for each; for those of tenants
# some minutes, and TENANT_MINUTES (60) at most. With an argument, only rules whose names have this regular expression in
# them are taken away: tests/mutants.sh tenants
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

root=$PWD
tree=$root/target/mutants/tree
export CARGO_TARGET_DIR=$root/target/mutants/build
only=${1:-}
survived=0
# A history that fails has found the rule: no need for a shorter one.
export PROPTEST_MAX_SHRINK_ITERS=0

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
TENANT_HISTORIES=2 stands --test it -- ledger:: tenants::random operator::orphans::keys_and_accounts replaced::nothing_is_refilled

# what is taken away; the file; what to do to it (perl); the tests that must miss it, each of them where there are several
mutant() {
    seeks "$1" "$2" "$3" --lib "$4"
}

# The same for the suite that both engines of the ledger pass, and for a test of the whole: with a real API server,
# operator and relay.
suite() {
    whole "$@"
}

whole() {
    seeks "$1" "$2" "$3" "--test it" "$4"
}

seeks() {
    local what=$1 file=$2 change=$3 target=$4 tests=$5 each since failed
    [[ $what =~ $only ]] || return 0
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
    for each in $tests; do
        since=$SECONDS
        if cargo test --locked $target -- "$each" >"$root/target/mutants/log" 2>&1; then
            echo "SURVIVED  $what  ($each)"
            survived=1
        else
            failed=$(grep -c '^test .* FAILED$' "$root/target/mutants/log")
            echo "found     $what  ($failed tests of $each, $((SECONDS - since)) s)"
            # What the random tenant saw: seed, and the rule that did not hold.
            grep --max-count=1 '^TENANT_SEED=' "$root/target/mutants/log" | cut -c1-300 | sed 's/^/          /' || true
        fi
    done
}

sqlite=src/ledger/sqlite
postgres=src/ledger/postgres

suite "SQLite: a refund moves no balance" $sqlite/charge.rs \
    's/lot\.refund\(amount\);(\n *let \(holder, ended\))/$1/' ledger::sqlite::random_histories
suite "SQLite: a refund leaves no row" $sqlite/charge.rs \
    's/(INSERT INTO settlement \(message, correction, outcome, at, counted\)) VALUES \(\?1, \?2, \?3, \?4, 0\)/$1 SELECT ?1, ?2, ?3, ?4, 0 WHERE ?3 <> \x27refused\x27/' \
    ledger::sqlite::random_histories
suite "SQLite: a session that was given up goes on" $sqlite/write.rs \
    's/if self\.touch\(session\)\? \{ Ok\(\(\)\) \} else \{ Err\(Failure::Fenced\) \}/self.touch(session).map(drop)/' \
    ledger::sqlite::
mutant "SQLite: synchronous=NORMAL" $sqlite/file.rs \
    's/"synchronous", "FULL"/"synchronous", "NORMAL"/; s/SYNCHRONOUS_FULL: i64 = 2/SYNCHRONOUS_FULL: i64 = 1/' \
    sqlite::tests::commits_are_durable
suite "SQLite: lots are remembered whoever wrote since" $sqlite/lot_cache.rs \
    's/if self\.version != Some\(version\)/if self.version.is_none()/' ledger::sqlite::racing_processes
suite "PostgreSQL: a refund moves no balance" $postgres/settle.rs \
    's/lot\.refund\(\*amount\);/let _ = (lot, amount);/' ledger::postgres::random_histories
suite "PostgreSQL: a refund leaves no row" $postgres/settle.rs \
    's/(x\(day, message, outcome, correction\))",/$1 WHERE x.outcome <> 2",/' ledger::postgres::random_histories
mutant "PostgreSQL: lots are locked in any order" $postgres/charge_cache.rs \
    's/for \(\(_, lot\), delta\) in deltas \{/for ((_, lot), delta) in deltas.into_iter().collect::<HashMap<_, _>>() {/' \
    postgres::tests::faults::lots_are_locked
suite "PostgreSQL: a session that was given up goes on" src/ledger/migrations/postgres/0020_ledger.sql \
    's/fenced := NOT EXISTS \([^;]*;/fenced := false;/' ledger::postgres::
mutant "PostgreSQL: a transaction that finds its work done writes no session" src/ledger/migrations/postgres/0020_ledger.sql \
    's/    INSERT INTO beat AS b \(session.*?excluded\.seen_at\);\n/    PERFORM 1;\n/s' \
    postgres::tests::faults::a_charge_whose_wait
mutant "PostgreSQL: synchronous_commit=off is good enough" $postgres/durability.rs \
    's/\["off", "local"\]\.contains/["never"].contains/' postgres::tests::durability
mutant "operator: what another leader may still write is forgotten" src/domain/credential.rs \
    's/STAGED_MAX: usize = 4/STAGED_MAX: usize = 1/' operator::plan::tests::handover
mutant "operator: an account is in service before its policy is" src/operator/plan/sub_account.rs \
    's/Ok\(accepted\) if accepted\.stands =>/Ok(accepted) =>/' operator::plan::tests::steadfast

# Rules that both engines have from the rulebook: each engine's suite must miss them.
rules=src/ledger/rules
both() { echo "ledger::sqlite::$1 ledger::postgres::$1"; }

suite "no edit refills: a changed calendar counts nothing of its period" $rules/lots.rs \
    's/now, limit\.credits, overage, used\);/now, limit.credits, overage, 0 * used);/' "$(both no_edit_refills)"
mutant "no edit refills: a lot whose predecessor reaches into its period carries nothing" $rules/lots.rs \
    's/begun, limit\.credits, overage, used\)/begun, limit.credits, overage, 0 * used)/' ledger::rules::lots
suite "no edit refills: SQLite counts nothing that is rolled up" $sqlite/usage.rs \
    's/self\.add_used\(hour, holder, used\)\?;/let _ = (hour, holder, used);/' ledger::sqlite::random_histories
suite "no edit refills: PostgreSQL counts nothing that is rolled up" src/ledger/migrations/postgres/0020_ledger.sql \
    's/WHERE used <> 0 GROUP BY/WHERE false GROUP BY/' ledger::postgres::random_histories
suite "no edit refills: SQLite counts only what is rolled up" $sqlite/usage.rs \
    's/untaken \+= step\.used\(\);/untaken += 0 * step.used();/' ledger::sqlite::no_edit_refills
suite "no edit refills: PostgreSQL counts only what is rolled up" $postgres/history.rs \
    's/AND v\.at >= \$3 \\/AND v.at >= \$3 AND false \\/' ledger::postgres::no_edit_refills
suite "no edit refills: money counts under a spend limit only" $rules/holding.rs \
    's/let counts = terms\.priced \|\| /let counts = /' "$(both money_counts_before)"
suite "what is given back makes no room in the limit that carries it" $rules/settle.rs \
    's/running\.carried > 0/running.carried < 0/' "$(both what_is_given_back)"

suite "copies: any number may stand in" $rules/dedup.rs \
    's/STAND_INS_MAX: u32 = 2/STAND_INS_MAX: u32 = u32::MAX/' "$(both a_fingerprint_has)"
suite "copies: no rate judges what stands in" $rules/reserve.rs \
    's/credit::take_rate\(rows, sender\.chain\(\), now\)/credit::take_rate(rows, sender.chain(), now).or(Ok(()))/' \
    "$(both a_stand_in_is)"
suite "copies: SQLite does not count what stands in" $sqlite/fingerprint.rs \
    's/stand_ins = stand_ins \+ 1/stand_ins = stand_ins/' ledger::sqlite::a_fingerprint_has
suite "copies: PostgreSQL does not count what stands in" $postgres/fingerprint.rs \
    's/stand_ins = stand_ins \+ 1/stand_ins = stand_ins/' ledger::postgres::a_fingerprint_has
suite "copies: SQLite counts what was certainly not sent" $sqlite/fingerprint.rs \
    's/stand_ins = stand_ins - ifnull\(carrier = \?2, 0\)/stand_ins = stand_ins/' ledger::sqlite::a_fingerprint_has
suite "copies: PostgreSQL counts what was certainly not sent" $postgres/fingerprint.rs \
    's/stand_ins = stand_ins - CASE WHEN carrier = \$2 THEN 1 ELSE 0 END/stand_ins = stand_ins/' \
    ledger::postgres::a_fingerprint_has

suite "acceptance: every floor raises the period, whatever its meter" $rules/lots.rs \
    's/filter\(\|lot\| lot\.meter\(\) == meter\)/filter(|lot| lot.source == Source::Period || lot.meter() == meter)/' \
    "$(both an_accepted_ledger_starts)"
suite "acceptance: overage is no use" $rules/floors.rs \
    's/map\(Lot::used\)/map(|lot| lot.consumed)/' "$(both an_accepted_ledger_starts)"
mutant "acceptance: what is raised counts as overage" $rules/floors.rs \
    's/lot\.take_in\(by, overage\);/{ let _ = overage; lot.take_in(by, Overage::Allow) };/' ledger::rules::floors
suite "acceptance: a parent starts from less than its children" $rules/floors.rs \
    's/\((within\.map\(\|child\| child\.by\)\.sum::<i64>\(\) - parent\.by)\)\.max\(0\)/0 * ($1)/' \
    "$(both an_accepted_account_has)"
suite "acceptance: top-ups since a status are not added" $rules/lots.rs \
    's/left: left\.saturating_add\((sources::came_between\(terms, at, now\))\)/left: left + 0 * $1/' \
    "$(both top_ups_since)"
suite "acceptance: SQLite forgets what is known of an entry that comes later" $sqlite/floors.rs \
    's/(for floor in floors\.iter\(\)\.filter\(\|floor\|) floor\.is_running\(now\)/$1 !floor.is_running(now)/' \
    ledger::sqlite::what_is_known_of
suite "acceptance: PostgreSQL forgets what is known of an entry that comes later" $postgres/floors.rs \
    's/floor\.is_running\(tx\.now\)/!floor.is_running(tx.now)/' ledger::postgres::what_is_known_of
suite "acceptance: SQLite does not count what was raised for a limit that comes later" $sqlite/floors.rs \
    's/if lot\.source == Source::Period \{/if lot.source == Source::Period \&\& *by < 0 {/' ledger::sqlite::random_histories
suite "acceptance: PostgreSQL does not count what was raised for a limit that comes later" $postgres/floors.rs \
    's/raised\.lot\.source == Source::Period\)/raised.lot.source == Source::Period \&\& raised.by < 0)/' \
    ledger::postgres::random_histories
mutant "acceptance: the money that a status shows raises nothing" src/operator/tasks/rebuild.rs \
    's/(Meter::AccountSpend, Bound::UsedAtLeast\()micro\)/${1}0 * micro)/' operator::tasks::rebuild

suite "nobody is refused for good: nothing is under way" $rules/pending.rs \
    's/\*pending = rows\.would_pass/*pending = false \&\& rows.would_pass/' "$(both nobody_is_refused)"
suite "nobody is refused for good: one limit that gets credits back is enough" src/domain/credit/decide/mod.rs \
    's/(rows\.shortage\(charge\)\.is_none\(\))\n/$1 || !returned.is_empty()\n/' "$(both every_limit_that)"
suite "nobody is refused for good: SQLite forgets what is unknown and under way" $sqlite/charge.rs \
    's/o\.outcome = .unknown./o.outcome = \x27none\x27/' ledger::sqlite::what_is_on_its_way
suite "nobody is refused for good: PostgreSQL forgets what is unknown and under way" $postgres/reserve.rs \
    's/o\.outcome = 4 AND NOT/o.outcome = 4 AND false AND NOT/' ledger::postgres::what_is_on_its_way

suite "refused mail: SQLite does not count it" $sqlite/charge.rs \
    's/self\.count_refused\(&refused\)\?;/{ let _ = refused; self.count_refused(\&BTreeMap::new())? };/' \
    ledger::sqlite::an_account_may_have
suite "refused mail: PostgreSQL does not count it" $postgres/refusals.rs \
    's/if messages\.is_empty\(\) \{/if messages.len() < usize::MAX {/' ledger::postgres::an_account_may_have
suite "refused mail: PostgreSQL takes a batch that fits from an account that is shut" $postgres/reserve.rs \
    's/arrival > least/false AND arrival > least/' ledger::postgres::an_account_may_have
suite "refused mail: nobody is shut" src/domain/credit/refused.rs \
    's/\(now < retry_at && /(now < retry_at \&\& retry_at < now \&\& /' "$(both an_account_may_have)"
suite "refused mail: an account is shut for as long as it takes" src/domain/credit/refused.rs \
    's/later\(arrival, more\)\.min\(latest\)/later(arrival, more).min(latest.max(Timestamp::MAX))/' \
    "$(both nobody_waits_longer)"
suite "refused mail: who has much accepted may have no more refused" src/domain/credit/refused.rs \
    's/u32::try_from\(used\.max\(0\)\)/u32::try_from(used.min(0))/' "$(both who_has_much)"

# What keeps a tenant from minting, stripping and acting as others. The random tenant must find each.
export TENANT_MINUTES=${TENANT_MINUTES:-60} TENANT_SEED=${TENANT_SEED:-1000}
admission=charts/franking/templates/admission.yaml
random=tenants::random

whole "tenants: a field that a plan requires may be left out" src/crd/account_terms.rs \
    's/Some\(Requirement::Required\) => true/Some(Requirement::Required) => false/' $random
whole "tenants: anybody takes the finalizer off" $admission 's/!variables\.letGo \|\|/true ||/' $random
# Where admission is in force no tenant gets here: the test takes the finalizer as an administrator.
whole "tenants: what vanishes is not written off" src/operator/tasks/write_off.rs \
    's/(if loss\(context, what, holder\)\.await\?\.is_none\(\)) \{/$1 || true {/' operator::orphans::keys_and_accounts
whole "tenants: a limit of another period begins with nothing used" src/ledger/rules/lots.rs \
    's/(fn cut\(.*?limit\.credits, overage, )used\)/${1}0)/s' $random
whole "tenants: money is counted only where it is limited" src/ledger/rules/holding.rs \
    's/terms\.priced \|\| terms\.spend_limit/terms.spend_limit/' $random
whole "tenants: an account that moves away leaves its place free" src/domain/directory/entry.rs \
    's/departed\(&self\.departures, self\.policy, self\.removed_at\.unwrap_or\(now\)\)/{ let _ = now; Vec::new() }/' $random
whole "tenants: an account that is removed leaves its place free" src/operator/state/ledger_client.rs \
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
whole "tenants: the account does not narrow its keys" src/relay/auth.rs \
    's/account\.allowed_senders\.as_deref\(\)/account.allowed_senders.as_deref().and(None)/' $random
# No tenant replaces a ledger, so these are found by the engines' tests and by one that replaces it.
suite "tenants, SQLite: an accepted ledger does not start from what was used" src/ledger/rules/floors.rs \
    's/let by = room\.min\(missing\);/let by = 0 * room.min(missing);/' ledger::sqlite::
suite "tenants, PostgreSQL: a floor of any meter raises the period" src/ledger/postgres/floors.rs \
    's/of_holder\.raise\(floor, /of_holder.raise(&Floor { meter: Meter::AccountCap, ..**floor }, /' ledger::postgres::
suite "tenants: an accepted account does not start from the sum of its keys" src/ledger/rules/floors.rs \
    's/within\.map\(\|child\| child\.by\)\.sum::<i64>\(\)/within.map(|_| 0).sum::<i64>()/' ledger::sqlite::
whole "tenants: what is deleted while the ledger is held is forgotten" src/operator/tasks/rebuild.rs \
    's/for (account|key) in references\.(\w+)\.state\(\) \{/for $1 in references.$2.state().into_iter().filter(|o| is_live(o.as_ref())) {/g' \
    replaced::nothing_is_refilled

if ((survived)); then
    echo "no test misses a rule that says SURVIVED" >&2
    exit 1
fi
