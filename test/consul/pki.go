package consul

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/test/require"
)

// PKI is a certificate authority whose certificates are files.
type PKI struct {
	CA string // the authority's certificate

	dir  string
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewPKI creates an authority in a folder.
func NewPKI(tb testing.TB, dir string) *PKI {
	tb.Helper()
	require.NoError(tb, os.MkdirAll(dir, 0o700))
	p := &PKI{CA: filepath.Join(dir, "ca.pem"), dir: dir, key: newKey(tb)}
	t := template("test authority")
	t.IsCA, t.BasicConstraintsValid, t.KeyUsage = true, true, x509.KeyUsageCertSign
	der := sign(tb, t, t, &p.key.PublicKey, p.key)
	var err error
	if p.cert, err = x509.ParseCertificate(der); err != nil {
		tb.Fatal(err)
	}
	writePEM(tb, p.CA, "CERTIFICATE", der)
	return p
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(tb, err)
	return k
}

func template(name string) *x509.Certificate {
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		panic(err) // crypto/rand never fails
	}
	return &x509.Certificate{
		SerialNumber: n, Subject: pkix.Name{CommonName: name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

func sign(tb testing.TB, t, parent *x509.Certificate, pub *ecdsa.PublicKey, key *ecdsa.PrivateKey) []byte {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, t, parent, pub, key)
	require.NoError(tb, err)
	return der
}

// Issue creates a certificate for a client with a name. With an address, it is also valid for a server there.
func (p *PKI) Issue(tb testing.TB, name, ip string) (certFile, keyFile string) {
	tb.Helper()
	t := template(name)
	t.KeyUsage = x509.KeyUsageDigitalSignature
	t.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}
	t.DNSNames = []string{name}
	if ip != "" {
		t.IPAddresses = []net.IP{net.ParseIP(ip)}
	}
	key := newKey(tb)
	certFile, keyFile = filepath.Join(p.dir, name+".pem"), filepath.Join(p.dir, name+"-key.pem")
	writePEM(tb, certFile, "CERTIFICATE", sign(tb, t, p.cert, &key.PublicKey, p.key))
	der, err := x509.MarshalECPrivateKey(key)
	require.NoError(tb, err)
	writePEM(tb, keyFile, "EC PRIVATE KEY", der)
	return certFile, keyFile
}

func writePEM(tb testing.TB, file, kind string, der []byte) {
	tb.Helper()
	require.NoError(tb, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600))
}

// client returns the TLS configuration with which the harness itself asks servers of the authority.
func (p *PKI) client(tb testing.TB) *tls.Config {
	tb.Helper()
	certFile, keyFile := p.Issue(tb, "harness", "")
	pair, err := tls.LoadX509KeyPair(certFile, keyFile)
	require.NoError(tb, err)
	pool := x509.NewCertPool()
	pool.AddCert(p.cert)
	return &tls.Config{RootCAs: pool, Certificates: []tls.Certificate{pair}}
}
