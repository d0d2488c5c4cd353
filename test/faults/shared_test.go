package faults

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// Two drovers are configured with one pool, as happens if a second one is tried with the host's drover.yaml. The
// second one would reap what the first one is making, and mount what the first one has mounted. So its pool is
// offline, until it is restarted after the first one has ended.
func TestI1PoolOfAnotherProcess(t *testing.T) {
	disk := scratch.Mount(t, "xfs", 2<<30)
	options := func(root string) host.Options {
		return host.Options{
			Root:   filepath.Join(disk, root),
			Config: fmt.Sprintf("pools: [{name: shared, backend: loop, path: %s/pool}]\n", disk),
		}
	}
	first := host.Start(t, options("first"))
	second := host.Start(t, options("second"))
	want := fmt.Sprintf("another drover (pid %d) uses it", first.PID())
	if out := second.Exec(t, "doctor"); !strings.Contains(out.Out, "pool shared") || !strings.Contains(out.Out, want) {
		t.Errorf("the second one says\n%s\nwant %q", out.Out, want)
	}
	if out := second.Exec(t, "volume", "create", "db"); out.Exit == 0 {
		t.Error("the second one made a volume without a pool")
	}
	second.Stop(t)
	first.Kill9(t)
	second.Up(t)
	second.Must(t, "volume", "create", "db")
	second.Stop(t)
	first.Up(t)
}
