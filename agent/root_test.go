package agent_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// If the root is named by a symbolic link it is the same root: the kernel reports mounts by the real path, and a
// volume in use is not taken for unused.
func TestRootThroughSymbolicLink(t *testing.T) {
	r := agenttest.New(t, func(c *agent.Config) {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(c.Root, link); err != nil {
			t.Fatal(err)
		}
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
	if err := os.Symlink(t.TempDir(), filepath.Join(cfg.Root, "mnt")); err != nil {
		t.Fatal(err)
	}
	a, err := agent.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(t.Context()); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("start: %v", err)
	}
	if err := a.Close(); err != nil {
		t.Error(err)
	}
}

// A database whose records have a later format is refused by its number. It stays unchanged.
func TestB16DatabaseOfALaterFormat(t *testing.T) {
	r := agenttest.New(t)
	r.Stop()
	writes := []store.Write{{Key: "format", Value: []byte(`{"format":2}`)}}
	index, err := r.Config.State.Txn(t.Context(), nil, writes)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := agent.New(t.Context(), r.Config); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("got error %v, want %v", err, dataset.ErrUnsupported)
	}
	writes[0] = store.Write{Key: "format", Delete: true}
	if now, err := r.Config.State.Txn(t.Context(), nil, writes); err != nil || now != index+1 {
		t.Errorf("something was written to the database: index %d, %v; want %d", now, err, index+1)
	}
	r.Start()
}
