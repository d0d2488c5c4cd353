package chaos

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/cluster"
)

const (
	// crowd is how many descriptors a process with many of them has: as a large table of a Kafka or an
	// Elasticsearch, and below the limit of a test process here.
	crowd = 19_700
	// One container of crowdedEvery has many.
	crowdedEvery = 4
	// strangers is how many processes without a volume come at once that have many.
	strangers = 3
	nobody    = 65534
)

// disturb has a fault happen that is of a host's engine, of its containers, or of what else runs there.
func (k *Campaign) disturb(t testing.TB, f Fault, h *cluster.Host) {
	switch f.Kind {
	case EngineKilled:
		defer k.engines[h].part()()
		k.engines[h].kill(t)
		time.Sleep(f.For)
		k.engines[h].start(t)
		if f.N%2 == 0 { // docker cp is the first that the new one is asked for
			k.copyFiles(h, func(c container) { k.copyFrom(t, c.v, c.w, f.For) })
		}
	case FilesCopied:
		k.copyFiles(h, func(c container) { k.copyFrom(t, c.v, c.w, f.For) })
	case CopyFailed:
		k.copyFiles(h, func(c container) { k.failCopy(t, c.v, c.w) })
	case MountKept:
		k.keepMount(t, f, h)
	case Strangers:
		k.crowd(t, f, h)
	case HostBusy:
		k.load(t, f, h)
	}
}

// keepMount has a process copy the mounts of a container and write on to its volume, which the engine
// knows nothing of: it may outlive the container, and the host's mount.
func (k *Campaign) keepMount(t testing.TB, f Fault, h *cluster.Host) {
	var of container
	for _, c := range k.containers(h) {
		_, err := os.Stat(k.log(c.w)) // it is in its namespace when it writes
		if err == nil && c.w.id != "" && (of.v == nil || of.v.profile == staying) {
			of = c
		}
	}
	if of.v == nil {
		k.report.count("no mount to keep")
		return
	}
	w := &writer{on: h, epoch: of.w.epoch, name: fmt.Sprint("k", f.N, "-", of.w.name)}
	if !k.start(t, of.v, w, "-beside", fmt.Sprint(of.w.proc.PID())) {
		return
	}
	select {
	case <-w.proc.Done(): // its host was lost, or the container ended too soon
	case <-time.After(f.For):
	}
	k.stop(t, of.v, w)
	if _, err := os.Stat(k.log(w)); errors.Is(err, os.ErrNotExist) && !of.w.proc.Running() {
		k.report.count("no mount to keep")
		return
	}
	k.report.count("mounts kept")
	k.look(t, of.v, w)
}

// crowd has processes come to a host that use no volume and take long to look at. A guard may stop them
// to do so. They must go on then.
func (k *Campaign) crowd(t testing.TB, f Fault, h *cluster.Host) {
	var all sync.WaitGroup
	for n := range strangers {
		all.Go(func() {
			ready := make(chan struct{})
			log := filepath.Join(k.dir, fmt.Sprintf("stranger-%d-%d.output", f.N, n))
			p, err := play(h.On, "stranger", log, 0, func(string) { close(ready) }, fmt.Sprint(crowd), fmt.Sprint(nobody))
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ready:
				k.watchStranger(t, h, p, f.For)
			case <-p.Done():
				out, _ := os.ReadFile(log)
				t.Errorf("a stranger on %s: %v: %s", h.Name, p.Err(), out)
			}
			if err := p.End(unix.SIGKILL, time.Minute); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

// watchStranger looks at a process for a while, and then waits until it goes on.
func (k *Campaign) watchStranger(t testing.TB, h *cluster.Host, p *child.Process, lasts time.Duration) {
	was := false
	for until := time.Now().Add(lasts); time.Now().Before(until) && p.Running(); time.Sleep(10 * time.Millisecond) {
		is := stateOf(p.PID()) == 'T'
		if is && !was {
			k.report.count("strangers stopped")
		}
		was = is
	}
	stopped := func() bool { return p.Running() && stateOf(p.PID()) == 'T' }
	for began := time.Now(); stopped() && time.Since(began) < cluster.Limit; time.Sleep(20 * time.Millisecond) {
	}
	switch {
	case stopped():
		t.Errorf("a stranger on %s was stopped, and does not go on", h.Name)
	case !p.Running():
		t.Errorf("a stranger on %s was ended: %v", h.Name, p.Err())
	default:
		k.report.count("strangers that went on")
		return
	}
	k.report.mu.Lock()
	defer k.report.mu.Unlock()
	k.report.Stuck++
}

// load keeps a host busy, and with it all others.
func (k *Campaign) load(t testing.TB, f Fault, h *cluster.Host) {
	const mebibytes = 256
	log := filepath.Join(k.dir, fmt.Sprintf("load-%d.output", f.N))
	p, err := play(h.On, "load", log, 19, nil, fmt.Sprint(mebibytes))
	if err != nil {
		t.Error(err)
		return
	}
	select {
	case <-time.After(f.For):
	case <-p.Done():
		out, _ := os.ReadFile(log)
		t.Errorf("the load on %s: %v: %s", h.Name, p.Err(), out)
	}
	if err := p.End(unix.SIGKILL, time.Minute); err != nil {
		t.Error(err)
	}
}
