package agent

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/lineage"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Only the certificate of a node lets its holder ask an agent for data: not an operator's, whatever the
// role, and not that of control.
func TestPeersAreNodes(t *testing.T) {
	ca, err := pki.Create(t.TempDir(), time.Now())
	if err != nil {
		t.Fatal(err)
	}
	node := uuid.New()
	for _, of := range []pki.Identity{
		{Kind: pki.Node, Node: node, Name: "host-b"}, {Kind: pki.Control, Name: "control-1"},
		{Kind: pki.Operator, Role: pki.Admin, Name: "alice"}, {Kind: pki.Operator, Role: pki.Viewer, Name: "bob"},
	} {
		pair, err := ca.Issue(of, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got, err := move.CertifiedNode(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Chain[0]}}})
		if of.Kind == pki.Node && (err != nil || got != node) {
			t.Errorf("%s: %s, %v", of, got, err)
		}
		if of.Kind != pki.Node && !errors.Is(err, dataset.ErrForbidden) {
			t.Errorf("%s: %s, %v", of, got, err)
		}
	}
}

// A folder that is imported is the one named, and not what a symbolic link of that name leads to.
func TestI6ImportOfALink(t *testing.T) {
	r := newRig(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte("another's"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if op := r.imported("all", link); op.Problem == nil || op.Problem.Code != "invalid" {
		t.Errorf("%s, %+v", op.State, op.Problem)
	}
}

// pruned notes which snapshots are taken from a pool in which one entry lies.
type pruned struct {
	lying
	gone *[]uuid.UUID
}

func (p pruned) DeleteSnapshot(_ context.Context, _, id uuid.UUID) error {
	*p.gone = append(*p.gone, id)
	return nil
}

// What a home has given up stays until the move is over, though a newer snapshot was taken for a
// replica: its last snapshot, which a crash may have kept from the manifest, and that of the manifest.
func TestI3HomeKeepsWhatItGaveUp(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.sender = r.newSender(nil)
	control, move := r.Control, uuid.New()
	r.Control = on{control, move}
	at := func(id uuid.UUID, minute int) dataset.Snapshot {
		return dataset.Snapshot{ID: id, Dataset: d.ID, Kind: dataset.SnapshotTransfer, Epoch: 1, Created: r.Clock.Now().Add(time.Duration(minute) * time.Minute)}
	}
	older, base, last, newest := at(uuid.New(), 1), at(uuid.New(), 2), at(lineage.FinalID(move), 3), at(uuid.New(), 4)
	e := backends.Entry{State: backends.EntryReady, Snapshots: []dataset.Snapshot{older, base, last, newest}}
	for name, c := range map[string]struct {
		manifest *dataset.Manifest
		gone     []uuid.UUID
	}{
		"without a manifest":      {nil, []uuid.UUID{older.ID, base.ID}},
		"with one":                {&dataset.Manifest{Snapshot: last.ID, Base: base.ID}, []uuid.UUID{older.ID}},
		"of what was sent before": {&dataset.Manifest{Snapshot: base.ID, Base: older.ID}, nil},
	} {
		if err := r.leases.Relinquish(t.Context(), d.ID, lease.Relinquished{Epoch: d.Epoch, Move: move, Manifest: c.manifest}); err != nil {
			t.Fatal(err)
		}
		var gone []uuid.UUID
		if err := r.retention.Prune(t.Context(), pruned{lying{e: e}, &gone}, d); err != nil || !slices.Equal(gone, c.gone) {
			t.Errorf("%s: %v are removed, want %v; %v", name, gone, c.gone, err)
		}
	}
	r.Control = control
}
