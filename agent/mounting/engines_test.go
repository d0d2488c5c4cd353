package mounting_test

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/plugin"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// caller is a process that calls the plugin, as an engine or a command of Podman does.
type caller struct {
	context.Context
	end func()
}

// newCaller starts a process that lives until end is called.
func newCaller(t *testing.T) caller {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	require.NoError(t, cmd.Start())
	id, err := process.Of(cmd.Process.Pid)
	require.NoError(t, err)
	c := caller{Context: plugin.WithCaller(t.Context(), id)}
	ended := false
	c.end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(c.end)
	return c
}

// by mounts a volume in the name of a process.
func by(r *agenttest.Host, c caller, volume, id string) {
	r.T.Helper()
	_, err := r.Mount(c, volume, id)
	require.NoError(r.T, err)
}

// wantUnverified fails unless exactly these uses are unverified.
func wantUnverified(r *agenttest.Host, want map[string]bool) {
	r.T.Helper()
	for _, id := range r.Uses.InUse() {
		for _, m := range r.Engines.MountsOf(r.Uses.Get(id)) {
			if m.Unverified != want[m.ID] {
				r.T.Errorf("use %s is unverified: %t, want %t", m.ID, m.Unverified, want[m.ID])
			}
		}
	}
}

// TestI9PodmanCommandsAreNotNewEngines: each command of Podman activates the plugin and ends. None of them is another
// engine, neither to Podman's uses nor to a Docker engine's, and none writes to the agent's state.
func TestI9PodmanCommandsAreNotNewEngines(t *testing.T) {
	r := agenttest.New(t)
	db, held := r.NewVolume("db"), r.NewVolume("held")
	docker := newCaller(t)
	r.Activated(docker)
	by(r, docker, "db", "one")
	mount := newCaller(t)
	r.Activated(mount)
	by(r, mount, "held", mounting.PodmanID)
	mount.end()

	before, err := r.Config.State.List(t.Context(), "", "", 0)
	require.NoError(t, err)
	for range 3 {
		command := newCaller(t)
		r.Activated(command)
		command.end()
	}
	after, err := r.Config.State.List(t.Context(), "", "", 0)
	if err != nil || len(before) != len(after) {
		t.Fatalf("%d keys, then %d, %v", len(before), len(after), err)
	}
	for i := range after {
		if before[i].Key == "engine" && before[i].Index != after[i].Index {
			t.Errorf("an activation wrote %s", after[i].Key)
		}
	}
	wantUnverified(r, nil)
	r.Advance(time.Hour)
	r.WantUses(db, "one")
	r.WantUses(held, mounting.PodmanID)
	for range 2 { // also when Drover starts again, and no user of the volume can be found
		r.Restart()
		r.Advance(mounting.MountedGrace)
		r.Advance(mounting.VerifyEvery)
		r.WantUses(held, mounting.PodmanID)
	}

	unmount := newCaller(t)
	r.Activated(unmount)
	require.NoError(t, r.Unmount(unmount, "held", mounting.PodmanID))
	r.WantUses(held)
}

// TestI9UsesOfSeveralEngines: only the uses of an engine that has ended are unverified, and only after another
// process activates the plugin.
func TestI9UsesOfSeveralEngines(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	one, two := newCaller(t), newCaller(t)
	for _, e := range []caller{one, two} {
		r.Activated(e)
	}
	by(r, one, "db", "one")
	by(r, two, "db", "two")
	r.Activated(one) // the answer to its first request was lost
	by(r, one, "db", "another")
	wantUnverified(r, nil)
	one.end()
	wantUnverified(r, nil)
	r.Restart()
	wantUnverified(r, nil)
	by(r, two, "db", "more") // an engine does not activate a restarted plugin again

	next := newCaller(t)
	r.Activated(next)
	wantUnverified(r, map[string]bool{"one": true, "another": true})
	by(r, next, "db", "one")
	wantUnverified(r, map[string]bool{"another": true})
	r.Restart()
	wantUnverified(r, map[string]bool{"another": true})
	two.end()
	r.Activated(newCaller(t))
	wantUnverified(r, map[string]bool{"two": true, "more": true, "another": true})
}

// TestI9EngineBehindProxy: a proxy that makes a process for each connection is not a new engine each time.
func TestI9EngineBehindProxy(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	connection := func() caller {
		c := newCaller(t)
		t.Cleanup(c.end)
		return c
	}
	first := connection()
	r.Activated(first)
	first.end()
	for range 3 {
		c := connection()
		by(r, c, "db", "one")
		c.end()
	}
	wantUnverified(r, nil)
	var record struct {
		Running []json.RawMessage `json:"running"`
	}
	_, err := r.DB.Get(t.Context(), "engine", &record)
	require.NoError(t, err)
	if n := len(record.Running); n != 1 {
		t.Errorf("%d engines", n)
	}
	r.Activated(connection())
	wantUnverified(r, map[string]bool{"one": true})
}

