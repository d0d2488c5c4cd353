package agent

import (
	"context"
	"encoding/json"
	"os/exec"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/plugin"
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
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := process.Of(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
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

// by mounts a volume for a process.
func (r *rig) by(c caller, volume, id string) {
	r.t.Helper()
	if _, err := r.Mount(c, volume, id); err != nil {
		r.t.Fatal(err)
	}
}

// wantUnverified fails unless exactly these uses are unverified.
func (r *rig) wantUnverified(want map[string]bool) {
	r.t.Helper()
	for _, id := range r.uses.InUse() {
		for _, m := range r.engines.MountsOf(r.uses.Get(id)) {
			if m.Unverified != want[m.ID] {
				r.t.Errorf("use %s is unverified: %t, want %t", m.ID, m.Unverified, want[m.ID])
			}
		}
	}
}

// TestI9Podman: each command of Podman activates the plugin and ends. None of them is another
// engine, neither to Podman's uses nor to a Docker engine's, and none writes to the agent's state.
func TestI9Podman(t *testing.T) {
	r := newRig(t)
	db, held := r.volume("db"), r.volume("held")
	docker := newCaller(t)
	r.Activated(docker)
	r.by(docker, "db", "one")
	mount := newCaller(t)
	r.Activated(mount)
	r.by(mount, "held", mounting.PodmanID)
	mount.end()

	before, err := r.config.State.List(t.Context(), "", "", 0)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		command := newCaller(t)
		r.Activated(command)
		command.end()
	}
	after, err := r.config.State.List(t.Context(), "", "", 0)
	if err != nil || len(before) != len(after) {
		t.Fatalf("%d keys, then %d, %v", len(before), len(after), err)
	}
	for i := range after {
		if before[i].Key == "engine" && before[i].Index != after[i].Index {
			t.Errorf("an activation wrote %s", after[i].Key)
		}
	}
	r.wantUnverified(nil)
	r.after(time.Hour)
	r.want(db, "one")
	r.want(held, mounting.PodmanID)
	for range 2 { // also when Drover starts again, and nobody is to be found who has it
		r.restart()
		r.after(mounting.InheritedGrace)
		r.after(mounting.VerifyEvery)
		r.want(held, mounting.PodmanID)
	}

	unmount := newCaller(t)
	r.Activated(unmount)
	if err := r.Unmount(unmount, "held", mounting.PodmanID); err != nil {
		t.Fatal(err)
	}
	r.want(held)
}

// TestI9Engines: only the uses of an engine that has ended are unverified, and only once a process
// activates the plugin after it.
func TestI9Engines(t *testing.T) {
	r := newRig(t)
	r.volume("db")
	one, two := newCaller(t), newCaller(t)
	for _, e := range []caller{one, two} {
		r.Activated(e)
	}
	r.by(one, "db", "one")
	r.by(two, "db", "two")
	r.Activated(one) // its first answer was lost
	r.by(one, "db", "another")
	r.wantUnverified(nil)
	one.end()
	r.wantUnverified(nil)
	r.restart()
	r.wantUnverified(nil)
	r.by(two, "db", "more") // which does not activate a plugin again that was restarted

	next := newCaller(t)
	r.Activated(next)
	r.wantUnverified(map[string]bool{"one": true, "another": true})
	r.by(next, "db", "one")
	r.wantUnverified(map[string]bool{"another": true})
	r.restart()
	r.wantUnverified(map[string]bool{"another": true})
	two.end()
	r.Activated(newCaller(t))
	r.wantUnverified(map[string]bool{"two": true, "more": true, "another": true})
}

// TestI9Proxy: a proxy that makes a process for each connection is no engine each time.
func TestI9Proxy(t *testing.T) {
	r := newRig(t)
	r.volume("db")
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
		r.by(c, "db", "one")
		c.end()
	}
	r.wantUnverified(nil)
	var record struct {
		Running []json.RawMessage `json:"running"`
	}
	if _, err := r.DB.Get(t.Context(), "engine", &record); err != nil {
		t.Fatal(err)
	}
	if n := len(record.Running); n != 1 {
		t.Errorf("%d engines", n)
	}
	r.Activated(connection())
	r.wantUnverified(map[string]bool{"one": true})
}

// TestI9CallerNotKnown: of engines in other PID namespaces each activation may be another one.
func TestI9CallerNotKnown(t *testing.T) {
	r := newRig(t)
	r.volume("db")
	docker := newCaller(t)
	r.Activated(docker)
	r.by(docker, "db", "known")
	r.Activated(t.Context())
	r.by(caller{Context: t.Context()}, "db", "hidden")
	r.wantUnverified(nil)
	r.Activated(t.Context())
	r.wantUnverified(map[string]bool{"hidden": true})
}

// TestI9EngineOfAnOlderVersion: its record names no process, so the next activation ends it.
func TestI9EngineOfAnOlderVersion(t *testing.T) {
	r := newRig(t)
	r.volume("db")
	if err := r.DB.Put(t.Context(), map[string]any{"engine": map[string]any{"generation": 7}}); err != nil {
		t.Fatal(err)
	}
	r.restart()
	docker := newCaller(t)
	r.by(docker, "db", "one")
	if g := r.engines.Newest(); g != 7 {
		t.Errorf("generation %d, want 7: it runs since before the agent was replaced", g)
	}
	r.Activated(newCaller(t))
	r.wantUnverified(map[string]bool{"one": true})
}
