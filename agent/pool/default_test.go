package pool_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
)

// sizes is a backend that makes no images, and records how large they would be.
type sizes struct {
	dir.Backend
	asked []dataset.Size
}

func (*sizes) Name() string { return "loop" }

func (s *sizes) Open(_ context.Context, cfg backends.Config) (backends.Pool, error) {
	if cfg.Image > 0 {
		s.asked = append(s.asked, cfg.Image)
	}
	return nil, dataset.Errorf(dataset.ErrUnsupported, "not here")
}

// The image that a killed start left does not reduce the size of the next start's image.
func TestDefaultPoolAfterKilledStart(t *testing.T) {
	root := scratch.Mount(t, "ext4", 8<<30)
	if err := os.Mkdir(filepath.Join(root, "pools"), 0o711); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(backends.TemporaryImagePath(filepath.Join(root, "pools", "default.img")))
	if err != nil {
		t.Fatal(err)
	}
	err = unix.Fallocate(int(f.Fd()), 0, 0, 4<<30)
	if cErr := f.Close(); err != nil || cErr != nil {
		t.Fatal(err, cErr)
	}
	s := &sizes{}
	agenttest.New(t, func(c *agent.Config) {
		c.Root, c.Pools, c.Backends = root, nil, backends.NewRegistry(s, dir.Backend{})
	})
	if len(s.asked) != 1 || s.asked[0] != 3*dataset.GiB {
		t.Errorf("images of %v were asked for, want half of the 8 GiB less what ext4 takes: 3GiB", s.asked)
	}
}