// TestI9CallerNotKnown: if engines are in other PID namespaces, each activation may be by another engine.
func TestI9CallerNotKnown(t *testing.T) {
	r := agenttest.New(t)
	r.NewVolume("db")
	docker := newCaller(t)
	r.Activated(docker)
	by(r, docker, "db", "known")
	r.Activated(t.Context())
	by(r, caller{Context: t.Context()}, "db", "hidden")
	wantUnverified(r, nil)
	r.Activated(t.Context())
	wantUnverified(r, map[string]bool{"hidden": true})
}

// TestReportHasAllNamesOrNone: control refuses a report with too many names, and a part of them would say that the
// other names are not used.
func TestReportHasAllNamesOrNone(t *testing.T) {
	r := agenttest.New(t)
	for _, tc := range []struct{ others, want int }{
		{dataset.MaxEngineNames - 1, dataset.MaxEngineNames}, {dataset.MaxEngineNames, 0},
	} {
		use := mounting.Use{Count: 1, Spelling: "db", OtherSpellings: make([]string, tc.others)}
		mounts := r.Engines.MountsOf(mounting.Record{IDs: map[string]mounting.Use{"m": use}})
		if len(mounts) != 1 || len(mounts[0].Names) != tc.want {
			t.Errorf("with %d other names: got %+v, want %d names", tc.others, mounts, tc.want)
		}
	}
}

// hookedStore calls a function, if one is set, before it writes a mount record.
type hookedStore struct {
	store.Store
	onMounts *func()
}

func (s hookedStore) Txn(ctx context.Context, checks []store.Precondition, writes []store.Write) (uint64, error) {
	for _, w := range writes {
		if f := *s.onMounts; f != nil && strings.HasPrefix(w.Key, "mounts/") {
			f()
		}
	}
	return s.Store.Txn(ctx, checks, writes)
}

// TestI9PodmanGivesUp: Podman keeps its count if it stops waiting for an Unmount. Then the use stays, whether Podman
// disconnected before or while the end was recorded.
func TestI9PodmanGivesUp(t *testing.T) {
	var hangUp func()
	r := agenttest.New(t, func(c *agent.Config) { c.State = hookedStore{c.State, &hangUp} })
	d := r.NewVolume("db")
	r.MountDataset(d, mounting.PodmanID)
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Unmount(gone, "db", mounting.PodmanID); err == nil {
		t.Error("an unmount that nobody waits for succeeded")
	}
	r.WantUses(d, mounting.PodmanID)

	during, cancel := context.WithCancel(t.Context())
	hangUp = cancel
	if err := r.Unmount(during, "db", mounting.PodmanID); err == nil {
		t.Error("an unmount that nobody waited for to the end succeeded")
	}
	hangUp = nil
	r.WantUses(d, mounting.PodmanID)
	r.Restart()
	r.WantUses(d, mounting.PodmanID)
	assert.NoError(t, r.Unmount(t.Context(), "db", mounting.PodmanID))
	r.WantUses(d)
}

// TestI9PodmanHearsNoError: an Unmount by Podman succeeds once its use has ended, even if the host keeps the mount
// busy.
func TestI9PodmanHearsNoError(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, mounting.PodmanID)
	shell, err := os.Open(r.MountPath(d.ID))
	require.NoError(t, err)
	defer shell.Close()
	assert.NoErrorf(t, r.Unmount(t.Context(), "db", mounting.PodmanID), "unmount while the host is in it")
	if ids := r.Uses.Get(d.ID).SortedIDs(); len(ids) > 0 {
		t.Errorf("uses: %v", ids)
	}
	// A container that starts before the unmount was retried gets the volume.
	r.MountDataset(d, mounting.PodmanID)
	r.WantUses(d, mounting.PodmanID)
	assert.NoErrorf(t, r.Unmount(t.Context(), "db", mounting.PodmanID), "unmount while the host is in it")
	require.NoError(t, shell.Close())
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(mounting.IdleLimit)
		mounted, err := host.IsMountPoint(r.MountPath(d.ID))
		return err == nil && !mounted
	})
	r.WantUses(d)
}

// TestI9PodmanIsAnsweredInTime: an Unmount by Podman is answered before Podman gives up, even if the kernel takes
// longer.
func TestI9PodmanIsAnsweredInTime(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, mounting.PodmanID)
	// A job with this key stands for an unmount in progress.
	begun, end := make(chan struct{}), make(chan struct{})
	release := sync.OnceFunc(func() { close(end) })
	defer release()
	slow := r.Jobs.Start("unmount/"+d.ID.String(), func(context.Context, *host.Job) error { close(begun); <-end; return nil })
	<-begun
	answered := make(chan error)
	go func() { answered <- r.Unmount(t.Context(), "db", mounting.PodmanID) }()
	agenttest.Await(t, func() bool {
		r.FakeClock.Advance(mounting.PodmanPatience)
		select {
		case err := <-answered:
			assert.NoErrorf(t, err, "slow unmount")
			return true
		default:
			return false
		}
	})
	release()
	<-slow.Ended()
	r.Restart() // the job was not a real unmount: the next start finds the mount
	r.WantUses(d)
}
