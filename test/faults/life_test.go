package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/host"
)

// usage is what a process uses.
type usage struct {
	files, loops, mounts, goroutines, entries int
	rss                                       int64
}

func (w *world) usage(t testing.TB) (u usage) {
	t.Helper()
	status, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(w.h.PID()), "status"))
	w.ok(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			w.ok(t, err)
			u.rss = kib << 10
		}
	}
	u.files = len(names(t, filepath.Join("/proc", strconv.Itoa(w.h.PID()), "fd")))
	devices, err := loopdev.List()
	w.ok(t, err)
	for _, d := range devices {
		if strings.HasPrefix(d.Backing, w.h.Root+"/pools/default/") {
			u.loops++
		}
	}
	u.mounts = len(w.mountPaths(t))
	m := w.h.Metrics(t)
	u.goroutines, u.entries = int(m["go_goroutines"]), int(m["drover_store_entries"])
	return u
}

// create, mount, unmount and remove run 250 times, four at a time. Afterwards everything is as in the beginning.
func TestB14(t *testing.T) {
	w := newWorld(t, host.Options{Size: 2 << 30})
	once := func(name string) {
		w.ok(t, w.plug.Create(name, map[string]string{"profile": "gone"}))
		// Mounted with another spelling of the name than it was made with.
		w.plug.Within(t, name+"@gone", func(root string) { w.ok(t, writeFile(filepath.Join(root, "file"), []byte(name))) })
		w.ok(t, w.plug.Remove(name+"@gone"))
		w.ok(t, w.plug.Remove(name))
	}
	cycle := func(from, to int) {
		const users = 4
		var all sync.WaitGroup
		for user := range users {
			all.Go(func() {
				for i := from + user; i < to; i += users {
					once(fmt.Sprintf("cycle%d", i))
				}
			})
		}
		all.Wait()
		w.settled(t)
		host.Await(t, "what was removed is destroyed", func() error {
			if left := names(t, filepath.Join(w.poolPath(t, "default"), "datasets")); len(left) > 0 {
				return fmt.Errorf("%d datasets", len(left))
			}
			return nil
		})
	}
	rounds := long.Rounds(250, 5000)
	cycle(0, rounds/5) // caches and connection pools are full by then
	before := w.usage(t)
	cycle(rounds/5, rounds)
	const slack = 16 << 20
	host.Await(t, "all is back where it began", func() error {
		after := w.usage(t)
		if after.files > before.files || after.goroutines > before.goroutines || after.entries > before.entries ||
			after.loops > 0 || after.mounts > 0 || after.rss > before.rss+slack {
			return fmt.Errorf("%+v, then %+v", before, after)
		}
		return nil
	})
	w.tidy(t)
	if left := names(t, filepath.Join(w.h.Root, "mnt")); len(left) > 0 {
		t.Errorf("mount points: %v", left)
	}
	w.h.Stop(t)
	if left := w.remembered(t); len(left) > 0 {
		t.Errorf("the agent remembers %v", left)
	}
	w.h.Up(t)
	w.tidy(t)
}

// remembered lists the keys of the agent's local state, while the agent is down, except those that it always has.
func (w *world) remembered(t testing.TB) (keys []string) {
	t.Helper()
	st, err := bolt.Open(t.Context(), filepath.Join(w.h.Root, "agent.db"), bolt.Options{Clock: clock.System{}})
	w.ok(t, err)
	defer st.Close()
	list, err := st.List(t.Context(), "", "", 0)
	w.ok(t, err)
	for _, e := range list {
		if !slices.Contains([]string{"format", "identity", "engine", "incarnations", "answered", "pools/default"}, e.Key) {
			keys = append(keys, e.Key)
		}
	}
	return keys
}
