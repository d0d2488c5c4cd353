// Package backupserver starts real servers of repositories for backups on loopback: an S3 server (versitygw, of the
// version that tools/versitygw pins), a server of restic's REST protocol (rclone), both with TLS, and an SSH server
// with OpenSSH's sftp-server. Packages test/product and internal/restic call it.
//
// A [Server] owns its process, its folder and, for S3 and REST, a proxy before the process, which a test can make fail.
// A server belongs to one test, and ends with it. Fail may be called at any time, also while requests run: an atomic
// pointer holds the fault. Only one goroutine at a time may call Stop and Start. The SSH server has no process and no
// proxy, so Start, Stop and Fail do not apply to it.
package backupserver

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/require"
)

// Fault decides how the proxy answers a request. It returns false to pass the request on to the server.
type Fault func(w http.ResponseWriter, r *http.Request) bool

// Server is a running server of repositories.
type Server struct {
	URL  string   // of a repository that does not exist yet
	Env  []string // variables that Drover needs in its environment to reach the server
	Data string   // the folder with the files of the repositories
	// CredentialsFile is the file with the keys of an S3 server or the password of a REST server; or "".
	CredentialsFile string

	dir   string
	spec  child.Spec
	addr  string
	proc  *child.Process
	fault atomic.Pointer[Fault]
}

// The keys of the S3 server.
const (
	accessKey = "drover"
	secretKey = "a secret of the test"
)

// S3 starts an S3 server with TLS.
func S3(t testing.TB) *Server {
	t.Helper()
	s := newServer(t)
	const keys = "[default]\naws_access_key_id = %s\naws_secret_access_key = %s\n"
	s.CredentialsFile = s.write(t, "credentials", fmt.Sprintf(keys, accessKey, secretKey))
	program, err := engine.Script("tools.sh", "versitygw")
	require.NoError(t, err)
	s.spec = child.Spec{
		Args: []string{program, "--port", s.addr, "posix", s.Data},
		Env:  []string{"ROOT_ACCESS_KEY=" + accessKey, "ROOT_SECRET_KEY=" + secretKey},
	}
	if err := os.Mkdir(filepath.Join(s.Data, "backups"), 0o700); err != nil { // a bucket of versitygw
		t.Fatal(err)
	}
	s.Start(t)
	s.URL = "s3:" + s.proxy(t) + "/backups/drover"
	return s
}

// user is the user of PrivateREST, and Password the user's password at the server.
const (
	user     = "ann"
	Password = "a password of the test"
)

// PrivateREST starts a server of restic's REST protocol with TLS, which lets each user reach only the repositories
// below the folder of the user. flags are further options of rclone. CredentialsFile has the user, the password and the
// certificate of the server.
func PrivateREST(t testing.TB, flags ...string) *Server {
	t.Helper()
	s := newServer(t)
	s.spec = child.Spec{
		Args: slices.Concat([]string{
			"rclone", "serve", "restic", "--config", s.write(t, "rclone.conf", ""), "--addr", s.addr,
			"--private-repos", "--user", user, "--pass", Password,
		}, flags, []string{s.Data}),
	}
	s.Start(t)
	s.URL = "rest:" + s.proxy(t) + "/" + user + "/drover"
	ca, err := os.ReadFile(filepath.Join(s.dir, "ca.pem"))
	require.NoError(t, err)
	s.CredentialsFile = s.write(t, "credentials", user+":"+Password+"\n"+string(ca))
	s.Env = nil
	return s
}

// Start starts the process of an S3 or REST server, and waits until it accepts connections.
func (s *Server) Start(t testing.TB) {
	t.Helper()
	s.spec.Log = s.log()
	var err error
	if s.proc, err = child.Start(s.spec); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.addr)
		if err == nil {
			_ = conn.Close()
			return
		}
		if !s.proc.Running() || time.Now().After(end) {
			t.Fatalf("the server of repositories does not answer: %v", err)
		}
	}
}

// Stop ends the process of an S3 or REST server.
func (s *Server) Stop(t testing.TB) {
	t.Helper()
	if err := s.proc.End(syscall.SIGTERM, 10*time.Second); err != nil && s.proc.Running() {
		t.Fatalf("stop the server of repositories: %v", err)
	}
}

// Fail makes the proxy ask a fault about each request, until the next call. If f is nil, the proxy passes all requests
// on.
func (s *Server) Fail(f Fault) {
	if f == nil {
		s.fault.Store(nil)
		return
	}
	s.fault.Store(&f)
}

// newServer returns a server with a folder and a free address.
func newServer(t testing.TB) *Server {
	t.Helper()
	s := &Server{dir: t.TempDir()}
	s.Data = filepath.Join(s.dir, "data")
	require.NoError(t, os.Mkdir(s.Data, 0o700))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.addr = l.Addr().String()
	require.NoError(t, l.Close())
	t.Cleanup(func() {
		if s.proc.Running() {
			s.Stop(t)
		}
		if b, err := os.ReadFile(s.log()); err == nil && t.Failed() {
			t.Logf("the server of repositories logged:\n%s", b[max(0, len(b)-4096):])
		}
	})
	return s
}

// proxy starts a proxy with TLS before the server, and returns its URL. Env makes Drover trust its certificate.
func (s *Server) proxy(t testing.TB) string {
	t.Helper()
	to, err := url.Parse("http://" + s.addr)
	require.NoError(t, err)
	forward := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // part of the signature of a request to S3
	}}
	forward.ErrorHandler = func(http.ResponseWriter, *http.Request, error) {
		panic(http.ErrAbortHandler) // closes the connection
	}
	forward.ErrorLog, forward.FlushInterval = nil, -1
	proxy := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if f := s.fault.Load(); f != nil && (*f)(w, r) {
			return
		}
		forward.ServeHTTP(w, r)
	}))
	cert := certificate(t)
	proxy.TLS = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{cert}}
	proxy.StartTLS()
	t.Cleanup(proxy.Close)
	block := pem.Block{Type: "CERTIFICATE", Bytes: cert.Certificate[0]}
	ca := s.write(t, "ca.pem", string(pem.EncodeToMemory(&block)))
	s.Env = append(s.Env, "SSL_CERT_FILE="+ca)
	return proxy.URL
}

// certificate makes a self-signed certificate for 127.0.0.1.
func certificate(t testing.TB) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()),
		Subject:      pkix.Name{CommonName: "backupserver"},
		NotBefore:    time.Now().Add(-24 * time.Hour),
		NotAfter:     time.Now().Add(30 * 24 * time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
		IsCA:         true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (s *Server) log() string { return filepath.Join(s.dir, "log") }

// write writes a file of the server's folder, and returns its path.
func (s *Server) write(t testing.TB, name, content string) string {
	t.Helper()
	at := filepath.Join(s.dir, name)
	require.NoError(t, errors.Join(os.MkdirAll(filepath.Dir(at), 0o700), os.WriteFile(at, []byte(content), 0o600)))
	return at
}
