package pki_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func create(t *testing.T) (*pki.Authority, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "ca")
	a, err := pki.Create(dir, start)
	require.NoError(t, err)
	return a, dir
}

func issue(t *testing.T, a *pki.Authority, id pki.Identity, now time.Time) *pki.Pair {
	t.Helper()
	p, err := a.Issue(id, now)
	if err != nil || p.Identity.Cluster != a.Cluster() {
		t.Fatal(p, err)
	}
	return p
}

var (
	controlID = pki.Identity{Kind: pki.Control, Name: "c1"}
	nodeID    = pki.Identity{Kind: pki.Node, Node: uuid.MustParse("11111111-2222-4333-8444-555555555555"), Name: "a"}
	adminID   = pki.Identity{Kind: pki.Operator, Role: pki.Admin, Name: "alice"}
)

// shake makes a TLS connection on loopback, and returns the result of each side.
func shake(t *testing.T, server, client *tls.Config) (cs tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		c, err := l.Accept()
		if err != nil {
			serverErr = err
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if serverErr = s.HandshakeContext(context.Background()); serverErr == nil {
			cs = s.ConnectionState()
			_, serverErr = s.Write([]byte("x"))
		}
	}()
	conn, err := net.Dial("tcp", l.Addr().String())
	require.NoError(t, err)
	defer conn.Close()
	c := tls.Client(conn, client)
	if clientErr = c.HandshakeContext(context.Background()); clientErr == nil {
		// With TLS 1.3, a client gets a refusal only at its first read.
		_, clientErr = c.Read(make([]byte, 1))
	}
	conn.Close()
	<-done
	return cs, serverErr, clientErr
}

func TestPeers(t *testing.T) {
	a, _ := create(t)
	other, _ := create(t)
	clk := fakes.NewClock(start)
	creds := func(p *pki.Pair) *pki.Credentials { return pki.NewCredentials(p, clk, nil) }
	control := issue(t, a, controlID, start)
	stranger, err := pki.Forge(a.Cluster(), start)
	require.NoError(t, err)
	late := start.Add(31 * 24 * time.Hour)
	for name, c := range map[string]struct {
		client *pki.Pair
		now    time.Time
		kinds  []pki.Kind
		want   string // of the server's error; empty: none
	}{
		"node":     {client: issue(t, a, nodeID, start), kinds: []pki.Kind{pki.Node}},
		"any kind": {client: issue(t, a, adminID, start)},
		"wrong kind": {
			client: issue(t, a, nodeID, start),
			kinds:  []pki.Kind{pki.Operator},
			want:   "that of node a (11111111-2222-4333-8444-555555555555), and one of kind operator is required here",
		},
		"wrong CA": {
			client: issue(t, stranger, nodeID, start),
			want:   "is not signed by this cluster's certificate authority: it was signed by another one",
		},
		"other cluster": {
			client: issue(t, other, nodeID, start),
			want:   "belongs to cluster " + other.Cluster().String() + ", and this is cluster " + a.Cluster().String(),
		},
		"not yet valid": {
			client: issue(t, a, nodeID, start.Add(time.Hour)),
			want:   "this host's clock shows 2026-03-04T05:06:07Z, the certificate of node a (11111111-2222-4333-8444-555555555555) is valid from 2026-03-04T05:56:07Z",
		},
		"expired": {client: issue(t, a, nodeID, start), now: late, want: "this host's clock shows " +
			"2026-04-04T05:06:07Z"},
		"within skew": {client: issue(t, a, nodeID, start.Add(9*time.Minute))},
	} {
		t.Run(name, func(t *testing.T) {
			now := start
			if !c.now.IsZero() {
				now = c.now
			}
			srv := creds(control)
			if now != start {
				srv = creds(issue(t, a, controlID, now))
			}
			clk.Set(now)
			cs, serverErr, clientErr := shake(t, srv.Server(c.kinds...), c.client.Credulous())
			if c.want == "" {
				if serverErr != nil || clientErr != nil {
					t.Fatal(serverErr, clientErr)
				}
				if id, err := srv.VerifyPeer(cs); err != nil || id != c.client.Identity {
					t.Errorf("%v, %v", id, err)
				}
				return
			}
			if serverErr == nil || clientErr == nil || !strings.Contains(serverErr.Error(), c.want) ||
				!errors.Is(serverErr, dataset.ErrForbidden) {
				t.Errorf("server: %v; client: %v", serverErr, clientErr)
			}
		})
	}
}

