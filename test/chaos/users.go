package chaos

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/history"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// volume is a volume that containers use.
type volume struct {
	name    string
	profile string
	id      uuid.UUID

	mu            sync.Mutex
	writers       map[*writer]bool       // the writers that run
	uses          map[string]use         // by mount ID, until their end is requested
	barred        map[*cluster.Host]bool // no container with the volume is started on these hosts
	losses        []witness.Loss         // losses that were announced
	releasedHeads []witness.Copy         // superseded heads that were released since
}

// use is a granted use of a volume.
type use struct {
	on    *cluster.Host
	epoch uint64
}

// writer is a container: a program in its own mount namespace that writes to a volume of a host through one file.
// Or it is a process that keeps a copy of a container's namespace.
type writer struct {
	on      *cluster.Host
	id      string // its mount ID; empty: the engine does not know the process
	epoch   uint64 // epoch of the mount
	name    string
	crowded bool // it has many descriptors
	proc    *child.Process

	engine     sync.Mutex // serializes the actions on a container
	stopped    bool       // the engine has stopped it
	unanswered int        // mounts for docker cp whose answer was lost
	forgotten  bool       // the engine has unmounted its volume while it ran, and will not unmount it again
}

// The profiles. A volume of most profiles has two users, each of which moves between the hosts. A volume of
// profile staying is used on one host only, without end, so that each fault meets a writer; there is one such
// volume for each host. A volume of profile rolled is used only by the operators, who restore it.
const (
	plain, safe, auto, staying, rolled = "plain", "safe", "auto", "staying", "rolled"

	usersOf = 2
)

func (k *Campaign) makeVolumes(t testing.TB) {
	t.Helper()
	for i, profile := range []string{plain, safe, auto, plain, safe, auto, auto, staying, staying, staying, rolled} {
		v := &volume{
			name: fmt.Sprintf("%s-%d-%d", profile, k.opts.Seed, i+1), profile: profile,
			writers: map[*writer]bool{}, uses: map[string]use{}, barred: map[*cluster.Host]bool{},
		}
		h := k.Hosts[i%len(k.Hosts)]
		require.NoError(t, h.Plug(t).Create(v.name+"@"+profile, nil))
		v.id = h.Inspect(t, v.name).ID
		k.volumes = append(k.volumes, v)
	}
}

// startUsers starts the users of the volumes, and the operators. The returned function ends them, and waits until
// they have stopped their containers.
func (k *Campaign) startUsers(t testing.TB) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	watching, end := context.WithCancel(context.Background())
	var all, watch sync.WaitGroup
	for i, v := range k.volumes {
		for n := range usersOf {
			if v.profile == rolled {
				continue
			}
			u := &user{k: k, v: v, only: -1, random: rand.New(rand.NewPCG(k.opts.Seed, uint64(100+10*i+n)))}
			if v.profile == staying {
				if u.only = i % len(k.Hosts); n > 0 {
					continue
				}
			}
			for _, h := range k.Hosts {
				u.plugs = append(u.plugs, k.engines[h].plug)
			}
			all.Go(func() { u.run(ctx, t) })
		}
	}
	o := &operator{k: k, random: rand.New(rand.NewPCG(k.opts.Seed, 2))}
	all.Go(func() { o.run(ctx, t) })
	watch.Go(func() { k.restorer.watchStore(watching, t) }) // a fenced writer ends only if its agent trusts the store
	stop = func() { cancel(); all.Wait(); end(); watch.Wait() }
	t.Cleanup(stop)
	return stop
}

// runningWriters returns how many writers run.
func (s *scene) runningWriters() (n int) {
	for _, v := range s.volumes {
		v.mu.Lock()
		n += len(v.writers)
		v.mu.Unlock()
	}
	return n
}

// user starts containers with a volume, on one host after the other. Its choices depend only on the seed, and not on
// the results of its actions.
type user struct {
	k      *Campaign
	v      *volume
	plugs  []*host.Plug // one for each host
	only   int          // index of the host on which it stays; -1: it moves
	random *rand.Rand
}

func (u *user) run(ctx context.Context, t testing.TB) {
	for ctx.Err() == nil {
		at := u.random.IntN(len(u.k.Hosts))
		stays, pause := draw(u.random, 500*time.Millisecond, 6*time.Second), draw(u.random, 0, 1500*time.Millisecond)
		crowded := u.random.IntN(crowdedEvery) == 0
		if u.only >= 0 {
			at, stays = u.only, time.Hour
		}
		id := host.NewID()
		path, epoch, begun := u.mount(t, at, id)
		unmounts := 1
		if path != "" {
			w := &writer{on: u.k.Hosts[at], id: id, epoch: epoch, name: "w" + id[:12], crowded: crowded}
			unmounts = u.runWriter(ctx, t, w, path, stays)
		}
		if begun {
			u.unmount(t, at, id, unmounts)
		}
		wait(ctx, pause)
	}
}

func wait(ctx context.Context, d time.Duration) {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
}

