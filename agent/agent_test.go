package agent_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// If the root is named by a symbolic link it is the same root: the kernel reports mounts by the real path, and a
// volume in use is not taken for unused.
func TestRootThroughSymbolicLink(t *testing.T) {
	r := agenttest.New(t, func(c *agent.Config) {
		link := filepath.Join(t.TempDir(), "link")
		require.NoError(t, os.Symlink(c.Root, link))
		c.Root = link
	})
	d := r.NewVolume("db")
	r.MountDataset(d, "id")
	end := agenttest.StartContainer(t, r.MountPath(d.ID))
	r.Restart()
	r.Advance(mounting.MountedGrace + mounting.VerifyEvery)
	r.WantUses(d, "id")
	end()
	agenttest.Await(t, func() bool { // the agent checks this too, without a request
		r.Advance(mounting.VerifyEvery)
		return len(r.Uses.Get(d.ID).IDs) == 0
	})
	r.WantUses(d)
}

func TestMountFolderMustNotBeSymbolicLink(t *testing.T) {
	r := agenttest.New(t)
	cfg := r.Config
	cfg.Root = t.TempDir()
	require.NoError(t, os.Symlink(t.TempDir(), filepath.Join(cfg.Root, "mnt")))
	a, err := agent.New(t.Context(), cfg)
	require.NoError(t, err)
	assert.ErrorIsf(t, a.Start(t.Context()), dataset.ErrInvalid, "start")
	assert.NoError(t, a.Close())
}

// A database whose records have a later format is refused by its number. It stays unchanged.
func TestB16DatabaseOfALaterFormat(t *testing.T) {
	r := agenttest.New(t)
	r.Stop()
	writes := []store.Write{{Key: "format", Value: []byte(`{"format":2}`)}}
	index, err := r.Config.State.Txn(t.Context(), nil, writes)
	require.NoError(t, err)
	if _, err := agent.New(t.Context(), r.Config); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("got error %v, want %v", err, dataset.ErrUnsupported)
	}
	writes[0] = store.Write{Key: "format", Delete: true}
	if now, err := r.Config.State.Txn(t.Context(), nil, writes); err != nil || now != index+1 {
		t.Errorf("something was written to the database: index %d, %v; want %d", now, err, index+1)
	}
	r.Start()
}

// TestVolumeIOAndTrash writes to a mounted volume and deletes it: the counters of its block device grow, and then the
// trash has its bytes. A volume that shares the device of its pool has no counters.
func TestVolumeIOAndTrash(t *testing.T) {
	t.Parallel()
	const written = 3 << 20
	for backend, counted := range map[string]bool{"loop": true, "dir": false} {
		t.Run(backend, func(t *testing.T) {
			f := agenttest.NewCluster(t, backend, "dir")
			f.A.NewVolume("db", nil)
			path := f.A.MustMount("db", "one")
			before, err := f.A.VolumeIO(t.Context())
			if err != nil || (len(before) == 1) != counted {
				t.Fatalf("%+v, %v", before, err)
			}
			file, err := os.Create(filepath.Join(path, "f"))
			require.NoError(t, err)
			if _, err := file.Write(make([]byte, written)); err != nil {
				t.Fatal(err)
			}
			require.NoError(t, file.Sync())
			file.Close()
			if after, err := f.A.VolumeIO(t.Context()); err != nil || (len(after) == 1) != counted {
				t.Errorf("%+v, %v", after, err)
			} else if counted {
				io, was := after[0].Write, before[0].Write
				if io.Bytes-was.Bytes < written || io.Operations == was.Operations || io.Time < was.Time || after[0].Volume != "db" {
					t.Errorf("before writing %+v, after it %+v", before[0], after[0])
				}
			}
			f.A.MustUnmount("db", "one")
			if got := f.A.TrashUsage(t.Context()); len(got) != 0 {
				t.Errorf("before the delete: %+v", got)
			}
			require.NoError(t, f.A.Remove(t.Context(), "db"))
			agenttest.Await(t, func() bool { return len(f.A.TrashUsage(t.Context())) == 1 })
			for range 2 { // measured the first time, cached the second time
				got := f.A.TrashUsage(context.Background())
				if len(got) != 1 || got[0].Volume != "db" || got[0].Known != counted || counted && got[0].Used < written {
					t.Errorf("after the delete: %+v", got)
				}
			}
		})
	}
}

// Only the certificate of a node allows its holder to request data from an agent. The certificates of operators,
// whatever their role, and of control do not.
func TestPeersNeedCertificateOfNode(t *testing.T) {
	ca, err := pki.Create(t.TempDir(), time.Now())
	require.NoError(t, err)
	node := uuid.New()
	for _, of := range []pki.Identity{
		{Kind: pki.Node, Node: node, Name: "host-b"}, {Kind: pki.Control, Name: "control-1"},
		{Kind: pki.Operator, Role: pki.Admin, Name: "alice"}, {Kind: pki.Operator, Role: pki.Viewer, Name: "bob"},
	} {
		pair, err := ca.Issue(of, time.Now())
		require.NoError(t, err)
		got, err := move.CertifiedNode(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{pair.Chain[0]}}})
		if of.Kind == pki.Node && (err != nil || got != node) {
			t.Errorf("%s: %s, %v", of, got, err)
		}
		if of.Kind != pki.Node && !errors.Is(err, dataset.ErrForbidden) {
			t.Errorf("%s: %s, %v", of, got, err)
		}
	}
}

func TestMain(m *testing.M) { agenttest.Main(m) }
