package daemon

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic/restictest"
	testconsul "github.com/droverhq/drover/test/consul"
)

// An agent of a cluster serves a repository by a grant that an operator created at control. While no replica of control
// answers, it refuses the grant, and accepts it again afterwards. A grant that was
// removed is refused.
func TestAgentServesRepositories(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{})
	l := newLab(t)
	replica := l.control("c1", c.Addresses())
	up := l.start(Control, replica)
	o := l.agent("n1", replica)
	o.Remotes = listener(t)
	l.start(Agent, o)

	team := filepath.Join(l.dir, "team")
	restictest.Make(t, team, "password")
	const secret = "drover-grant-of-the-test"
	sum := sha256.Sum256([]byte(secret))
	users := l.ask(replica.controlSocket())
	if _, err := users.AddRepository(soon(t), api.NewRepository{
		Name: "team", URL: team, Password: dataset.PasswordSource{File: "/etc/drover/team"},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := users.AddGrant(soon(t), api.NewGrant{
		Name: "ann", Repository: "team", SecretHash: hex.EncodeToString(sum[:]),
	}); err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(o.Root, "remotes", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS13}}
	t.Cleanup(transport.CloseIdleConnections)
	get := func() int {
		t.Helper()
		r, err := http.NewRequestWithContext(soon(t), http.MethodGet, "https://"+o.Remotes.Advertise+"/ann/config", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("ann", secret)
		res, err := transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	await := func(status int) {
		t.Helper()
		got := get()
		for end := time.Now().Add(30 * time.Second); got != status && time.Now().Before(end); got = get() {
			time.Sleep(100 * time.Millisecond)
		}
		if got != status {
			t.Fatalf("got status %d, want %d", got, status)
		}
	}
	if got := get(); got != http.StatusOK {
		t.Fatalf("got status %d", got)
	}
	up.end(t)
	await(http.StatusServiceUnavailable)
	l.start(Control, replica)
	await(http.StatusOK)
	if err := l.ask(replica.controlSocket()).RemoveGrant(soon(t), "ann"); err != nil {
		t.Fatal(err)
	}
	await(http.StatusUnauthorized)
}
