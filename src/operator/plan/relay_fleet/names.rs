//! Names and figures that the fleet's settings and its objects share.

/// The entries of the ConfigMap, and of the Secret that remembers the last good ones.
pub const RELAY_SETTINGS: &str = "relay-settings.yaml";
pub const PODS: &str = "pods.yaml";
/// Where the certificate is.
pub const TLS_FOLDER: &str = "/etc/franking/tls";
/// Between the end of a pod's being chosen by the Service and the end of its taking connections: kube-proxy follows the
/// endpoints within a second or two, balancers outside a little later.
pub const PRE_STOP_SECONDS: u32 = 5;
