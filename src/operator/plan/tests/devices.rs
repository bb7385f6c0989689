//! The Secret of a device without TLS.

use std::collections::BTreeMap;

use serde_json::json;

use super::Scene;
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
