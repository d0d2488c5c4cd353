package cluster_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// testControlAway: without control nothing is decided. Home volumes continue to work, even if their agent is killed.
func testControlAway(t *testing.T, w *world) {
	prepareAlone(t, w)
	for _, r := range w.Controls {
		r.Kill9(t)
	}
	wantAlone(t, w)
	for _, r := range w.Controls {
		r.Up(t)
	}
	wantTogether(t, w)
}

// prepareAlone makes a volume on each host, for wantAlone.
func prepareAlone(t *testing.T, w *world) {
	t.Helper()
	for _, h := range w.Hosts {
		require.NoError(t, h.Plug(t).Create("home-"+h.Name, nil))
		mounted(t, h, "home-"+h.Name, func(at string) {
			require.NoError(t, os.WriteFile(h.File(filepath.Join(at, "file")), []byte(h.Name), 0o600))
		})
	}
}

// wantAlone fails unless each host, without anything that could decide, does what it can do alone, and says of
// everything else why it cannot (B5, I7).
func wantAlone(t *testing.T, w *world) {
	t.Helper()
	for _, wr := range w.writers {
		wr.AwaitProgress(t)
	}
	var all sync.WaitGroup
	for i, h := range w.Hosts {
		all.Go(func() {
			wantHome(t, h)
			wantUndecided(t, h)
			if i == 1 {
				return // one agent keeps running
			}
			// An agent that starts must find what it had before.
			was := mounts(t, h)
			h.Kill9(t)
			h.Up(t)
			if now := mounts(t, h); len(now) != len(was) || len(was) == 0 {
				t.Errorf("%s had %v mounted, and after a restart %v", h.Name, was, now)
			}
			wantHome(t, h)
		})
	}
	all.Wait()
	for _, wr := range w.writers {
		wr.AwaitProgress(t)
	}
}

// wantHome fails unless a host can use its own volumes.
func wantHome(t *testing.T, h *cluster.Host) {
	t.Helper()
	name := "home-" + h.Name
	mounted(t, h, name, func(at string) {
		if got, err := os.ReadFile(h.File(filepath.Join(at, "file"))); err != nil || string(got) != h.Name {
			t.Errorf("%s has %q in its volume, %v", h.Name, got, err)
		}
	})
	all, err := h.Plug(t).List()
	if err != nil || !strings.Contains(strings.Join(all, " "), name) {
		t.Errorf("%s lists %v, %v", h.Name, all, err)
	}
	for _, args := range [][]string{{"volume", "ls"}, {"volume", "inspect", name}, {"snapshot", "ls", name}, {"trash", "ls"}, {"pool", "ls"}} {
		r := h.Exec(t, args...)
		if r.Exit != 0 || args[0] == "volume" && !strings.Contains(r.Out, name) ||
			strings.Count(r.Err, "drover: control is unreachable: this is from the records of this host") != 1 {
			t.Errorf("drover %v on %s without control: exit %d, %q, %q; want what the host knows, and a note about its age",
				args, h.Name, r.Exit, r.Out, r.Err)
		}
	}
	if h.Engine == nil {
		return
	}
	if got := once(t, h, name, "cat /data/file"); got != h.Name {
		t.Errorf("a container on %s has %q", h.Name, got)
	}
	if out := h.Docker(t, "volume", "ls", "-q"); !strings.Contains(out, name) {
		t.Errorf("docker volume ls on %s: %s", h.Name, out)
	}
	if out := h.Docker(t, "volume", "inspect", name); !strings.Contains(out, h.Name) {
		t.Errorf("docker volume inspect on %s: %s", h.Name, out)
	}
}

// wantUndecided fails unless requests that need a decision are refused, without saying that the volume does not
// exist.
func wantUndecided(t *testing.T, h *cluster.Host) {
	t.Helper()
	plug := h.Plug(t)
	began := time.Now()
	if err := plug.Create("undecided-"+h.Name, nil); err == nil || !isUnavailable(err) {
		t.Errorf("create on %s: %v", h.Name, err)
	}
	// The host was cut off just now: ten seconds, if the machine has nothing else to do.
	if after := time.Since(began); after > 20*time.Second {
		t.Errorf("a create on %s failed only after %s", h.Name, after)
	}
	// The plugin closes the connection of a slow request, because the engine takes an error to mean that the volume
	// does not exist.
	if _, err := plug.Get("elsewhere"); !errors.Is(err, host.ErrBroken) && (err == nil || !isUnavailable(err)) {
		t.Errorf("get of a name that %s does not know: %v", h.Name, err)
	}
	r := h.Exec(t, "volume", "create", "undecided-"+h.Name)
	if r.Exit != 1 || !isUnavailable(errText(r.Err)) || strings.Count(r.Err, "\n") != 1 {
		t.Errorf("drover volume create on %s: exit %d, %q", h.Name, r.Exit, r.Err)
	}
}

type errText string

func (e errText) Error() string { return string(e) }

// isUnavailable reports whether an error says that control or its store does not answer.
func isUnavailable(err error) bool {
	for _, word := range []string{"cannot reach", "does not answer", "did not answer", "does not respond", "did not respond", "no leader", "consul", "timed out", "refused"} {
		if strings.Contains(strings.ToLower(err.Error()), word) {
			return !strings.Contains(err.Error(), "no such volume")
		}
	}
	return false
}

// wantTogether waits until everything works as before.
func wantTogether(t *testing.T, w *world) {
	t.Helper()
	for _, h := range w.Hosts {
		plug := h.Plug(t)
		host.Await(t, "creates on "+h.Name+" are decided again", func() error { return plug.Create("again-"+h.Name, nil) })
		for _, name := range []string{"home-" + h.Name, "again-" + h.Name} {
			if _, err := plug.Get(name); err != nil {
				t.Errorf("%s on %s: %v", name, h.Name, err)
			}
		}
	}
}

// mounts lists the datasets that a host has mounted.
func mounts(t *testing.T, h *cluster.Host) (points []string) {
	t.Helper()
	err := h.On.Do(func() error {
		table, err := mount.Table()
		for _, m := range table.Under(filepath.Join(h.Root, "mnt")) {
			points = append(points, m.Mountpoint)
		}
		return err
	})
	require.NoError(t, err)
	return points
}
