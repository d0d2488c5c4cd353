package operation_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// newLoopHost starts a host with a loop pool on a disk of 1 GiB.
func newLoopHost(t *testing.T, overcommit float64) *agenttest.Host {
	disk := scratch.Mount(t, "xfs", 1<<30)
	return agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(loop.New(&run.System{}))
		c.Pools = []pool.Config{{
			Name: "default", Backend: loop.Name, Path: filepath.Join(disk, "pool"), Overcommit: overcommit,
		}}
	})
}

// The default size of a volume obeys the same check as an explicit one: it is not larger than the pool.
func TestDefaultSizeFitsPool(t *testing.T) {
	r := newLoopHost(t, 0)
	d := r.NewVolume("db")
	p, _ := r.Pools.ByName("default")
	st, err := r.Pools.ReadStatus(t.Context(), p.ID)
	if err != nil || d.Size <= 0 || d.Size > st.Size {
		t.Errorf("the volume has %s, its pool %s, %v", d.Size, st.Size, err)
	}
	if st.Provisioned != d.Size || st.DefaultSize != d.Size {
		t.Errorf("%+v, want %d provisioned", st, d.Size)
	}
	if err := r.Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	agenttest.Await(t, func() bool { return r.Cache.Provisioned(p.ID) == 0 })
}

// The sizes of all volumes stay within the policy of their pool, whatever the request is: a create, a clone or a
// resize.
func TestOvercommitPolicy(t *testing.T) {
	r := newLoopHost(t, 1.5)
	p, _ := r.Pools.ByName("default")
	create := func(name string, options ...string) error {
		o := map[string]string{}
		for _, s := range options {
			k, v, _ := strings.Cut(s, "=")
			o[k] = v
		}
		return r.Create(t.Context(), name, o)
	}
	refused := func(what string, err error) {
		t.Helper()
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "exceed its overcommit of 1.5") ||
			strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, name := range []string{"one", "two"} {
		if err := create(name, "size=600MiB"); err != nil {
			t.Fatal(err)
		}
	}
	refused("create", create("three", "size=600MiB"))
	refused("create with the default size", create("three"))
	refused("clone", create("three", "from=one"))
	resize := func(size string) error {
		out, err := r.Link.Submit(t.Context(), api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: "one", Size: size})
		if err == nil && out.Operation != nil && out.Operation.Problem != nil {
			err = errors.New(out.Operation.Problem.Message)
		}
		return err
	}
	// Control does not know the present sizes before the next heartbeat, but the agent does.
	r.Reporter.ReportPools(t.Context())
	refused("resize", resize("950MiB"))
	if err := resize("700MiB"); err != nil {
		t.Errorf("resize within the policy: %v", err)
	}
	agenttest.Await(t, func() bool { return r.Cache.Provisioned(p.ID) == 1300*dataset.MiB })
	// Two concurrent creates do not exceed the policy together.
	st, _ := r.Pools.ReadStatus(t.Context(), p.ID)
	release, err := r.Pools.Reserve(p.ID, st, uuid.New(), 100*dataset.MiB)
	if err != nil {
		t.Fatal(err)
	}
	_, err = r.Pools.Reserve(p.ID, st, uuid.New(), 100*dataset.MiB)
	refused("a second create", err)
	release()
	if release, err = r.Pools.Reserve(p.ID, st, uuid.New(), 100*dataset.MiB); err != nil {
		t.Error(err)
	}
	release()
}
