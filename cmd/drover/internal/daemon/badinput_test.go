package daemon

import (
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	droverapi "github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	testconsul "github.com/droverhq/drover/test/consul"
)

// records returns the records in Consul, without those that change by themselves.
func records(t *testing.T, c *testconsul.Cluster) map[string]string {
	t.Helper()
	list, _, err := c.Client().KV().List("drover/data/", nil)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, kv := range list {
		family, _, _ := strings.Cut(strings.TrimPrefix(kv.Key, "drover/data/"), "/")
		if !slices.Contains([]string{"live", "rev", "house", "facts", "away"}, family) {
			out[kv.Key] = string(kv.Value)
		}
	}
	return out
}

// forged saves a pair with this identity where an agent expects its certificate.
func (l *lab) forged(o Options, id pki.Identity) Options {
	l.t.Helper()
	pair, err := l.ca.Issue(id, time.Now())
	if err == nil {
		err = pair.Save(pki.NodeFiles(filepath.Join(o.Root, "tls")))
	}
	if err != nil {
		l.t.Fatal(err)
	}
	return o
}

// unjoined returns the options of an agent that has a token and no certificate.
func (l *lab) unjoined(name, token string, replica Options) Options {
	l.t.Helper()
	o := l.agent(name, replica)
	o.Join = token
	if err := os.RemoveAll(filepath.Join(o.Root, "tls")); err != nil {
		l.t.Fatal(err)
	}
	return o
}

