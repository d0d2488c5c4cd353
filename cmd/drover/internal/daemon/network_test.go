package daemon

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/pki"
)

// aNetwork serves on a port, as control does, until the end of the test. Its handler accepts only peers with a
// certificate.
func aNetwork(t *testing.T) (address string, node *tls.Config) {
	t.Helper()
	clk := clock.System{}
	ca, err := pki.Create(filepath.Join(t.TempDir(), "ca"), clk.Now())
	if err != nil {
		t.Fatal(err)
	}
	credentials := func(id pki.Identity) *pki.Credentials {
		pair, err := ca.Issue(id, clk.Now())
		if err != nil {
			t.Fatal(err)
		}
		return pki.NewCredentials(pair, clk, nil)
	}
	own := credentials(pki.Identity{Kind: pki.Control, Name: "control"})
	log := logrus.New()
	log.SetOutput(io.Discard)
	p := &process{Options: Options{Log: log, Listen: &config.Listen{Address: "127.0.0.1:0"}}}
	handler := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := own.VerifyPeer(*r.TLS, pki.Node); err != nil {
			w.WriteHeader(http.StatusForbidden)
		}
	})
	e, err := p.network("network", own.UnverifiedServer(), handler, func(cs tls.ConnectionState) error {
		_, err := own.VerifyPeer(cs)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- e.server.Serve(e.Listener) }()
	t.Cleanup(func() {
		if err := e.server.(*http.Server).Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
	return e.Addr().String(), credentials(pki.Identity{Kind: pki.Node, Node: uuid.New(), Name: "node"}).Client(pki.Control)
}

func descriptors(t *testing.T) int {
	t.Helper()
	names, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(names)
}

// Strangers can hold as many connections as they can: idle, in the middle of a handshake or after it. They do not
// prevent a node from connecting, and they use no more descriptors than allowed.
func TestStrangersLockNoNodeOut(t *testing.T) {
	address, node := aNetwork(t)
	get := func(c *http.Client) (reused bool) {
		t.Helper()
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(g httptrace.GotConnInfo) { reused = g.Reused }})
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+address, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(req)
		if err != nil {
			t.Fatalf("a node is locked out: %v", err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			t.Fatalf("a node is answered %s", resp.Status)
		}
		return reused
	}
	kept := &http.Client{Transport: &http.Transport{TLSClientConfig: node}}
	defer kept.CloseIdleConnections()
	get(kept)

	const strangers = 2 * maxAnonymous
	before := descriptors(t)
	for i := range strangers {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		switch i % 16 {
		case 0: // the start of a handshake that never continues
			_, err = c.Write([]byte{22, 3, 1, 1, 0})
		case 1: // one without a certificate, and no request
			err = tls.Client(c, &tls.Config{InsecureSkipVerify: true}).HandshakeContext(t.Context())
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	fresh := &http.Client{Transport: &http.Transport{TLSClientConfig: node, DisableKeepAlives: true}}
	for range 50 {
		get(fresh)
	}
	if !get(kept) {
		t.Error("a node that was connected before lost its connection")
	}
	if held := descriptors(t) - before - strangers; held > maxAnonymous+16 {
		t.Errorf("strangers hold %d descriptors, want %d at most", held, maxAnonymous)
	}
}

// The log names closed connections once a minute.
func TestClosedConnectionsAreLogged(t *testing.T) {
	var out bytes.Buffer
	log := logrus.New()
	log.SetOutput(&out)
	clk := clock.NewFake(time.Unix(0, 0))
	c := &closedLog{log: log, who: "peers without a certificate", limit: 4, clock: clk}
	for range 3 {
		for i := range 5 {
			c.add(netip.MustParseAddr(fmt.Sprintf("192.0.2.%d", i)))
		}
		clk.Advance(closedEvery)
	}
	if n := strings.Count(out.String(), "limit 4"); n != 3 || !strings.Contains(out.String(), "count=5 from=192.0.2.0") {
		t.Errorf("%d lines:\n%s", n, &out)
	}
}
