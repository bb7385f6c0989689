package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// How long the certificates of a run are good: longer than anybody leaves a demo running.
const certificateLife = 30 * 24 * time.Hour

// A certificate authority for one run. P-256, because it is made in microseconds and every TLS library takes it.
type authority struct {
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	pem         []byte
}

func newAuthority() (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certificateTemplate(pkix.Name{CommonName: "cluster-ca"})
	template.IsCA = true
	template.BasicConstraintsValid = true
	template.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{certificate, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

// server issues the certificate that kube-apiserver shows on loopback.
func (a *authority) server() (certificate, key []byte, err error) {
	template := certificateTemplate(pkix.Name{CommonName: "kube-apiserver"})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	template.DNSNames = []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"}
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	return a.issue(template)
}

// client issues a client certificate; Kubernetes reads the user from CN and the group from O.
func (a *authority) client(user, group string) (certificate, key []byte, err error) {
	template := certificateTemplate(pkix.Name{CommonName: user, Organization: []string{group}})
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	return a.issue(template)
}

func (a *authority) issue(template *x509.Certificate) (certificate, key []byte, err error) {
	private, encoded, err := newKey()
	if err != nil {
		return nil, nil, err
	}
	template.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, private.Public(), a.key)
	if err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), encoded, nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func certificateTemplate(subject pkix.Name) *x509.Certificate {
	// 64 random bits: serials need only differ within one run.
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
	now := time.Now()
	return &x509.Certificate{
		SerialNumber: serial,
		Subject:      subject,
		// Back-dated, because a test may run with a clock that is a little behind.
		NotBefore: now.Add(-time.Hour),
		NotAfter:  now.Add(certificateLife),
	}
}

// writePKI makes every key of a run under pki/ and the kubeconfig of an admin beside it.
func writePKI(dir string, apiPort int) error {
	ca, err := newAuthority()
	if err != nil {
		return fmt.Errorf("making the certificate authority: %w", err)
	}
	serverCertificate, serverKey, err := ca.server()
	if err != nil {
		return fmt.Errorf("making the server certificate: %w", err)
	}
	adminCertificate, adminKey, err := ca.client("cluster-admin", "system:masters")
	if err != nil {
		return fmt.Errorf("making the admin certificate: %w", err)
	}
	tokenPrivate, tokenKey, err := newKey()
	if err != nil {
		return fmt.Errorf("making the service account key: %w", err)
	}
	// kube-apiserver wants the public half on its own: it does not find it in a PKCS #8 key.
	tokenPublic, err := x509.MarshalPKIXPublicKey(tokenPrivate.Public())
	if err != nil {
		return fmt.Errorf("encoding the service account key: %w", err)
	}
	for name, content := range map[string][]byte{
		"pki/ca.crt":              ca.pem,
		"pki/server.crt":          serverCertificate,
		"pki/server.key":          serverKey,
		"pki/admin.crt":           adminCertificate,
		"pki/admin.key":           adminKey,
		"pki/service-account.key": tokenKey,
		"pki/service-account.pub": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: tokenPublic}),
		"kubeconfig":              kubeconfig(apiPort, ca.pem, adminCertificate, adminKey),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func kubeconfig(apiPort int, ca, certificate, key []byte) []byte {
	encode := base64.StdEncoding.EncodeToString
	return fmt.Appendf(nil, `apiVersion: v1
kind: Config
current-context: test
contexts:
- name: test
  context: {cluster: test, user: admin, namespace: default}
clusters:
- name: test
  cluster:
    server: https://127.0.0.1:%d
    certificate-authority-data: %s
users:
- name: admin
  user:
    client-certificate-data: %s
    client-key-data: %s
`, apiPort, encode(ca), encode(certificate), encode(key))
}
