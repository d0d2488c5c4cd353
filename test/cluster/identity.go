package cluster

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/pki"
)

// authority is that of the cluster.
type authority struct {
	*pki.Authority

	dir string
}

func newAuthority(t testing.TB, dir string) authority {
	t.Helper()
	a, err := pki.Create(dir, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return authority{a, dir}
}

// join gives a host its identity.
func (a authority) join(t testing.TB, _ *Cluster, h *Host) {
	t.Helper()
	p, err := a.Issue(pki.Identity{Cluster: a.Cluster(), Kind: pki.Node, Node: uuid.New(), Name: h.Name}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	tls := filepath.Join(h.Root, "tls")
	if err := h.On.Do(func() error {
		if err := os.MkdirAll(tls, 0o700); err != nil {
			return err
		}
		return p.Save(pki.NodeFiles(tls))
	}); err != nil {
		t.Fatal(err)
	}
}
