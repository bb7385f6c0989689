//! The Secret of a device without TLS, and passwords that devices bring.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Scene, verdict};
use crate::runtime::fleet::PlainAddress;

fn data(scene: &Scene) -> BTreeMap<String, String> {
    let secret = scene.seen.secret.as_ref().expect("a secret");
    let data = secret.data.iter().flatten();
    data.map(|(key, value)| (key.clone(), String::from_utf8(value.0.clone()).expect("text"))).collect()
}

#[test]
fn only_a_key_for_the_plain_listener_learns_where_it_is() {
    let spec = |is_plain: bool| {
        json!({"plainListener": is_plain, "allowFrom": ["10.0.0.0/8"],
               "secret": {"template": {"server": "[{{ .plainHost }}]:{{ .plainPort }}"}}})
    };
    let mut scene = Scene::new(spec(true));
    let place = |scene: &mut Scene| {
        scene.settle();
        let mut data = data(scene);
        assert_eq!([&data["host"], &data["port"]], ["relay.example.com", "465"]);
        ["plain-host", "plain-port", "server"].map(|key| data.remove(key))
    };
    let some = |texts: [&str; 3]| texts.map(|text| Some(text.to_owned()));
    let none = [None, None, Some("[]:".to_owned())];
    // The relay has no such listener, gets one, and gets another port.
    assert_eq!(place(&mut scene), none);
    for port in [25, 2525] {
        scene.seen.endpoint.plain = Some(PlainAddress { host: "192.0.2.10".to_owned(), port });
        let port = port.to_string();
        assert_eq!(place(&mut scene), some(["192.0.2.10", &port, &format!("[192.0.2.10]:{port}")]));
    }
    let mut with_tls = Scene::new(spec(false));
    with_tls.seen.endpoint.plain.clone_from(&scene.seen.endpoint.plain);
    assert_eq!(place(&mut with_tls), none);
}

#[test]
fn no_secret_of_frankings_own_brings_a_password() {
    let bring = |name: &str, is_login: bool| -> String {
        let mut scene = Scene::new(json!({"secret": {"existing": {"name": name}}}));
        let found: Value = json!({"metadata": {"name": name, "namespace": "team", "labels": {"franking.io/use": "true"}},
                                  "data": {"password": "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5"}});
        scene.seen.existing = Some(serde_json::from_value(found).expect("a secret"));
        scene.seen.is_existing_a_login = is_login;
        let status = scene.settle().status.expect("a status");
        let works = scene.seen.entry.as_ref().is_some_and(|entry| !entry.credentials.is_empty());
        let (verdict, message) = (verdict(&status.conditions), status.conditions[0].message.clone());
        assert_eq!(works, verdict == "Ready", "{message}");
        verdict
    };
    assert_eq!(bring("pin", false), "Ready");
    assert_eq!(bring("franking-installation", false), "SecretInvalid!");
    assert_eq!(bring("provider-login", true), "SecretInvalid!");
}
