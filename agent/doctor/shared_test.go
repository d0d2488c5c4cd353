package doctor_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/doctor"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/loop"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
)

// Pools on one filesystem exceed the policy of one of them together, although none exceeds it alone.
func TestPoolsOnOneFilesystem(t *testing.T) {
	shared, own := scratch.Mount(t, "xfs", 1<<30), scratch.Mount(t, "xfs", 1<<30)
	config := func(name, disk string, overcommit float64) pool.Config {
		return pool.Config{Name: name, Backend: loop.Name, Path: filepath.Join(disk, name), Overcommit: overcommit}
	}
	h := agenttest.New(t, func(c *agent.Config) {
		c.Backends = backends.NewRegistry(loop.New(&run.System{}))
		c.Pools = []pool.Config{config("fast", shared, 1.5), config("slow", shared, 0), config("apart", own, 1.5)}
	})
	found := func(name string) (level, text string) {
		t.Helper()
		p, ok := h.Pools.ByName(name)
		if !ok {
			t.Fatalf("no pool %s", name)
		}
		rep := &doctor.Report{}
		h.CheckPool(t.Context(), rep, p, nil, false)
		for _, f := range rep.All {
			if strings.Contains(f.Text, "one filesystem") {
				return f.Level, f.Text
			}
		}
		return "", ""
	}
	make := func(name, pool string) {
		t.Helper()
		if err := h.Create(t.Context(), name, map[string]string{"pool": pool, "size": "800MiB"}); err != nil {
			t.Fatal(err)
		}
	}
	make("db", "fast")
	if level, text := found("fast"); level != host.OK || !strings.Contains(text, "with slow: they share its free space") {
		t.Errorf("with room: %s %s", level, text)
	}
	make("web", "slow")
	if level, text := found("fast"); level != host.Warning || !strings.Contains(text, "1.56GiB large together") {
		t.Errorf("without room: %s %s", level, text)
	}
	if level, text := found("slow"); level != host.OK {
		t.Errorf("a pool without a policy: %s %s", level, text)
	}
	if level, text := found("apart"); level != "" {
		t.Errorf("a pool with a filesystem of its own: %s %s", level, text)
	}
}
