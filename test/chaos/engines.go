package chaos

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/host"
)

// dockerd imitates the Docker engine of a host: a process that calls the plugin for the host's users. It
// has live-restore: containers outlive the process, and the next process neither mounts nor unmounts for
// them. Safe for concurrent use.
type dockerd struct {
	k    *Campaign
	on   *cluster.Host
	plug *host.Plug // calls the plugin through the engine process that runs now

	mu   sync.Mutex
	proc *child.Process
}

// startEngines starts an engine on each host. The caller calls end to end them.
func (k *Campaign) startEngines(t testing.TB) (end func()) {
	k.engines = map[*cluster.Host]*dockerd{}
	for _, h := range k.Hosts {
		e := &dockerd{k: k, on: h}
		e.plug = host.NewPlug(t, e.socket())
		k.engines[h] = e
		e.start(t)
	}
	return func() {
		for _, e := range k.engines {
			e.kill(t)
		}
	}
}

// part waits until no other fault has stopped the engine, and reserves it until done is called.
func (e *dockerd) part() (done func()) { return e.k.parts.reserve("engine of " + e.on.Name) }

func (e *dockerd) socket() string { return filepath.Join(e.on.Dir, "engine.sock") }

// start starts a new process and waits until it accepts requests.
func (e *dockerd) start(t testing.TB) {
	t.Helper()
	plugin := filepath.Join("/run/docker/plugins", e.on.Driver+".sock")
	ready := make(chan struct{})
	proc, err := play(e.on.On, "engine", filepath.Join(e.on.Dir, "engine.log"), 0, func(string) { close(ready) },
		e.socket(), plugin)
	if err != nil {
		t.Error(err)
		return
	}
	select {
	case <-ready:
	case <-proc.Done():
		t.Errorf("the engine of %s ended: %v", e.on.Name, proc.Err())
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.proc = proc
}

// kill kills the process and waits for its end. Its pending requests get no answer.
func (e *dockerd) kill(t testing.TB) {
	t.Helper()
	assert.NoError(t, e.process().End(unix.SIGKILL, time.Minute))
}

func (e *dockerd) process() *child.Process {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.proc
}

// copyFiles calls cp, which imitates docker cp, concurrently for each container of a host.
func (d *disturber) copyFiles(h *cluster.Host, cp func(c container)) {
	var all sync.WaitGroup
	for _, c := range d.containers(h) {
		if c.w.id != "" {
			all.Go(func() { cp(c) })
		}
	}
	all.Wait()
}

// failCopy imitates a docker cp that fails because another driver refuses another volume of the
// container: the engine unmounts this volume without having mounted it, and then believes that the
// container does not use it any more.
func (d *disturber) failCopy(t testing.TB, v *volume, w *writer) {
	w.engine.Lock()
	defer w.engine.Unlock()
	if w.stopped || w.forgotten {
		return
	}
	d.unmount(t, w.on, v, w.id)
	w.forgotten = true
	d.report.count("copies failed")
	d.checkUse(t, v, w, "after docker cp failed")
}

// copyFrom imitates docker cp: the engine mounts the volume once more with the mount ID of the container,
// and unmounts it. If the mount fails, the command fails, which is no error of the test.
func (d *disturber) copyFrom(t testing.TB, v *volume, w *writer, lasts time.Duration) {
	w.engine.Lock()
	defer w.engine.Unlock()
	if w.stopped {
		return
	}
	id := w.id
	if w.forgotten {
		id = host.NewID()
	}
	began := time.Now()
	_, err := d.engines[w.on].plug.Mount(v.name, id)
	checkTime(t, "mount of "+v.name+" on "+w.on.Name+" for docker cp", began)
	switch {
	case errors.Is(err, host.ErrBroken):
		if w.forgotten {
			d.unmount(t, w.on, v, id)
		} else {
			w.unanswered++
		}
		d.report.count("copies without answer")
		return
	case err != nil:
		d.report.count("copies refused")
		return
	}
	time.Sleep(lasts)
	d.unmount(t, w.on, v, id)
	d.report.count("copies done")
	d.checkUse(t, v, w, "after docker cp")
}

// container is a running container, or a process that imitates one.
type container struct {
	v *volume
	w *writer
}

// containers returns the containers on a host, ordered by volume.
func (s *scene) containers(h *cluster.Host) (all []container) {
	for _, v := range s.volumes {
		v.mu.Lock()
		for w := range v.writers {
			if w.on == h {
				all = append(all, container{v, w})
			}
		}
		v.mu.Unlock()
	}
	slices.SortStableFunc(all, func(a, b container) int { return bytes.Compare(a.v.id[:], b.v.id[:]) })
	return all
}

// checkUse fails the test if the use of a container has ended while the container runs. If the engine was killed or has
// forgotten a container, the agent cannot assign uses to containers. In that case it may have ended the use of w and
// kept another use of the volume.
func (s *scene) checkUse(t testing.TB, v *volume, w *writer, when string) {
	t.Helper()
	known, list := s.useOf(v, w)
	if !known {
		return
	}
	s.report.count("uses looked at")
	s.mu.Lock()
	lost := s.lost[w.on]
	s.mu.Unlock()
	if list == nil || lost || w.forgotten && len(list) > 0 || slices.ContainsFunc(list, isUnverified) ||
		!canWrite(w.proc.PID()) {
		return
	}
	t.Errorf("the use of %s on %s by container %s has ended %s, and the container runs: %v", v.name, w.on.Name,
		w.name, when, list)
}

// useOf asks the host of a container for the uses of its volume. If the use of the container is among
// them, others is nil, otherwise it lists them all. known is false if the agent does not answer, or if the
// volume has another home by now.
func (s *scene) useOf(v *volume, w *writer) (known bool, others []any) {
	a, err := s.engines[w.on].plug.Get(v.name)
	if err != nil || a.Volume == nil || a.Volume.Status["node"] != w.on.Name {
		return false, nil
	}
	list, known := a.Volume.Status["mounts"].([]any)
	used := slices.ContainsFunc(list, func(m any) bool {
		use, _ := m.(map[string]any)
		return use["id"] == w.id
	})
	if used {
		return known, nil
	}
	return known, append([]any{}, list...)
}

// isUnverified reports whether a use ends only after a look at the host.
func isUnverified(use any) bool {
	fields, _ := use.(map[string]any)
	return fields["unverified"] == true
}

// canWrite reports whether a process can still write: it has not ended, and no SIGKILL is pending.
func canWrite(pid int) bool {
	if state := stateOf(pid); state == 0 || state == 'Z' || state == 'X' {
		return false
	}
	for _, name := range []string{"SigPnd", "ShdPnd"} {
		const killed = 1 << (unix.SIGKILL - 1)
		if pending, err := strconv.ParseUint(status(pid, name), 16, 64); err != nil || pending&killed != 0 {
			return false
		}
	}
	return true
}

// stateOf returns the state of a process, or 0 if there is no such process.
func stateOf(pid int) byte { return (status(pid, "State") + "\x00")[0] }

// status returns a field of proc_pid_status(5), or "".
func status(pid int, field string) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	for line := range strings.Lines(string(b)) {
		if name, value, _ := strings.Cut(line, ":"); name == field {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
