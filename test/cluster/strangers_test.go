package cluster_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/cluster"
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

// big makes a volume on the first host with much data, and returns its checksum.
func (c *cuts) big(t *testing.T, name string) (sum string) {
	t.Helper()
	if err := c.Hosts[0].Plug(t).Create(name, map[string]string{"size": "128MiB"}); err != nil {
		t.Fatal(err)
	}
	data := make([]byte, 64<<20)
	_, _ = rand.Read(data)
	mounted(t, c.Hosts[0], name, func(at string) {
		if err := os.WriteFile(c.Hosts[0].File(filepath.Join(at, "data")), data, 0o600); err != nil {
			t.Fatal(err)
		}
	})
	return fmt.Sprintf("%x", sha256.Sum256(data))
}

// wantBig fails unless a host is the home of a volume with that data.
func (c *cuts) wantBig(t *testing.T, h *cluster.Host, name, sum string) {
	t.Helper()
	if at := h.Inspect(t, name).Node; at != h.Name {
		t.Errorf("the home of %s is %s, not %s", name, at, h.Name)
	}
	mounted(t, h, name, func(at string) {
		data, err := os.ReadFile(h.File(filepath.Join(at, "data")))
		if got := fmt.Sprintf("%x", sha256.Sum256(data)); err != nil || got != sum {
			t.Errorf("%s on %s has %d bytes of sum %s, want %s: %v", name, h.Name, len(data), got, sum, err)
		}
	})
}

// transferCut: a move runs over a slow link, and the link is cut in the middle. During the cut the home's agent dies,
// so that no connection survives it. The move transfers everything, and until then the home stays the home (C5).
func (c *cuts) transferCut(t *testing.T) {
	a, b := c.Hosts[0], c.Hosts[1]
	sum := c.big(t, "slow")
	c.Net.Shape(b.On, "200mbit")
	defer c.Net.Shape(b.On, "")
	client := c.Controls[0].Client(t)
	defer client.Close()
	out, err := client.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpMove, Volume: "slow", Node: b.Name})
	if err != nil {
		t.Fatal(err)
	}
	operation := func() dataset.Operation {
		op, err := client.Operation(t.Context(), out.Operation.ID.String(), 0)
		if err != nil {
			t.Fatal(err)
		}
		return op
	}
	host.Await(t, "it is under way", func() error {
		if op := operation(); op.Progress.Done < 16<<20 || op.State.Final() {
			return fmt.Errorf("%s, %+v", op.State, op.Progress)
		}
		return nil
	})
	c.Net.Partition(a.On, b.On)
	c.wantBig(t, a, "slow", sum)
	if op := operation(); op.State.Final() {
		t.Errorf("it ended before: %s, %+v", op.State, op.Problem)
	}
	a.KillAgent(t)
	a.StartAgent(t)
	c.Net.Heal()
	var end dataset.Operation
	host.Await(t, "the move ends", func() error {
		if end = operation(); !end.State.Final() {
			return fmt.Errorf("%s, %+v", end.State, end.Progress)
		}
		return nil
	})
	if end.State != dataset.OpDone {
		t.Fatalf("%s: %+v", end.State, end.Problem)
	}
	c.wantBig(t, b, "slow", sum)
}

// targetFull: a move to a pool without room fails with that reason, and leaves the volume where it was (C5). When
// there is room and the move is requested again, it succeeds.
func (c *cuts) targetFull(t *testing.T) {
	a, b := c.Hosts[0], c.Hosts[1]
	sum := c.big(t, "wide")
	filler := b.File(filepath.Join(b.Dir, "disk", "filler"))
	f, err := os.Create(filler)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Fallocate(int(f.Fd()), 0, 0, int64(st.Bavail)*st.Bsize-(40<<20)); err != nil {
		t.Fatal(err)
	}
	r := c.Controls[0].Exec(t, "volume", "move", "wide", b.Name)
	if r.Exit != 1 || !strings.Contains(r.Err, "wide") || !strings.Contains(r.Err, " free") {
		t.Errorf("to a full pool: %+v", r)
	}
	c.wantBig(t, a, "wide", sum)
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	f.Close()
	host.Await(t, "there is room again", func() error {
		if r := c.Controls[0].Exec(t, "volume", "move", "wide", b.Name); r.Exit != 0 {
			return errors.New(r.Err)
		}
		return nil
	})
	c.wantBig(t, b, "wide", sum)
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
