package consul

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"sync"

	"github.com/droverhq/drover/dataset"
)

// credentials contain the ACL token. It never appears in an error.
type credentials struct {
	file string

	mu    sync.Mutex
	token string
}

func newCredentials(opts Options, hosts []*url.URL) (*credentials, error) {
	c := &credentials{file: opts.TokenFile, token: strings.TrimSpace(opts.Token)}
	if c.file != "" {
		var err error
		if c.token, err = c.read(); err != nil {
			return nil, err
		}
	}
	if !headerSafe(c.token) {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"consul: the token contains characters that no token has (correct the file or the variable that it comes "+
				"from)")
	}
	for _, u := range hosts {
		if c.token != "" && u.Scheme == "http" && !loopback(u.Hostname()) {
			return nil, dataset.Errorf(dataset.ErrInvalid,
				"consul: the token would cross the network in the clear to %s: want https there", u)
		}
	}
	return c, nil
}

func headerSafe(token string) bool {
	return !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' })
}

func loopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || host == "localhost"
}

func (c *credentials) read() (string, error) {
	b, err := os.ReadFile(c.file)
	if err != nil {
		return "", dataset.Errorf(dataset.ErrInvalid, "consul: token file: %w", err)
	}
	token := strings.TrimSpace(string(b))
	if token == "" {
		return "", dataset.Errorf(dataset.ErrInvalid, "consul: token file %s is empty", c.file)
	}
	return token, nil
}

func (c *credentials) current() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.token
}

// renewed reads the file again, and reports whether the present token now differs from the refused one. If the file
// cannot be read, the token stays unchanged.
func (c *credentials) renewed(refused string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.token != refused {
		return true // another goroutine has replaced it already
	}
	if c.file == "" {
		return false
	}
	token, err := c.read()
	if err != nil || token == refused || !headerSafe(token) {
		return false
	}
	c.token = token
	return true
}

// newTLS returns the TLS configuration for https addresses. The certificate is read at each handshake, so that a
// renewed one is used without a restart.
func newTLS(opts Options) (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: opts.ServerName}
	if opts.CAFile != "" {
		pem, err := os.ReadFile(opts.CAFile)
		if err != nil {
			return nil, dataset.Errorf(dataset.ErrInvalid, "consul: ca file: %w", err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, dataset.Errorf(dataset.ErrInvalid, "consul: ca file %s holds no certificate in PEM",
				opts.CAFile)
		}
	}
	if (opts.CertFile == "") != (opts.KeyFile == "") {
		return nil, dataset.Errorf(dataset.ErrInvalid,
			"consul: a certificate and its key belong together: one of them is missing")
	}
	if opts.CertFile == "" {
		return c, nil
	}
	load := func() (*tls.Certificate, error) {
		pair, err := tls.LoadX509KeyPair(opts.CertFile, opts.KeyFile)
		if err != nil {
			return nil, dataset.Errorf(dataset.ErrInvalid, "consul: certificate %s with key %s: %w", opts.CertFile,
				opts.KeyFile, err)
		}
		return &pair, nil
	}
	if _, err := load(); err != nil {
		return nil, err
	}
	c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := load()
		if err != nil {
			return nil, errors.Join(errHandshake, err)
		}
		return pair, nil
	}
	return c, nil
}

// errHandshake means that no connection was made because the certificate of this process cannot be read.
var errHandshake = errors.New("the certificate of this process cannot be read")
