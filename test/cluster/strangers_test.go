package cluster_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
)

// consulRestarted: every server of the store is stopped and started again (C3). Open volumes continue to work.
// Decisions are refused meanwhile, and work as before afterwards.
func (c *cuts) consulRestarted(t *testing.T) {
	h := c.Hosts[0]
	wr := c.StartWriter(t, h, "outlives")
	for _, s := range c.Consul.Servers {
		s.Kill()
	}
	wr.AwaitProgress(t)
	if r := h.Exec(t, "volume", "create", "undecided"); r.Exit != 1 || !isUnavailable(errText(r.Err)) {
		t.Errorf("without a store: %+v", r)
	}
	for _, s := range c.Consul.Servers {
		s.Start()
	}
	c.Consul.AwaitLeader()
	host.Await(t, "it is decided again", func() error {
		if r := h.Exec(t, "volume", "create", "decided"); r.Exit != 0 {
			return errors.New(r.Err)
		}
		return nil
	})
	wr.AwaitProgress(t)
	for _, e := range wr.Entries(t) {
		if e.Err != "" {
			t.Errorf("a write failed: %+v", e)
		}
	}
	wr.Stop(t)
}

// strangers: a caller without a certificate, or with that of another node, gets no data of a volume and no lease
// (C8).
func (c *cuts) strangers(t *testing.T) {
	a, b := c.Hosts[0], c.Hosts[1]
	if err := a.Plug(t).Create("private", nil); err != nil {
		t.Fatal(err)
	}
	v := a.Inspect(t, "private")
	pair, err := pki.LoadPair(pki.NodeFiles(filepath.Join(b.Root, "tls")))
	if err != nil {
		t.Fatal(err)
	}
	creds := pki.NewCredentials(pair, clock.System{}, nil)
	none := &tls.Config{InsecureSkipVerify: true}
	peer, control := "https://"+a.On.IP+":9471", "https://"+c.Controls[0].On.IP+":9470"
	node := control + "/v1/nodes/" + v.Home.String()
	for what, ask := range map[string]struct {
		cfg         *tls.Config
		method, url string
		says        string
	}{
		"a peer without a certificate":      {none, "GET", peer + "/v1/peer/datasets/" + v.ID.String(), "certificate"},
		"another node's volume from a peer": {creds.Client(pki.Node), "GET", peer + "/v1/peer/datasets/" + v.ID.String(), "may not have dataset"},
		"control without a certificate":     {none, "GET", control + "/v1/volumes", "missing client certificate"},
		"another node's lease":              {creds.Client(pki.Control), "POST", node + "/recall", "an agent acts only for its own node"},
		"another node's end of a lease":     {creds.Client(pki.Control), "POST", node + "/yield", "an agent acts only for its own node"},
		"another node's sign of life":       {creds.Client(pki.Control), "POST", node + "/renew", "an agent acts only for its own node"},
	} {
		status, body := asked(t, b.On, ask.cfg, ask.method, ask.url)
		if status < 400 && status != 0 || !strings.Contains(body, ask.says) {
			t.Errorf("%s: %d, %s", what, status, body)
		}
	}
	if now := a.Inspect(t, "private"); now.Epoch != v.Epoch || now.Node != a.Name || now.Lease == nil || now.Lease.State != dataset.LeaseHeld {
		t.Errorf("it is %+v, %+v", now.Dataset, now.Lease)
	}
	mounted(t, a, "private", func(string) {})
}

// asked sends a request from a machine, and returns the status and the answer, or 0 and the error.
func asked(t *testing.T, from *lan.Machine, cfg *tls.Config, method, url string) (int, string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	client := http.Client{Transport: &http.Transport{TLSClientConfig: cfg, DisableKeepAlives: true, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		return from.Dial(ctx, network, address)
	}}}
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader([]byte("{}")))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := client.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err.Error()
	}
	return resp.StatusCode, string(body)
}