// A client checks the certificate of a server as strictly as a server checks that of a client.
func TestServersAreChecked(t *testing.T) {
	a, _ := create(t)
	other, _ := create(t)
	clk := fakes.NewClock(start)
	node := issue(t, a, nodeID, start)
	for name, c := range map[string]struct {
		server *pki.Pair
		want   string
	}{
		"control":          {issue(t, a, controlID, start), ""},
		"a node":           {issue(t, a, nodeID, start), "one of kind control is required"},
		"an operator":      {issue(t, a, adminID, start), "one of kind control is required"},
		"of elsewhere":     {issue(t, other, controlID, start), "belongs to cluster"},
		"its clock is off": {issue(t, a, controlID, start.Add(48*time.Hour)), "set the clock"},
	} {
		asking := pki.NewCredentials(c.server, clk, nil).UnverifiedServer()
		_, _, err := shake(t, asking, pki.NewCredentials(node, clk, nil).Client(pki.Control))
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		_, _, err = shake(t, asking, pki.Pinned(a.Fingerprint(), uuid.Nil, clk))
		if bad := c.want != ""; bad != (err != nil) {
			t.Errorf("%s, pinned: %v", name, err)
		}
	}
}

func TestRevoked(t *testing.T) {
	a, _ := create(t)
	clk := fakes.NewClock(start)
	gone := dataset.Errorf(dataset.ErrForbidden, "node a was removed")
	control := pki.NewCredentials(issue(t, a, controlID, start), clk, func(id pki.Identity, c *x509.Certificate) error {
		if id.Kind == pki.Node && c.SerialNumber != nil {
			return gone
		}
		return nil
	})
	node := pki.NewCredentials(issue(t, a, nodeID, start), clk, nil)
	if _, err, _ := shake(t, control.Server(), node.Client()); !errors.Is(err, gone) {
		t.Error(err)
	}
	cs, err, _ := shake(t, control.UnverifiedServer(), node.Client())
	require.NoError(t, err)
	if _, err := control.VerifyPeer(cs); !errors.Is(err, gone) {
		t.Error(err)
	}
	if _, err, _ := shake(t, control.Server(),
		pki.NewCredentials(issue(t, a, adminID, start), clk, nil).Client()); err != nil {
		t.Error(err)
	}
}

// A peer without a certificate can connect to a server that reports the problem, and to no other server.
func TestNoCertificate(t *testing.T) {
	a, _ := create(t)
	clk := fakes.NewClock(start)
	control := pki.NewCredentials(issue(t, a, controlID, start), clk, nil)
	cs, err, _ := shake(t, control.UnverifiedServer(), pki.Pinned(a.Fingerprint(), uuid.Nil, clk))
	require.NoError(t, err)
	if _, err := control.VerifyPeer(cs); !errors.Is(err, pki.ErrNoCertificate) ||
		!errors.Is(err, dataset.ErrForbidden) {
		t.Error(err)
	}
	if _, err, _ := shake(t, control.Server(), pki.Pinned(a.Fingerprint(), uuid.Nil, clk)); err == nil {
		t.Error("let in")
	}
}

// A pair that Set has replaced is used from the next handshake on, and old versions of TLS are refused.
func TestSetAndVersions(t *testing.T) {
	a, _ := create(t)
	clk := fakes.NewClock(start)
	control := pki.NewCredentials(issue(t, a, controlID, start), clk, nil)
	node := pki.NewCredentials(issue(t, a, nodeID, start), clk, nil)
	server, client := control.Server(), node.Client()
	clk.Advance(40 * 24 * time.Hour)
	if _, _, err := shake(t, server, client); err == nil || !strings.Contains(err.Error(), "set the clock") {
		t.Error(err)
	}
	control.Set(issue(t, a, controlID, clk.Now()))
	node.Set(issue(t, a, nodeID, clk.Now()))
	if _, serverErr, err := shake(t, server, client); err != nil || serverErr != nil {
		t.Error(err, serverErr)
	}
	old := client.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, serverErr, err := shake(t, server, old); err == nil || serverErr == nil {
		t.Error("TLS 1.2 was taken")
	}
}