// Bad input is answered with one line that names the object and the remedy. It changes nothing, and the line contains
// no secret. (Other packages test the rest. Expired tokens and wrong clocks: agent/controlsync. Versions:
// TestVersionsSideBySide. Consul without a leader, and each right: control/store/consul. Frames: agent/move.)
func TestBadInput(t *testing.T) {
	c := testconsul.Start(t, testconsul.Options{ACL: true})
	l := newLab(t)
	replica := l.control("c1", c.Addresses())
	replica.Consul.Token = c.NewToken(consul.Policy("drover") + consul.CatalogPolicy("drover"))
	l.start(Control, replica)
	admin := l.ask(replica.controlSocket())
	token := func(name string) string {
		t.Helper()
		made, err := admin.MakeToken(soon(t), droverapi.NewToken{Name: name})
		if err != nil {
			t.Fatal(err)
		}
		return made.Token
	}
	used := token("")
	l.start(Agent, l.unjoined("n1", used, replica))
	l.start(Agent, l.agent("n2", replica))
	n1, n2 := l.nodeOf("n1"), l.nodeOf("n2")
	if _, err := admin.Cordon(soon(t), n2, droverapi.Cordoned{Cordoned: true}); err != nil {
		t.Fatal(err)
	}
	out, err := admin.Submit(soon(t), droverapi.Request{Kind: dataset.OpCreate, Volume: "db@bronze"})
	if err != nil {
		t.Fatal(err)
	}
	if op, err := admin.Operation(soon(t), out.Operation.ID.String(), time.Minute); err != nil || op.Problem != nil {
		t.Fatal(op.Problem, err)
	}
	foreign, err := pki.Create(filepath.Join(l.dir, "other"), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	bob, err := l.ca.Issue(pki.Identity{Kind: pki.Operator, Role: pki.Viewer, Name: "bob"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	strange, err := foreign.Issue(pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "eve"}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	as := func(p *pki.Pair) *client.Client {
		c, err := client.NewTLS("https://"+replica.Listen.Advertise, pki.NewCredentials(p, clock.System{}, nil).Client(pki.Control))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	remove := droverapi.Request{Kind: dataset.OpDelete, Volume: "db"}
	submit := func(c *client.Client, r droverapi.Request) error { _, err := c.Submit(soon(t), r); return err }
	move := func(node string) error {
		return submit(admin, droverapi.Request{Kind: dataset.OpMove, Volume: "db", Node: node})
	}
	unknown := pki.NewToken(l.ca.Fingerprint()).Reveal()
	elsewhere := pki.NewToken(foreign.Fingerprint()).Reveal()
	lame := l.control("c2", c.Addresses())
	lame.Consul.Token = c.NewToken(`key_prefix "drover/" { policy = "write" } node "drover-sessions" { policy = "write" }`)
	known := l.agent("n3", replica)
	if err := os.WriteFile(filepath.Join(known.Root, "node.json"), []byte(`{"node":"`+uuid.NewString()+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tls := func(what string, id pki.Identity) error { return l.ends(Agent, l.forged(l.agent(what, replica), id)) }
	before := records(t, c)
	secrets := []string{used, unknown, elsewhere, replica.Consul.Token, lame.Consul.Token}
	for name, tc := range map[string]struct {
		err   error
		words []string
	}{
		"token: no token":             {l.ends(Agent, l.unjoined("t1", "drover-join-nonsense", replica)), []string{"bad join token", "drover node token"}},
		"token: unknown":              {l.ends(Agent, l.unjoined("t2", unknown, replica)), []string{"is not from this cluster", "create another: drover node token"}},
		"token: used":                 {l.ends(Agent, l.unjoined("t3", used, replica)), []string{"was used at ", "by node n1", "drover node token"}},
		"token: another cluster's":    {l.ends(Agent, l.unjoined("t4", elsewhere, replica)), []string{"the token belongs to another cluster", "create a token there"}},
		"certificate: cluster":        {submit(as(strange), remove), []string{"belongs to cluster " + l.ca.Cluster().String(), "cluster " + foreign.Cluster().String(), "correct the address"}},
		"certificate: kind":           {tls("f2", pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "bob"}), []string{": expected the certificate of a node, not of operator bob (admin)"}},
		"certificate: role":           {submit(as(bob), remove), []string{"operator bob (viewer) may not", "drover ca issue --role operator"}},
		"certificate: another node's": {l.ends(Agent, known), []string{"the certificate is for node", "create a token with"}},
		"ACL lacks a right":           {l.ends(Control, lame), []string{"the token lacks session:write on drover-sessions", `session "drover-sessions" { policy = "write" }`}},
		"target: unknown":             {move("nowhere"), []string{`"nowhere"`, "n1, n2"}},
		"target: cordoned":            {move("n2"), []string{"volume db", "node n2 is cordoned", "drover node cordon --off n2"}},
		"target: lacks the backend":   {submit(admin, droverapi.Request{Kind: dataset.OpCreate, Volume: "big@gold"}), []string{"big", "gold", "it cannot take snapshots without copying"}},
	} {
		switch {
		case tc.err == nil:
			t.Errorf("%s: it is taken", name)
			continue
		case dataset.KindOf(tc.err) == dataset.ErrInternal, strings.Contains(tc.err.Error(), "\n"), len(tc.err.Error()) > 1000:
			t.Errorf("%s: not one line of a kind: %v", name, tc.err)
		}
		for _, w := range tc.words {
			if !strings.Contains(tc.err.Error(), w) {
				t.Errorf("%s: %v: does not say %q", name, tc.err, w)
			}
		}
		for _, s := range secrets {
			if strings.Contains(tc.err.Error(), s) {
				t.Errorf("%s: a secret: %v", name, tc.err)
			}
		}
	}
	if after := records(t, c); !maps.Equal(before, after) {
		t.Errorf("on record is another thing than before: %d keys, were %d", len(after), len(before))
	}
	if _, err := admin.Volume(soon(t), "db"); err != nil || n1 == uuid.Nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(l.dir, "t2", "tls", "node.pem")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// nodeOf returns the UUID of the node of a running agent.
func (l *lab) nodeOf(name string) uuid.UUID {
	l.t.Helper()
	pair, err := pki.LoadPair(pki.NodeFiles(filepath.Join(l.dir, name, "tls")))
	if err != nil {
		l.t.Fatal(err)
	}
	return pair.Identity.Node
}
