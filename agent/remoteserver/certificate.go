package remoteserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/durable"
	"github.com/droverhq/drover/internal/safefile"
)

// The files of an Authority. The first one has its certificate and its key. The second one has only the certificate:
// operators copy it to other clusters.
const (
	stateFile       = "ca-key.pem"
	certificateFile = "ca.pem"
)

// The validity of the certificate of an Authority, and of those that it issues. Each is valid from skew before its
// creation, for clocks that differ.
const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 30 * 24 * time.Hour
	skew          = 10 * time.Minute
)

// Authority issues the certificates of the server. restic verifies that a certificate has the name of the host. The
// certificates of a cluster's nodes must not have the name of a host: see pki.Authority. So each host that serves
// repositories has an authority of its own. Other clusters trust it only for the repositories of this host. Safe for
// concurrent use.
type Authority struct {
	host        string
	clock       clock.Clock
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate

	mu   sync.Mutex
	leaf *tls.Certificate // the present certificate; nil before the first connection
}

// OpenAuthority returns the authority of a folder. It makes the folder with mode 0700, and the authority, if they do
// not exist. host is the name or the IP address at which other clusters reach the server.
func OpenAuthority(dir, host string, clk clock.Clock) (*Authority, error) {
	a := &Authority{host: host, clock: clk}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, err
	}
	state := filepath.Join(dir, stateFile)
	text, err := safefile.ReadPrivate(state)
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = a.create(); err == nil {
			err = durable.Replace(state, text)
		}
	}
	if err == nil {
		err = a.parse(text)
	}
	if err != nil {
		return nil, fmt.Errorf("certificate for other clusters: %w", err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.certificate.Raw})
	return a, durable.Replace(filepath.Join(dir, certificateFile), public)
}

// ID identifies this authority, also after a restart. It has 16 hexadecimal digits.
func (a *Authority) ID() string {
	sum := sha256.Sum256(a.certificate.Raw)
	return hex.EncodeToString(sum[:8])
}

// create returns the content of the state file of a new authority.
func (a *Authority) create() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	begin := a.clock.Now().Add(-skew)
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"drover"}, CommonName: "drover remotes at " + a.host},
		NotBefore:    begin,
		NotAfter:     begin.Add(authorityLife),
		KeyUsage:     x509.KeyUsageCertSign,
		IsCA:         true, BasicConstraintsValid: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}),
		pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})...), nil
}

func serial() *big.Int {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand
	b[0] &= 0x7f
	return new(big.Int).SetBytes(b[:])
}

// parse reads the content of the state file.
func (a *Authority) parse(text []byte) error {
	damaged := func(why any) error {
		return dataset.Errorf(dataset.ErrCorrupt, "%s is damaged: %v (restore it from your copy; or remove it, and "+
			"give the other clusters the new %s)", stateFile, why, certificateFile)
	}
	first, rest := pem.Decode(text)
	if first == nil {
		return damaged("it has no certificate")
	}
	second, _ := pem.Decode(rest)
	if second == nil {
		return damaged("it has no key")
	}
	var err error
	if a.certificate, err = x509.ParseCertificate(first.Bytes); err != nil {
		return damaged(err)
	}
	key, err := x509.ParsePKCS8PrivateKey(second.Bytes)
	if err != nil {
		return damaged(err)
	}
	var ok bool
	if a.key, ok = key.(*ecdsa.PrivateKey); !ok || !a.key.PublicKey.Equal(a.certificate.PublicKey) {
		return damaged("the key is of another certificate")
	}
	return nil
}

// TLS returns the configuration of the server. restic speaks HTTP/1.1 with it: the windows of HTTP/2 are too small for
// connections with a long delay.
func (a *Authority) TLS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.present() },
	}
}

// present returns the present certificate. It issues a new one when a third of the validity remains.
func (a *Authority) present() (*tls.Certificate, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock.Now()
	if a.leaf != nil && now.Before(a.leaf.Leaf.NotAfter.Add(-leafLife/3)) && now.After(a.leaf.Leaf.NotBefore) {
		return a.leaf, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	begin := now.Add(-skew)
	template := &x509.Certificate{
		SerialNumber: serial(),
		Subject:      pkix.Name{Organization: []string{"drover"}, CommonName: a.host},
		NotBefore:    begin,
		NotAfter:     begin.Add(leafLife),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(a.host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{a.host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a.leaf = &tls.Certificate{Certificate: [][]byte{der, a.certificate.Raw}, PrivateKey: key, Leaf: leaf}
	return a.leaf, nil
}