func TestCreateAndLoad(t *testing.T) {
	a, dir := create(t)
	got, err := pki.Load(dir)
	if err != nil || got.Cluster() != a.Cluster() || got.Fingerprint() != a.Fingerprint() {
		t.Fatal(got, err)
	}
	if _, err := pki.Create(dir, start); !errors.Is(err, dataset.ErrExists) {
		t.Error(err)
	}
	for _, name := range []string{"ca-key.pem", "ca.pem"} {
		if st, err := os.Stat(filepath.Join(dir, name)); err != nil || st.Mode() != 0o600 {
			t.Error(name, st.Mode(), err)
		}
	}
	require.NoError(t, os.Chmod(filepath.Join(dir, "ca-key.pem"), 0o644))
	if _, err := pki.Load(dir); !errors.Is(err, dataset.ErrCorrupt) || !strings.Contains(err.Error(), "0644") {
		t.Error(err)
	}
	require.NoError(t, os.Remove(filepath.Join(dir, "ca-key.pem")))
	if _, err := pki.Load(dir); !errors.Is(err, dataset.ErrNotFound) {
		t.Error(err)
	}
	if _, err := pki.Create(dir, start); !errors.Is(err, dataset.ErrExists) {
		t.Error("what was left of an authority was written over:", err)
	}
	other := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(other, "notes"), nil, 0o600))
	if _, err := pki.Create(other, start); !errors.Is(err, dataset.ErrExists) {
		t.Error("an authority was made beside other files:", err)
	}
}

func TestLifetimes(t *testing.T) {
	a, _ := create(t)
	for _, c := range []struct {
		id   pki.Identity
		now  time.Time
		want time.Duration
	}{
		{nodeID, start, 30 * 24 * time.Hour},
		{controlID, start, 30 * 24 * time.Hour},
		{adminID, start, 365 * 24 * time.Hour},
		{adminID, start.Add(3649 * 24 * time.Hour), 24 * time.Hour}, // no longer than the root
	} {
		leaf := issue(t, a, c.id, c.now).Chain[0]
		if got := leaf.NotAfter.Sub(leaf.NotBefore); got != c.want {
			t.Errorf("%v: %v", c.id, got)
		}
		if left := leaf.NotAfter.Sub(pki.RenewAt(leaf)); left != c.want/3 {
			t.Errorf("%v: renewed with %v left", c.id, left)
		}
	}
	for _, now := range []time.Time{start.Add(-24 * time.Hour), start.Add(3651 * 24 * time.Hour)} {
		if _, err := a.Issue(nodeID, now); !errors.Is(err, dataset.ErrInvalid) ||
			!strings.Contains(err.Error(), "this host's clock shows "+now.Format(time.RFC3339)) {
			t.Error(err)
		}
	}
}

