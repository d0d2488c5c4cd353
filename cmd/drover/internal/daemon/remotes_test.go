package daemon

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
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

// remotesRecords has one grant. It implements remoteserver.Records.
type remotesRecords struct {
	grant      dataset.Grant
	repository dataset.Repository
}

func (r remotesRecords) Grants(context.Context) ([]dataset.Grant, error) {
	return []dataset.Grant{r.grant}, nil
}

func (r remotesRecords) Repositories(context.Context) ([]dataset.Repository, error) {
	return []dataset.Repository{r.repository}, nil
}

// The holder of a valid token keeps its connection while strangers open more connections than are allowed. A client
// with a wrong secret stays a stranger. The log says that the closed connections had no valid token.
func TestStrangersCloseNoConnectionOfAGrant(t *testing.T) {
	dir := t.TempDir()
	team := filepath.Join(dir, "team")
	restictest.Make(t, team, "password")
	const secret = "drover-grant-of-the-test"
	sum := sha256.Sum256([]byte(secret))
	log, lines := logtest.NewNullLogger()
	p := &process{Options: Options{Log: log, Root: dir, Remotes: listener(t)}, clock: clock.System{}}
	list, err := p.remotes(t.Context(), remotesRecords{
		dataset.Grant{Name: "ann", Repository: "team", SecretHash: hex.EncodeToString(sum[:])},
		dataset.Repository{Name: "team", URL: team},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.closeAll() })
	var serving sync.WaitGroup
	serving.Go(func() { _ = list[0].server.Serve(list[0].Listener) })
	t.Cleanup(func() { _ = list[0].server.(*http.Server).Close(); serving.Wait() })
	connect := func(secret string) (get func() (status int, reused bool)) {
		transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
		t.Cleanup(transport.CloseIdleConnections)
		return func() (status int, reused bool) {
			t.Helper()
			ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
				GotConn: func(g httptrace.GotConnInfo) { reused = g.Reused },
			})
			r, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+p.Remotes.Address+"/ann/config", http.NoBody)
			if err != nil {
				t.Fatal(err)
			}
			r.SetBasicAuth("ann", secret)
			res, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			_, _ = io.Copy(io.Discard, res.Body)
			return res.StatusCode, reused
		}
	}
	ann, other := connect(secret), connect("wrong")
	if status, _ := ann(); status != http.StatusOK {
		t.Fatalf("got status %d", status)
	}
	if status, _ := other(); status != http.StatusUnauthorized {
		t.Fatalf("a wrong secret: got status %d", status)
	}
	for range maxRemotes + 10 {
		c, err := net.Dial("tcp", p.Remotes.Address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
	}
	for end := time.Now().Add(10 * time.Second); lines.LastEntry() == nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	if status, reused := ann(); status != http.StatusOK || !reused {
		t.Errorf("the connection with a valid token: status %d, reused %t", status, reused)
	}
	if _, reused := other(); reused {
		t.Error("a client with a wrong secret kept its connection")
	}
	want := "too many connections of clients without a valid token (limit 256)"
	for _, e := range lines.AllEntries() {
		if strings.HasPrefix(e.Message, want) {
			return
		}
	}
	t.Errorf("the log has no line %q: %v", want, lines.AllEntries())
}
