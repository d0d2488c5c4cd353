package operation_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/scratch"
)

// atCommit is a control that calls a function before it commits.
type atCommit struct {
	api.Service
	do func()
}

func (c atCommit) Commit(ctx context.Context, node uuid.UUID, r api.Report) (api.Committed, error) {
	c.do()
	return c.Service.Commit(ctx, node, r)
}

// I2: all of an import is on the disk before it is recorded, on backends whose volumes are folders of the pool's
// filesystem. The test copies the disk as it is, without the data that is only in memory.
func TestI2ImportSurvivesAPowerCut(t *testing.T) {
	for backend, of := range map[string]struct {
		kind   backends.Kind
		fstype string
		size   int64
	}{"dir": {dir.Backend{}, "ext4", scratch.Ext4}, "btrfs": {btrfs.New(), "btrfs", scratch.Btrfs}} {
		t.Run(backend, func(t *testing.T) {
			disk := scratch.Image(t, of.fstype, of.size)
			target := filepath.Join(scratch.MountImage(t, of.fstype, disk), "pool")
			cut := filepath.Join(t.TempDir(), "cut")
			r := agenttest.New(t, func(cfg *agent.Config) {
				cfg.Control = atCommit{cfg.Control, func() { scratch.Copy(t, disk, cut) }}
				cfg.Pools = []pool.Config{{Name: "default", Backend: backend, Path: target}}
				cfg.Backends = backends.NewRegistry(of.kind)
			})
			text := strings.Repeat("imported ", 1000)
			d, err := r.Import(t.Context(), api.Request{Volume: "db"}, archiveOf(t, "token", text))
			if err != nil {
				t.Fatal(err)
			}
			found, err := filepath.Glob(filepath.Join(scratch.MountImage(t, of.fstype, cut), "pool", "*", d.ID.String(), "*", "token"))
			if err != nil || len(found) != 1 {
				t.Fatalf("after the cut there is %v, %v", found, err)
			}
			if b, err := os.ReadFile(found[0]); err != nil || string(b) != text {
				t.Errorf("after the cut it holds %d bytes of %d, %v", len(b), len(text), err)
			}
		})
	}
}
