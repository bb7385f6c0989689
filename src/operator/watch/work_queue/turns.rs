//! Items in turn by tenant: one item of each tenant after the other, and each tenant's items by age.
//!
//! A tenant that adds a thousand items waits a thousand turns for the last of them; another waits one.

use std::collections::{BTreeMap, HashMap};

/// Queue in which each step takes logarithmic time in its items, however many tenants and items there are.
pub struct Turns<T> {
    tenants: HashMap<String, Line<T>>,
    /// Tenants that have items, by the number of their next turn.
    rota: BTreeMap<u64, String>,
    next_turn: u64,
}

struct Line<T> {
    turn: u64,
    /// The tenant's items by age: a smaller number is older.
    things: BTreeMap<u64, T>,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self { tenants: HashMap::new(), rota: BTreeMap::new(), next_turn: 0 }
    }
}

impl<T> Turns<T> {
    /// Adds an item under its age, which is unique within the tenant. A tenant without items goes behind the others.
    pub fn push(&mut self, tenant: &str, age: u64, thing: T) {
        if let Some(line) = self.tenants.get_mut(tenant) {
            line.things.insert(age, thing);
            return;
        }
        let turn = self.take_turn(tenant);
        self.tenants.insert(tenant.to_owned(), Line { turn, things: BTreeMap::from([(age, thing)]) });
    }

    /// Removes an item from its line, out of turn.
    pub fn remove(&mut self, tenant: &str, age: u64) -> Option<T> {
        let line = self.tenants.get_mut(tenant)?;
        let thing = line.things.remove(&age);
        if line.things.is_empty() {
            self.rota.remove(&line.turn);
            self.tenants.remove(tenant);
        }
        thing
    }

    /// Takes the oldest item of the next tenant among those that `may` have a turn.
    pub fn pop(&mut self, may: impl Fn(&str) -> bool) -> Option<T> {
        let tenant = self.rota.values().find(|tenant| may(tenant))?.clone();
        let line = self.tenants.get_mut(&tenant)?;
        let (_, thing) = line.things.pop_first()?;
        self.rota.remove(&line.turn);
        if line.things.is_empty() {
            self.tenants.remove(&tenant);
        } else {
            let turn = self.take_turn(&tenant);
            if let Some(line) = self.tenants.get_mut(&tenant) {
                line.turn = turn;
            }
        }
        Some(thing)
    }

    pub fn is_empty(&self) -> bool {
        self.rota.is_empty()
    }

    fn take_turn(&mut self, tenant: &str) -> u64 {
        self.next_turn += 1;
        self.rota.insert(self.next_turn, tenant.to_owned());
        self.next_turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn anyone(_: &str) -> bool {
        true
    }

    #[test]
    fn tenants_take_turns_and_each_is_served_in_order() {
        let mut turns = Turns::default();
        (0..3).for_each(|age| turns.push("many", age, format!("many-{age}")));
        turns.push("one", 3, "one-3".to_owned());
        turns.push("two", 5, "two-5".to_owned());
        turns.push("two", 4, "two-4".to_owned());
        let served: Vec<String> = std::iter::from_fn(|| turns.pop(anyone)).collect();
        assert_eq!(served, ["many-0", "one-3", "two-4", "many-1", "two-5", "many-2"]);
        assert!(turns.is_empty() && turns.tenants.is_empty());
    }

    #[test]
    fn a_tenant_that_comes_again_gains_nothing_by_it() {
        let mut turns = Turns::default();
        turns.push("waits", 0, "waits");
        turns.push("waits", 1, "waits");
        turns.push("comes and goes", 2, "comes");
        assert_eq!(turns.pop(anyone), Some("waits"));
        assert_eq!(turns.remove("comes and goes", 2), Some("comes"));
        turns.push("comes and goes", 3, "comes again");
        assert_eq!(turns.pop(anyone), Some("waits"));
    }

    #[test]
    fn who_may_not_have_a_turn_keeps_it() {
        let mut turns = Turns::default();
        turns.push("full", 0, "full");
        turns.push("other", 1, "other");
        assert_eq!(turns.pop(|tenant| tenant != "full"), Some("other"));
        assert_eq!(turns.pop(|tenant| tenant != "full"), None);
        assert_eq!(turns.pop(anyone), Some("full"));
    }

    #[test]
    fn what_was_taken_out_is_gone() {
        let mut turns = Turns::default();
        turns.push("a", 0, "first");
        turns.push("a", 1, "second");
        assert_eq!(turns.remove("a", 0), Some("first"));
        assert_eq!(turns.remove("a", 0), None);
        assert_eq!(turns.remove("b", 0), None);
        assert_eq!(turns.pop(anyone), Some("second"));
        assert!(turns.is_empty());
    }
}
