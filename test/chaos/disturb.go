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

	"github.com/droverhq/drover/test/assert"
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

// disturber makes the faults that users and other programs of a host cause.
type disturber struct{ *scene }

// disturb plays a fault of a host's engine, of its containers, or of its other processes.
func (d *disturber) disturb(t testing.TB, f Fault, h *cluster.Host) {
	switch f.Kind {
	case EngineKilled:
		defer d.engines[h].part()()
		d.engines[h].kill(t)
		time.Sleep(f.Duration)
		d.engines[h].start(t)
		if f.Number%2 == 0 { // docker cp is the first request to the new engine
			d.copyFiles(h, func(c container) { d.copyFrom(t, c.v, c.w, f.Duration) })
		}
	case FilesCopied:
		d.copyFiles(h, func(c container) { d.copyFrom(t, c.v, c.w, f.Duration) })
	case CopyFailed:
		d.copyFiles(h, func(c container) { d.failCopy(t, c.v, c.w) })
	case MountKept:
		d.keepMount(t, f, h)
	case Strangers:
		d.startStrangers(t, f, h)
	case HostBusy:
		d.load(t, f, h)
	}
}

// keepMount starts a process that copies the mount namespace of a container and writes to its volume
// without the engine's knowledge. The process may outlive the container and the host's mount.
func (d *disturber) keepMount(t testing.TB, f Fault, h *cluster.Host) {
	var of container
	for _, c := range d.containers(h) {
		_, err := os.Stat(d.log(c.w)) // the log exists once the container writes, in its namespace
		if err == nil && c.w.id != "" && (of.v == nil || of.v.profile == staying) {
			of = c
		}
	}
	if of.v == nil {
		d.report.count("no mount to keep")
		return
	}
	w := &writer{on: h, epoch: of.w.epoch, name: fmt.Sprint("k", f.Number, "-", of.w.name)}
	if !d.start(t, of.v, w, "-beside", fmt.Sprint(of.w.proc.PID())) {
		return
	}
	select {
	case <-w.proc.Done(): // the host was lost, or the container ended too early
	case <-time.After(f.Duration):
	}
	d.stop(t, of.v, w)
	if _, err := os.Stat(d.log(w)); errors.Is(err, os.ErrNotExist) {
		select {
		case <-of.w.proc.Done(): // a process that ends loses its namespace some time before
			d.report.count("no mount to keep")
			return
		case <-time.After(time.Minute):
		}
	}
	d.report.count("mounts kept")
	d.checkNotes(t, of.v, w)
}

// startStrangers starts processes on a host that use no volume and take long to examine. A guard may stop them
// for the examination. It must let them continue afterwards.
func (d *disturber) startStrangers(t testing.TB, f Fault, h *cluster.Host) {
	var all sync.WaitGroup
	for n := range strangers {
		all.Go(func() {
			ready := make(chan struct{})
			log := filepath.Join(d.dir, fmt.Sprintf("stranger-%d-%d.output", f.Number, n))
			p, err := play(h.On, "stranger", log, 0, func(string) { close(ready) }, fmt.Sprint(crowd),
				fmt.Sprint(nobody))
			if err != nil {
				t.Error(err)
				return
			}
			select {
			case <-ready:
				d.watchStranger(t, h, p, f.Duration)
			case <-p.Done():
				out, _ := os.ReadFile(log)
				t.Errorf("a stranger on %s: %v: %s", h.Name, p.Err(), out)
			}
			assert.NoError(t, p.End(unix.SIGKILL, time.Minute))
		})
	}
	all.Wait()
}

// watchStranger watches a process for a while and fails the test if the process then ends or stays
// stopped.
func (d *disturber) watchStranger(t testing.TB, h *cluster.Host, p *child.Process, lasts time.Duration) {
	select {
	case <-time.After(lasts):
	case <-p.Done():
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
		d.report.count("strangers that continued")
	}
}

// load keeps a host busy. All hosts share one machine, so it slows down the others as well.
func (d *disturber) load(t testing.TB, f Fault, h *cluster.Host) {
	const mebibytes = 256
	log := filepath.Join(d.dir, fmt.Sprintf("load-%d.output", f.Number))
	p, err := play(h.On, "load", log, 19, nil, fmt.Sprint(mebibytes))
	if err != nil {
		t.Error(err)
		return
	}
	select {
	case <-time.After(f.Duration):
	case <-p.Done():
		out, _ := os.ReadFile(log)
		t.Errorf("the load on %s: %v: %s", h.Name, p.Err(), out)
	}
	assert.NoError(t, p.End(unix.SIGKILL, time.Minute))
}