// mount mounts the volume on a host for a mount ID, and returns the path and the epoch. begun reports whether the
// volume may be mounted, even if the answer was lost.
func (u *user) mount(t testing.TB, at int, id string) (path string, epoch uint64, begun bool) {
	h := u.k.Hosts[at]
	if !u.k.mayStart(h, u.v) {
		return "", 0, false
	}
	began := time.Now()
	end := u.k.leases.Begin(history.Request{Key: u.v.id.String(), Kind: history.Mount, Node: h.Name, ID: id})
	path, err := u.plugs[at].Mount(u.v.name, id)
	checkTime(t, "mount of "+u.v.name+" on "+h.Name, began)
	switch {
	case errors.Is(err, host.ErrBroken):
		u.k.report.count("mounts without answer")
		return "", 0, true
	case err != nil:
		end(history.Answer{Refused: true})
		u.k.report.count("mounts refused")
		return "", 0, false
	}
	if epoch, err = h.Epoch(u.v.id); err != nil {
		t.Errorf("mounted %s on %s: %v", u.v.name, h.Name, err)
		return "", 0, true
	}
	u.v.noteFencedUses(u.k, h, epoch, began)
	end(history.Answer{Epoch: epoch})
	u.v.mu.Lock()
	u.v.uses[id] = use{h, epoch}
	u.v.mu.Unlock()
	u.k.report.count("mounts done")
	return path, epoch, true
}

// noteFencedUses records that uses on other hosts ended with their epoch. They were fenced before a volume with
// failover auto continued here. The notes of the writers show whether that is true.
func (v *volume) noteFencedUses(k *Campaign, h *cluster.Host, epoch uint64, began time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for id, was := range v.uses {
		if v.profile != auto || was.on == h || was.epoch >= epoch {
			continue
		}
		delete(v.uses, id)
		k.leases.Happened(history.Request{
			Key:  v.id.String(),
			Kind: history.Fence,
			Node: was.on.Name,
		}, began, history.Answer{Done: true})
	}
}

// runWriter runs a writer in a mounted volume for a while. It returns how often the engine unmounts the mount ID
// afterwards.
func (u *user) runWriter(
	ctx context.Context, t testing.TB, w *writer, path string, stays time.Duration,
) (unmounts int) {
	root := filepath.Join(u.k.dir, w.name)
	if err := os.Mkdir(root, 0o700); err != nil {
		t.Error(err)
		return 1
	}
	if !u.k.start(t, u.v, w, "-root", root, "-volume", path, "-logs", u.k.dir) {
		return 1
	}
	select {
	case <-ctx.Done():
	case <-w.proc.Done(): // its host was lost
	case <-time.After(stays):
	}
	u.k.checkUse(t, u.v, w, "at the end of its container")
	w.engine.Lock()
	defer w.engine.Unlock()
	u.k.stop(t, u.v, w)
	u.k.checkNotes(t, u.v, w)
	if w.forgotten {
		return w.unanswered
	}
	return 1 + w.unanswered
}

// stop ends a writer.
func (s *scene) stop(t testing.TB, v *volume, w *writer) {
	within := time.Minute
	if v.profile == auto {
		within = 2 * cluster.Limit // it is fenced while the store is not trusted
	}
	if err := w.proc.End(unix.SIGKILL, within); err != nil {
		t.Errorf("writer of %s on %s: %v", v.name, w.on.Name, err)
		s.explain(t, v, w.on)
	}
	w.stopped = true
	v.mu.Lock()
	delete(v.writers, w)
	v.mu.Unlock()
}

// start starts a writer in the mount namespace that box describes, unless its host was lost meanwhile.
func (s *scene) start(t testing.TB, v *volume, w *writer, box ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lost[w.on] {
		return false
	}
	args := append([]string{
		s.writer, "-file", "/data/" + cluster.Tokens, "-log", "/logs/" + w.name +
			".log", "-writer", w.name, "-every", "20ms",
		"-dataset", v.id.String(), "-node", w.on.Name, "-epoch", fmt.Sprint(w.epoch),
	}, box...)
	if w.crowded {
		args = append(args, "-descriptors", fmt.Sprint(crowd))
	}
	proc, err := child.Start(child.Spec{Log: s.log(w) + ".output", Args: w.on.On.Command(args...)})
	if err != nil {
		t.Error(err)
		return false
	}
	w.proc = proc
	v.mu.Lock()
	defer v.mu.Unlock()
	v.writers[w] = true
	return true
}

func (s *scene) log(w *writer) string { return filepath.Join(s.dir, w.name+".log") }

// mayStart reports whether containers with a volume may be started on a host: the host was not lost, or has
// learned since then what happened to the volume.
func (s *scene) mayStart(h *cluster.Host, v *volume) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	v.mu.Lock()
	defer v.mu.Unlock()
	return !s.lost[h] && !v.barred[h]
}

// unmount ends a use. It repeats each of the unmounts until it is answered, as an engine does.
func (u *user) unmount(t testing.TB, at int, id string, unmounts int) {
	h := u.k.Hosts[at]
	u.v.mu.Lock()
	delete(u.v.uses, id)
	u.v.mu.Unlock()
	end := u.k.leases.Begin(history.Request{Key: u.v.id.String(), Kind: history.Unmount, Node: h.Name, ID: id})
	for range unmounts {
		u.k.unmount(t, h, u.v, id)
	}
	end(history.Answer{Done: true})
	u.k.report.count("unmounts done")
}

func (s *scene) unmount(t testing.TB, h *cluster.Host, v *volume, id string) {
	began := time.Now()
	for {
		err := s.engines[h].plug.Unmount(v.name, id)
		if err == nil {
			return
		}
		if time.Since(began) > cluster.Limit {
			t.Errorf("unmount of %s on %s: %v", v.name, h.Name, err)
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
}
