package backendtest

import (
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/test/require"
)

// fixture is one test with its own pool. It embeds the helpers: checks, the open pool, datasets of the pool, mounts of
// datasets, and streams between pools.
type fixture struct {
	streams
	factory func() (backends.Kind, backends.Config)
}

func newFixture(t T, factory func() (backends.Kind, backends.Config), unsupported ...string) *fixture {
	f := &fixture{factory: factory}
	f.T, f.Ctx, f.Unsupported = t, t.Context(), unsupported
	before, goroutines := openFiles(t), runtime.NumGoroutine()
	t.Cleanup(func() { // registered first, so it runs last
		checkGoroutines(t, goroutines)
		for target, n := range openFiles(t) {
			if n > before[target] {
				t.Errorf("left open: %s", target)
			}
		}
		f.NothingLeftBelow(poolFolder(f.Config))
	})
	f.Kind, f.Config = factory()
	f.Config.Make = true
	if f.Config.ID == uuid.Nil {
		f.Config.ID = uuid.New()
	}
	require.NoErrorf(t, f.Kind.Available(f.Ctx), "this host cannot run the backend")
	f.Open()
	return f
}

// other returns a fixture of the same test with another new pool.
func (f *fixture) other() *fixture {
	f.Helper()
	o := *f
	o.Pool = nil
	// This clean-up is registered before that of the factory. Clean-ups run in reverse order, so it runs later.
	f.Cleanup(func() { f.NothingLeftBelow(poolFolder(o.Config)) })
	o.Kind, o.Config = f.factory()
	o.Config.Make, o.Config.ID = true, uuid.New()
	o.Open()
	return &o
}

// openFiles counts the open files of this process by the target of their link in /proc/self/fd. Files in /proc do not
// count, and neither do anonymous inodes such as those that the runtime opens at its first wait.
func openFiles(t T) map[string]int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	count := map[string]int{}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.HasPrefix(target, "anon_inode:") && !strings.HasPrefix(target, "/proc/") {
			count[target]++
		}
	}
	return count
}

// checkGoroutines fails if there are more goroutines than before. It first waits a moment for those that end.
func checkGoroutines(t T, before int) {
	t.Helper()
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	buf := make([]byte, 1<<20)
	t.Errorf("left running: %d goroutines, of these:\n%s", runtime.NumGoroutine()-before,
		buf[:runtime.Stack(buf, true)])
}
