//! The ledger's IDs of the objects that were reconciled and still exist, and the way back from an ID to its object.

use std::collections::HashMap;

use parking_lot::Mutex;
use uuid::Uuid;

use crate::domain::id::Holder;
use crate::operator::error::{Error, Result};
use crate::operator::object_ref::Ref;
use crate::operator::state::ledger_client::LedgerClient;
use crate::operator::watch::references::References;

#[derive(Default)]
pub struct RegisteredIds(Mutex<Tables>);

#[derive(Default)]
struct Tables {
    /// The ID of each object, with the UID of its namespace at that time.
    ids: HashMap<Ref, (String, Uuid)>,
    /// The object of each holder in the ledger.
    objects: HashMap<Holder, Ref>,
}

impl RegisteredIds {
    /// Returns the ID of `what` in the namespace with this UID, asking the ledger the first time.
    pub async fn id(&self, ledger: &LedgerClient, what: &Ref, namespace_uid: &str) -> Result<Uuid> {
        if let Some(id) = self.known(what, namespace_uid) {
            return Ok(id);
        }
        let id = identify(ledger, what, namespace_uid).await?;
        self.0.lock().ids.insert(what.clone(), (namespace_uid.to_owned(), id));
        Ok(id)
    }

    fn known(&self, what: &Ref, namespace_uid: &str) -> Option<Uuid> {
        let tables = self.0.lock();
        tables.ids.get(what).filter(|(uid, _)| uid == namespace_uid).map(|(_, id)| *id)
    }

    /// Returns the holder of `what` and remembers its object.
    pub async fn holder(
        &self,
        ledger: &LedgerClient,
        references: &References,
        what: Ref,
        namespace_uid: &str,
    ) -> Result<Holder> {
        let holder = Holder::new(what.kind(), self.id(ledger, &what, namespace_uid).await?);
        let is_new = self.0.lock().objects.insert(holder, what.clone()).is_none();
        // Figures that changed before the holder's object was known are processed now.
        if is_new {
            references.recount(what);
        }
        Ok(holder)
    }

    /// Returns the object of a holder, if it was reconciled.
    pub fn object_of(&self, holder: Holder) -> Option<Ref> {
        self.0.lock().objects.get(&holder).cloned()
    }

    /// Returns the holder of an object that was reconciled in its namespace as it is now.
    pub fn holder_of(&self, references: &References, what: &Ref) -> Option<Holder> {
        let (uid, id) = self.0.lock().ids.get(what).cloned()?;
        let namespace = &what.name().namespace;
        let is_current = namespace.is_empty() || references.namespace(namespace)?.metadata.uid.as_ref()? == &uid;
        is_current.then(|| Holder::new(what.kind(), id))
    }

    pub fn forget(&self, what: &Ref) {
        let mut tables = self.0.lock();
        if let Some((_, id)) = tables.ids.remove(what) {
            tables.objects.remove(&Holder::new(what.kind(), id));
        }
    }

    /// Forgets everything: another ledger has other IDs.
    pub fn forget_all(&self) {
        *self.0.lock() = Tables::default();
    }
}

/// Asks the ledger for the ID of `what` in the namespace with this UID. The ledger makes one if there is none.
pub async fn identify(ledger: &LedgerClient, what: &Ref, namespace_uid: &str) -> Result<Uuid> {
    let identified = ledger.identify(what.kind(), namespace_uid, &what.name().name);
    identified.await.map_err(Error::ledger("identifying an object"))
}