// The certificate of the authority permits only certificates of its cluster.
func TestConstraints(t *testing.T) {
	a, _ := create(t)
	root := a.Roots()[0]
	if !root.PermittedDNSDomainsCritical || len(root.PermittedURIDomains) != 1 ||
		root.PermittedURIDomains[0] != a.Cluster().String() ||
		len(root.ExcludedDNSDomains) != 1 || len(root.ExcludedIPRanges) != 2 || len(root.ExcludedEmailAddresses) != 1 {
		t.Errorf("%+v", root)
	}
	clk := fakes.NewClock(start)
	control := pki.NewCredentials(issue(t, a, controlID, start), clk, nil)
	elsewhere := adminID
	elsewhere.Cluster = uuid.New()
	here := adminID
	here.Cluster = a.Cluster()
	for name, c := range map[string]struct {
		id     pki.Identity
		change func(*x509.Certificate)
		want   string // empty: nothing is wrong
	}{
		"as it should be": {here, func(*x509.Certificate) {}, ""},
		"other cluster":   {elsewhere, func(*x509.Certificate) {}, "belongs to cluster"},
		"with a host":     {here, func(c *x509.Certificate) { c.DNSNames = []string{"bank.example"} }, "not of drover"},
		"with an address": {
			here, func(c *x509.Certificate) { c.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)} }, "not of drover",
		},
		"two identities": {here, func(c *x509.Certificate) { c.URIs = append(c.URIs, elsewhere.URI()) }, "not of " +
			"drover"},
		"no identity": {here, func(c *x509.Certificate) { c.URIs = nil }, "not of drover"},
		"no client": {
			here, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} },
			"not signed",
		},
	} {
		p, err := a.Misuse(c.id, start, c.change)
		require.NoError(t, err)
		_, err, _ = shake(t, control.Server(), p.Credulous())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
		// The same holds for a program that trusts this root for any purpose.
		pool := x509.NewCertPool()
		pool.AddCert(root)
		_, err = p.Chain[0].Verify(x509.VerifyOptions{
			Roots:       pool,
			CurrentTime: start,
			KeyUsages:   []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
		})
		if fine := name == "as it should be" || name == "no identity" || name == "no client"; fine != (err == nil) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A role covers itself and the roles with fewer rights. A text that is not a role covers no role, and no role covers
// it.
func TestRoles(t *testing.T) {
	for role, covers := range map[pki.Role][]pki.Role{
		pki.Admin:  {pki.Admin, pki.Worker, pki.Viewer},
		pki.Worker: {pki.Worker, pki.Viewer},
		pki.Viewer: {pki.Viewer},
		"":         nil,
		"root":     nil,
	} {
		for _, other := range append(pki.Roles(), "", "root") {
			if got := role.Covers(other); got != slices.Contains(covers, other) {
				t.Errorf("%q covers %q: %t", role, other, got)
			}
		}
	}
}

// A token is refused if its cluster is not the one that the host is a member of.
func TestTokenOfAnotherCluster(t *testing.T) {
	a, _ := create(t)
	clk := fakes.NewClock(start)
	control := pki.NewCredentials(issue(t, a, controlID, start), clk, nil)
	if _, _, err := shake(t, control.UnverifiedServer(),
		pki.Pinned(a.Fingerprint(), uuid.New(), clk)); !errors.Is(err, dataset.ErrConflict) {
		t.Errorf("got %v", err)
	}
	_, _, err := shake(t, control.UnverifiedServer(), pki.Pinned(a.Fingerprint(), a.Cluster(), clk))
	assert.NoError(t, err)
}

// Certificates that are issued at the same time do not remove each other's names from the list.
func TestNoteOperatorConcurrently(t *testing.T) {
	const calls = 8
	at := time.Unix(1_700_000_000, 0).UTC()
	dir := t.TempDir()
	var group sync.WaitGroup
	for i := range calls {
		group.Go(func() {
			assert.NoError(t, pki.NoteOperator(dir, fmt.Sprint("operator-", i), at))
		})
	}
	group.Wait()
	if names, err := pki.Operators(dir); err != nil || len(names) != calls {
		t.Errorf("%q, %v, expected %d names", names, err, calls)
	}
	if err := pki.NoteOperator(dir, "operator-0", at.Add(time.Hour)); err != nil { // a later certificate
		t.Error(err)
	}
	until, err := pki.Operators(dir)
	if err != nil || len(until) != calls || !until["operator-0"].Equal(at.Add(time.Hour)) || !until["operator-1"].Equal(at) {
		t.Errorf("%v, %v, expected %d times", until, err, calls)
	}
}

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// onDisk returns an image with a filesystem, and its mount point.
func onDisk(t *testing.T) (image, root string) {
	t.Helper()
	image = scratch.Image(t, "ext4", scratch.Ext4)
	return image, scratch.MountImage(t, "ext4", image)
}

// I2: after a power cut between any two steps of a Save, LoadPair reads a complete pair. After Save has returned, it
// reads the new pair, and the key is in its place.
func TestI2SaveSurvivesAPowerCut(t *testing.T) {
	a, _ := create(t)
	first, second := issue(t, a, nodeID, start), issue(t, a, nodeID, start.Add(time.Hour))
	image, root := onDisk(t)
	require.NoError(t, first.Save(pki.NodeFiles(root)))
	for acts := range second.SaveActs(pki.Files{}) + 1 {
		require.NoError(t, second.SaveCut(pki.NodeFiles(root), acts))
		f := pki.NodeFiles(scratch.CutPower(t, "ext4", image))
		got, err := pki.LoadPair(f)
		if err != nil || !got.Key.Equal(first.Key) && !got.Key.Equal(second.Key) {
			t.Errorf("cut after %d acts: %v", acts, err)
		}
		if acts < second.SaveActs(pki.Files{}) {
			require.NoError(t, first.Save(pki.NodeFiles(root)))
			continue
		}
		if err == nil && !got.Key.Equal(second.Key) {
			t.Error("the pair that was saved is not there")
		}
		if _, err := os.Lstat(f.Key + ".next"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the key is not in its place: %v", err)
		}
	}
}

// I2: an authority and a request are on the disk when the calls that make them return. All certificates of the cluster
// depend on the authority, and a token was used up for the request.
func TestI2AuthorityAndRequestSurviveAPowerCut(t *testing.T) {
	image, root := onDisk(t)
	a, err := pki.Create(filepath.Join(root, "ca"), start)
	require.NoError(t, err)
	dir := filepath.Join(scratch.CutPower(t, "ext4", image), "ca")
	if got, err := pki.Load(dir); err != nil || got.Cluster() != a.Cluster() {
		t.Errorf("the authority: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || string(b) != a.Bundle() {
		t.Errorf("what others need to believe it: %q, %v", b, err)
	}
	req, err := pki.NewRequest()
	require.NoError(t, err)
	require.NoError(t, req.Save(filepath.Join(root, "join.pem")))
	if got, err := pki.LoadRequest(filepath.Join(scratch.CutPower(t, "ext4", image), "join.pem")); err != nil ||
		got.PEM != req.PEM {
		t.Errorf("the request: %v", err)
	}
}
