package agent

import (
	"bufio"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/profiles"
)

// rig is an agent on real mounts, beside a control service that can be away, with
// a clock that the test moves.
type rig struct {
	profiles []byte
	engineCalls
	t        *testing.T
	root     string
	clock    *clock.Fake
	link     *link
	anew     func()        // starts control behind the link anew
	stored   *bolt.Store   // control's
	replicas []api.Service // control replicas that the agent tells apart; nil: link alone
	ends     []func()      // of the control services
}

// newRig starts one; what is to be otherwise is changed before.
func newRig(t *testing.T, change ...func(*Config)) *rig {
	t.Helper()
	return newRigOf(t, drover.Profiles, change...)
}

// newRigOf is one with other profiles than those that are shipped.
func newRigOf(t *testing.T, src []byte, change ...func(*Config)) *rig {
	t.Helper()
	r := &rig{t: t, root: t.TempDir(), clock: clock.NewFake(time.Now()), profiles: src}
	own, err := bolt.Open(t.Context(), filepath.Join(r.root, "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	r.link = r.control("store.db")
	cfg := Config{
		Root: r.root, NodeName: "host-a", Control: r.link,
		Pools:    []pool.Config{{Name: "default", Backend: "dir", Path: filepath.Join(r.root, "pool")}},
		Backends: backends.NewRegistry(dir.Backend{}), State: own, Clock: r.clock, Log: log,
	}
	for _, c := range change {
		c(&cfg)
	}
	r.start(cfg)
	t.Cleanup(func() {
		r.close()
		for _, end := range r.ends {
			end()
		}
		if err := own.Close(); err != nil {
			t.Error(err)
		}
		r.tidy()
	})
	return r
}

// control is a control service with a store of its own, until the rig is gone.
func (r *rig) control(file string) *link {
	r.t.Helper()
	st, err := bolt.Open(r.t.Context(), filepath.Join(r.root, file), bolt.Options{Clock: clock.System{}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.ends = append(r.ends, func() {
		if err := st.Close(); err != nil {
			r.t.Error(err)
		}
	})
	r.stored = st
	l, anew := r.serve()
	r.anew = anew
	return l
}

// serve is a control service on the store that was made last; anew has another take its
// place, which has only what is in the store.
func (r *rig) serve() (l *link, anew func()) {
	r.t.Helper()
	var now atomic.Pointer[http.Handler]
	end, st := func() {}, r.stored
	anew = func() {
		set, err := profiles.Parse("profiles.yaml", r.profiles)
		if err != nil {
			r.t.Fatal(err)
		}
		svc := control.New(control.Deps{
			Store: st, Profiles: func() control.Profiles { return set }, Clock: clock.System{},
			Failed: func(what string, err error) { r.t.Error(what, err) },
		})
		h := server.Handler(server.Deps{Service: svc})
		now.Store(&h)
		end()
		end = svc.Close
	}
	anew()
	loopback := client.NewLoopback(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { (*now.Load()).ServeHTTP(w, r) }))
	r.ends = append([]func(){func() { loopback.Close(); end() }}, r.ends...)
	return newLink(loopback), anew
}

func (r *rig) start(cfg Config) {
	r.t.Helper()
	cfg.Replicas = r.replicas
	a, err := New(r.t.Context(), cfg)
	if err == nil {
		err = a.Start(r.t.Context())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	r.Agent = a
}

func (r *rig) close() {
	r.t.Helper()
	if err := r.Agent.Close(); err != nil {
		r.t.Error(err)
	}
}

// restart is an agent that finds what the last one left.
func (r *rig) restart() {
	r.t.Helper()
	cfg := r.config
	r.close()
	r.start(cfg)
}

// tidy takes off what is mounted and makes the mount points removable.
func (r *rig) tidy() {
	points, _ := filepath.Glob(filepath.Join(r.root, "mnt", "*"))
	for _, p := range points {
		for unix.Unmount(p, unix.MNT_DETACH) == nil {
		}
		if err := mounting.RemoveMountPoint(p); err != nil {
			r.t.Error(err)
		}
	}
}

// volume makes a volume and returns its record.
func (r *rig) volume(name string) dataset.Dataset {
	r.t.Helper()
	if err := r.Create(r.t.Context(), name, nil); err != nil {
		r.t.Fatal(err)
	}
	d, ok := r.Cache.Volume(name)
	if !ok {
		r.t.Fatal("the volume is not known")
	}
	return d
}

func (r *rig) mount(d dataset.Dataset, id string) {
	r.t.Helper()
	if _, err := r.Mount(r.t.Context(), d.Volume, id); err != nil {
		r.t.Fatal(err)
	}
}

// after lets time pass, and the agent look.
func (r *rig) after(d time.Duration) {
	r.t.Helper()
	r.clock.Advance(d)
	r.verifier.CheckIfDue(r.t.Context())
}

func (r *rig) want(d dataset.Dataset, ids ...string) {
	r.t.Helper()
	rec := r.uses.Get(d.ID)
	for _, id := range ids {
		if rec.IDs[id].Count != 1 {
			r.t.Errorf("use %s is counted %d times, want 1", id, rec.IDs[id].Count)
		}
	}
	mounted, err := host.IsMountPoint(r.MountPath(d.ID))
	if len(rec.IDs) != len(ids) || mounted != (len(ids) > 0) || err != nil {
		r.t.Errorf("uses %v, mounted %t, %v; want uses %v", rec.IDs, mounted, err, ids)
	}
}

// container has a folder mounted in a mount namespace of its own until end is
// called.
func container(t *testing.T, path string) (end func()) {
	t.Helper()
	return uses(t, path, `mount --bind "$0" "$1" && echo ready && exec sleep infinity`)
}

// handedOver starts a process of the host that a container has handed a file of the dataset mounted on path
// to. The container has ended, so no mount namespace shows the mount.
func handedOver(t *testing.T, path string) (end func()) {
	t.Helper()
	return uses(t, path, `mount --bind "$0" "$1" && exec 3>"$1/handed" &&
		exec nsenter --mount="/proc/$2/ns/mnt" sh -c "echo ready && exec sleep infinity"`)
}

// holders are ways to use a dataset without Drover.
var holders = map[string]func(t *testing.T, path string) (end func()){"container": container, "handed over": handedOver}

// uses runs a shell script in a mount namespace of its own until end is called. It returns once the script has
// written a line.
func uses(t *testing.T, path, script string) (end func()) {
	t.Helper()
	cmd := exec.Command("sh", "-c", script, path, t.TempDir(), strconv.Itoa(os.Getpid()))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	ended := false
	end = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(end)
	return end
}

// Uses of an engine that is gone are void once nobody has the dataset mounted,
// and not before the new one had time to mount it again.
func TestUsesOfAnOlderEngine(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.Activated(ctx)
	d, other := r.volume("db"), r.volume("other")
	r.mount(d, "one")
	r.mount(d, "two")
	r.mount(other, "three")
	end := container(t, r.MountPath(d.ID))
	r.Activated(ctx)
	r.clock.Set(r.clock.Now().Add(time.Hour)) // no time to start containers in
	r.after(mounting.UnverifiedGrace - time.Second)
	r.want(d, "one", "two")
	r.want(other, "three")
	r.after(time.Second)
	r.want(d, "one", "two") // which of them the container is cannot be told
	r.want(other)
	r.mount(other, "four")
	r.after(mounting.VerifyEvery)
	r.want(other, "four")
	if err := r.Unmount(ctx, "db", "one"); err != nil {
		t.Fatal(err)
	}
	r.want(d, "two")
	end()
	r.after(mounting.VerifyEvery)
	r.want(d)
}

// An unmount that came while there was no agent is never told again: what was
// used before the start is void once nobody has the dataset mounted, and not
// before a container had time to start on it.
func TestUsesFromBeforeTheStart(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	r.Activated(ctx)
	d, again, bound := r.volume("db"), r.volume("again"), r.volume("bound")
	for _, v := range []dataset.Dataset{d, again, bound} {
		r.mount(v, "id-of-"+v.Volume)
	}
	r.restart()
	r.clock.Set(r.clock.Now().Add(time.Hour))
	// Somebody on the host has it, in no other namespace.
	place := t.TempDir()
	src, err := os.Open(r.MountPath(bound.ID))
	if err != nil {
		t.Fatal(err)
	}
	err = mount.Bind(src, place, mount.BindFlags{})
	if src.Close(); err != nil {
		t.Fatal(err)
	}
	for passed := time.Duration(0); passed < mounting.InheritedGrace-mounting.VerifyEvery; passed += mounting.VerifyEvery {
		r.after(mounting.VerifyEvery)
		r.want(d, "id-of-db")
	}
	// This container was stopped while there was no agent. It is started and stopped again.
	r.mount(again, "id-of-again")
	if err := r.Unmount(ctx, "again", "id-of-again"); err != nil {
		t.Fatal(err)
	}
	r.after(mounting.VerifyEvery)
	r.want(d)
	r.want(again, "id-of-again")
	r.want(bound, "id-of-bound")
	if err := mount.Unmount(place); err != nil {
		t.Fatal(err)
	}
	r.after(mounting.VerifyEvery)
	r.want(bound)
	r.want(again, "id-of-again")
	r.after(mounting.MountedGrace - 3*mounting.VerifyEvery)
	r.want(again, "id-of-again")
	r.after(2 * mounting.VerifyEvery)
	r.want(again)
}
