//! Mail comes in: SMTP, admission, forwarding. It never talks to Kubernetes.

pub mod smtp;
