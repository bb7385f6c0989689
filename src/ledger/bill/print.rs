//! A bill as text.

use std::fmt::Write as _;

use serde_json::json;

use super::Statement;
use crate::domain::cost::{Line, Payer};
use crate::domain::money::amount;

impl Statement {
    /// Returns the namespace and name of a line; an account that was purged has neither.
    fn names(&self, line: &Line) -> (&str, &str) {
        let Payer::Account(id) = line.payer else { return ("", "") };
        self.accounts.get(&id).map_or(("", ""), |entry| (&entry.namespace, &entry.name))
    }

    fn kind(&self, line: &Line) -> &'static str {
        match line.payer {
            Payer::Parent => "parent",
            Payer::Account(id) if self.removed(id) => "removed",
            Payer::Account(_) => "account",
        }
    }

    /// Prints a table for people.
    pub fn table(&self) -> String {
        let terms = &self.terms;
        let mut text = format!(
            "{} {} ({} to {}), amounts in {}\n\n",
            self.policy, terms.period, terms.from, terms.to, terms.currency
        );
        let mut row = |kind: &str, who: &str, credits: &dyn std::fmt::Display, amount: &dyn std::fmt::Display| {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{kind:<8} {who:<50} {credits:>15} {amount:>15}");
        };
        row("KIND", "ACCOUNT", &"CREDITS", &"AMOUNT");
        for line in &self.bill.lines {
            let who = match (line.payer, self.names(line)) {
                (Payer::Parent, _) => String::new(),
                (Payer::Account(id), (_, "")) => id.to_string(),
                (Payer::Account(_), (namespace, name)) => format!("{namespace}/{name}"),
            };
            row(self.kind(line), &who, &line.credits, &amount(line.amount_minor, &terms.currency));
        }
        row("total", "", &self.bill.credits, &amount(self.bill.total_minor, &terms.currency));
        text
    }

    /// Prints one JSON object.
    pub fn json(&self) -> String {
        let lines = self.bill.lines.iter().map(|line| {
            let (namespace, name) = self.names(line);
            let id = match line.payer {
                Payer::Account(id) => Some(id),
                Payer::Parent => None,
            };
            json!({
                "kind": self.kind(line), "accountId": id, "namespace": namespace, "name": name,
                "credits": line.credits, "amountMinor": line.amount_minor,
            })
        });
        let terms = &self.terms;
        let bill = json!({
            "policy": self.policy, "policyId": terms.policy, "period": terms.period,
            "from": terms.from, "to": terms.to, "currency": terms.currency,
            "basePriceMinor": terms.base_price_minor, "pricePerThousandMinor": terms.price_per_thousand_minor,
            "credits": self.bill.credits, "totalMinor": self.bill.total_minor, "lines": lines.collect::<Vec<_>>(),
        });
        format!("{bill:#}\n")
    }

    /// Prints CSV. Names are names of Kubernetes objects, so nothing has to be quoted.
    pub fn csv(&self) -> String {
        let mut text = "policy,period,kind,account_id,namespace,name,credits,amount_minor,currency\r\n".to_owned();
        for line in &self.bill.lines {
            let id = match line.payer {
                Payer::Account(id) => id.to_string(),
                Payer::Parent => String::new(),
            };
            let ((namespace, name), terms) = (self.names(line), &self.terms);
            let _ = write!(
                text,
                "{},{},{},{id},{namespace},{name},{},{},{}\r\n",
                self.policy,
                terms.period,
                self.kind(line),
                line.credits,
                line.amount_minor,
                terms.currency
            );
        }
        text
    }
}
