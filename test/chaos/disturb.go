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
	// crowd is the number of descriptors of a process that has very many. A large Kafka or Elasticsearch
	// has as many, and the limit of a test process is higher.
	crowd = 19_700
	// One in crowdedEvery containers has very many descriptors.
	crowdedEvery = 4
	// strangers is the number of processes in one Strangers fault. They use no volume and have very many
	// descriptors.
	strangers = 3
	nobody    = 65534 // the user ID of the strangers
)

// disturb plays a fault of a host's engine, of its containers, or of its other processes.
func (k *Campaign) disturb(t testing.TB, f Fault, h *cluster.Host) {
	switch f.Kind {
	case EngineKilled:
		defer k.engines[h].part()()
		k.engines[h].kill(t)
		time.Sleep(f.For)
		k.engines[h].start(t)
		if f.N%2 == 0 { // docker cp is the first request to the new engine
			k.copyFiles(h, func(c container) { k.copyFrom(t, c.v, c.w, f.For) })
		}
	case FilesCopied:
		k.copyFiles(h, func(c container) { k.copyFrom(t, c.v, c.w, f.For) })
	case CopyFailed:
		k.copyFiles(h, func(c container) { k.failCopy(t, c.v, c.w) })
	case MountKept:
		k.keepMount(t, f, h)
	case Strangers:
		k.startStrangers(t, f, h)
	case HostBusy:
		k.load(t, f, h)
	}
}

// keepMount starts a process that copies the mount namespace of a container and writes to its volume
// without the engine's knowledge. The process may outlive the container and the host's mount.
func (k *Campaign) keepMount(t testing.TB, f Fault, h *cluster.Host) {
	var of container
	for _, c := range k.containers(h) {
		_, err := os.Stat(k.log(c.w)) // the log exists once the container writes, in its namespace
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
	case <-w.proc.Done(): // the host was lost, or the container ended too early
	case <-time.After(f.For):
	}
	k.stop(t, of.v, w)
	if _, err := os.Stat(k.log(w)); errors.Is(err, os.ErrNotExist) {
		select {
		case <-of.w.proc.Done(): // a process that ends loses its namespace some time before
			k.report.count("no mount to keep")
			return
		case <-time.After(time.Minute):
		}
	}
	k.report.count("mounts kept")
	k.checkNotes(t, of.v, w)
}

// startStrangers starts processes on a host that use no volume and take long to examine. A guard may stop them
// for the examination. It must let them continue afterwards.
func (k *Campaign) startStrangers(t testing.TB, f Fault, h *cluster.Host) {
	var all sync.WaitGroup
	for n := range strangers {
		all.Go(func() {
			ready := make(chan struct{})
			log := filepath.Join(k.dir, fmt.Sprintf("stranger-%d-%d.output", f.N, n))
			p, err := play(h.On, "stranger", log, 0, func(string) { close(ready) }, fmt.Sprint(crowd),
				fmt.Sprint(nobody))
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

// watchStranger watches a process for a while and fails the test if the process then ends or stays
// stopped.
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
		t.Errorf("a stranger on %s was stopped and does not continue", h.Name)
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

// load keeps a host busy. All hosts share one machine, so it slows down the others as well.
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
