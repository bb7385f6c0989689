//! Tests of status writes.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::{Method, Request, Response};
use kube::client::Body;

use super::*;
use crate::crd::{SubAccountApiKey, SubAccountApiKeyStatus};
use crate::operator::error::Deposed;

/// Runs a write against an API server with one key: `conflicts` versions that it refuses, and the UID that it then has.
async fn written(
    conflicts: usize,
    uid: &'static str,
    leads: impl Fn() -> Result<()> + Send + Sync,
) -> (Result<Option<SubAccountApiKey>>, usize) {
    let object = |uid: &str, version: usize| {
        json!({
            "apiVersion": "franking.io/v1alpha1", "kind": "SubAccountApiKey",
            "metadata": {"name": "key", "namespace": "team", "uid": uid, "resourceVersion": version.to_string()},
            "spec": {"subAccountRef": {"name": "shop"}}
        })
    };
    let patches = Arc::new(AtomicUsize::new(0));
    let counted = patches.clone();
    let answer = move |request: Request<Body>| {
        let counted = counted.clone();
        async move {
            let (status, body) = if request.method() == Method::PATCH {
                let tried = counted.fetch_add(1, Ordering::SeqCst);
                let body = request.into_body().collect_bytes().await.expect("a body");
                let patch: Value = serde_json::from_slice(&body).expect("JSON");
                assert_eq!(patch["metadata"], json!({"uid": "u", "resourceVersion": tried.to_string()}));
                match tried < conflicts {
                    true => (409, json!({"kind": "Status", "status": "Failure", "code": 409, "message": "changed"})),
                    false => (200, object(uid, tried + 1)),
                }
            } else {
                (200, object(uid, counted.load(Ordering::SeqCst)))
            };
            let body = Body::from(body.to_string().into_bytes());
            Ok::<_, Infallible>(Response::builder().status(status).body(body).expect("an answer"))
        }
    };
    let client = Client::new(tower::service_fn(answer), "default");
    let report = Report::new(client, &Registry::new(), AccountMetrics::All);
    let key: SubAccountApiKey = serde_json::from_value(object("u", 0)).expect("a key");
    let next = SubAccountApiKeyStatus { key_id: Some("id".to_owned()), ..SubAccountApiKeyStatus::default() };
    let answer = report.status(&key, &next, leads).await;
    (answer, patches.load(Ordering::SeqCst))
}

#[tokio::test]
async fn a_status_that_meets_another_version_is_written_over_that_one() {
    let (answer, patches) = written(2, "u", || Ok(())).await;
    assert!(answer.expect("it is written").is_some() && patches == 3);
    let (answer, patches) = written(1, "another", || Ok(())).await;
    assert!(answer.expect("nobody is told").is_none() && patches == 1, "a new object of the same name");
    let (answer, patches) = written(usize::MAX, "u", || Ok(())).await;
    assert!(matches!(answer, Err(Error::Contended)) && patches == STATUS_TRIES);
}

#[tokio::test]
async fn an_operator_that_does_not_lead_any_more_writes_no_status() {
    let deposed = || Err(Error::Deposed(Deposed));
    let (answer, patches) = written(0, "u", deposed).await;
    assert!(answer.is_err_and(|error| error.is_fenced()) && patches == 0);
    // The lease may be lost between the first try and the next.
    let asked = AtomicUsize::new(0);
    let once = || if asked.fetch_add(1, Ordering::SeqCst) == 0 { Ok(()) } else { deposed() };
    let (answer, patches) = written(1, "u", once).await;
    assert!(answer.is_err_and(|error| error.is_fenced()) && patches == 1);
}

#[test]
fn a_merge_patch_names_what_changed_and_what_is_gone() {
    let cases = [
        (json!(null), json!({"a": 1}), json!({"a": 1})),
        (json!({"a": 1, "b": 2}), json!({"a": 1}), json!({"b": null})),
        (
            json!({"a": {"x": 1, "y": 2}, "c": [1]}),
            json!({"a": {"x": 3}, "c": [1, 2]}),
            json!({"a": {"x": 3, "y": null}, "c": [1, 2]}),
        ),
        (json!({"a": 1}), json!({"a": 1}), json!({})),
    ];
    for (before, after, patch) in cases {
        assert_eq!(merge_patch(&before, after), patch);
    }
}
