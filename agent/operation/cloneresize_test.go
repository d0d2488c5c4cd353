package operation_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/btrfs"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// A clone whose source is resized after the plan and before the clone is made has the source's new size. If a size
// was requested the clone is refused, and nothing is left of it.
func TestCloneOfSourceResizedMeanwhile(t *testing.T) {
	for backend, fs := range map[string]string{loop.Name: "xfs", btrfs.Name: "btrfs"} {
		t.Run(backend, func(t *testing.T) {
			disk := scratch.Mount(t, fs, 1<<30)
			if backend == btrfs.Name {
				scratch.Quota(t, disk, "simple")
			}
			cfg := pool.Config{Name: "default", Backend: backend, Path: filepath.Join(disk, "pool")}
			r := agenttest.New(t, func(c *agent.Config) {
				c.Backends = backends.NewRegistry(loop.New(&run.System{}), btrfs.New())
				c.Pools = []pool.Config{cfg}
			})
			const had, has = 64 * dataset.MiB, 128 * dataset.MiB
			if err := r.Create(t.Context(), "db", map[string]string{"size": had.String()}); err != nil {
				t.Fatal(err)
			}
			plan := func(name string, options map[string]string) *dataset.Operation {
				options["from"] = "db"
				req := api.Request{ID: uuid.New(), Kind: dataset.OpClone, Volume: name, Options: options}
				p, err := r.Control.Plan(t.Context(), r.Node(), req)
				if err != nil {
					t.Fatal(err)
				}
				return p.Operation
			}
			free, sized := plan("free", map[string]string{}), plan("sized", map[string]string{"size": had.String()})
			if _, err := r.Link.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "db", Size: has.String()}); err != nil {
				t.Fatal(err)
			}
			agenttest.Await(t, func() bool { d, _ := r.Cache.Volume("db"); return d.Size == has })

			out, err := r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, free)
			if err != nil {
				t.Fatal(err)
			}
			if d := out.Dataset; d.Size != has || d.Profile.Size != has {
				t.Errorf("the clone of %s has %s, and promises %s", has, d.Size, d.Profile.Size)
			}
			e, err := r.Pool().Stat(t.Context(), free.DatasetID)
			if err != nil || e.Record == nil || e.Record.Size != has {
				t.Errorf("beside it is %+v, %v", e.Record, err)
			}
			_, err = r.Handler(dataset.OpCreate)(t.Context(), &host.Job{}, sized)
			if !errors.Is(err, dataset.ErrInvalid) || !strings.Contains(err.Error(), "smaller than the size 128MiB of its source") {
				t.Errorf("a clone of %s with %s: %v", has, had, err)
			}
			if _, err := r.Pool().Stat(t.Context(), sized.DatasetID); !errors.Is(err, dataset.ErrNotFound) {
				t.Errorf("it left something: %v", err)
			}
		})
	}
}
