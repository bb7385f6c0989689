//! Names and constants that the fleet's settings and its objects share.

/// The entries of the ConfigMap, and of the Secret that keeps the last good ones.
pub const RELAY_SETTINGS: &str = "relay-settings.yaml";
pub const PODS: &str = "pods.yaml";
/// Folder of the certificate in the pod.
pub const TLS_FOLDER: &str = "/etc/franking/tls";
/// Time between a pod's removal from the Service and the moment it stops accepting connections: kube-proxy follows the
/// endpoints within a second or two, external load balancers a little later.
pub const PRE_STOP_SECONDS: u32 = 5;
