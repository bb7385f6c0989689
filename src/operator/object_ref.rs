//! Object names: within a kind, and across the three kinds.

use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt as _};

use crate::domain::id::Kind;

/// Namespace and name; the namespace of a cluster-scoped object is empty.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    pub namespace: String,
    pub name: String,
}

impl Name {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }

    pub fn of<K: Resource>(object: &K) -> Self {
        Self::new(object.meta().namespace.clone().unwrap_or_default(), object.name_any())
    }

    /// Returns the object's key in a store.
    pub fn object_ref<K: Resource<DynamicType = ()>>(&self) -> ObjectRef<K> {
        let object = ObjectRef::new(&self.name);
        if self.namespace.is_empty() { object } else { object.within(&self.namespace) }
    }

    /// Returns the namespace, by which work is shared out fairly. A cluster-scoped object counts by its own name.
    pub fn tenant(&self) -> &str {
        if self.namespace.is_empty() { &self.name } else { &self.namespace }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { f.write_str(&self.name) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// A reference to an object of one of the three kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ref {
    Policy(Name),
    Account(Name),
    Key(Name),
}

impl Ref {
    pub fn kind(&self) -> Kind {
        match self {
            Self::Policy(_) => Kind::Policy,
            Self::Account(_) => Kind::Account,
            Self::Key(_) => Kind::Key,
        }
    }

    pub fn name(&self) -> &Name {
        match self {
            Self::Policy(name) | Self::Account(name) | Self::Key(name) => name,
        }
    }
}
