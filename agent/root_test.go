package agent

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
)

// A root that is named by a symbolic link is the same root: the kernel tells of
// mounts by the path that there is, and what is in use is not taken for unused.
func TestRootThroughALink(t *testing.T) {
	r := newRig(t, func(c *Config) {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(c.Root, link); err != nil {
			t.Fatal(err)
		}
		c.Root = link
	})
	d := r.volume("db")
	r.mount(d, "id")
	end := container(t, r.MountPath(d.ID))
	r.restart()
	r.after(mounting.InheritedGrace + mounting.VerifyEvery)
	r.want(d, "id")
	end()
	await(t, func() bool { // the agent looks by itself, too
		r.after(mounting.VerifyEvery)
		return len(r.uses.Get(d.ID).IDs) == 0
	})
	r.want(d)
}

func TestMountFolderIsNoLink(t *testing.T) {
	r := newRig(t)
	cfg := r.config
	cfg.Root = t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(cfg.Root, "mnt")); err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), cfg)
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
