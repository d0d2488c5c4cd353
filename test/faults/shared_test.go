package faults

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/host"
)

// Two drovers are told of one pool, as happens to who tries a second one with the
// host's drover.yaml: it would reap what the first one is making, and mount what
// that has mounted. It is refused, until the first one is gone.
func TestI1PoolOfAnotherProcess(t *testing.T) {
	disk := scratch.Mount(t, "xfs", 2<<30)
	options := func(root string) host.Options {
		return host.Options{
			Root:   filepath.Join(disk, root),
			Config: fmt.Sprintf("pools: [{name: shared, backend: loop, path: %s/pool}]\n", disk),
		}
	}
	first := host.Start(t, options("first"))
	down := options("second")
	down.Down = true
	second := host.Start(t, down)
	second.Begin(t)
	second.Ended(t, time.Minute)
	want := fmt.Sprintf("another drover (pid %d) has it", first.PID())
	if log := second.LogTail(5); !strings.Contains(log, "pool shared") || !strings.Contains(log, want) {
		t.Errorf("the second one says\n%s\nwant %q", log, want)
	}
	first.Kill9(t)
	second.Up(t)
	second.Stop(t)
	first.Up(t)
}
