package chaos

import (
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/cluster/witness"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
)

// oneHost is a campaign on one host without a cluster, with a container that writes to a volume.
func oneHost(t *testing.T) (k *Campaign, c container) {
	t.Helper()
	program, err := cluster.WriterProgram()
	if err != nil {
		t.Fatal(err)
	}
	on := lan.New(t).Machine("host-a", map[string]string{"/run/docker/plugins": t.TempDir()})
	h := &cluster.Host{Name: "host-a", On: on, Host: host.Start(t, host.Options{Name: "host-a", On: on, Driver: "drover", Size: 4 << 30})}
	k = newCampaign(&scene{
		Cluster: &cluster.Cluster{Hosts: []*cluster.Host{h}}, dir: t.TempDir(), writer: program,
		parts: &parts{locks: map[string]*sync.Mutex{}}, lost: map[*cluster.Host]bool{},
		report: tally{Report: Report{Operations: map[string]int{}, Reasons: map[string]int{}}},
	})
	t.Cleanup(k.startEngines(t))
	plug := k.engines[h].plug
	if err := plug.Create("db", nil); err != nil {
		t.Fatal(err)
	}
	v := &volume{name: "db", id: h.Inspect(t, "db").ID, writers: map[*writer]bool{}}
	k.volumes = []*volume{v}
	w := &writer{on: h, id: host.NewID(), epoch: 1, name: "w", crowded: true}
	path, err := plug.Mount("db", w.id)
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if !k.start(t, v, w, "-root", root, "-volume", path, "-logs", k.dir) {
		t.Fatal("no container")
	}
	t.Cleanup(func() { k.stop(t, v, w) })
	k.progresses(t, w)
	return k, container{v, w}
}

// progresses waits until a writer has written more than at the time of the call.
func (k *Campaign) progresses(t *testing.T, w *writer) {
	t.Helper()
	count := func() int {
		list, _ := witness.Logs(k.log(w)) // no file yet means no lines
		return len(list)
	}
	before := count()
	host.Await(t, w.name+" writes on", func() error {
		if n := count(); n < before+5 {
			return fmt.Errorf("%d writes, and %d before", n, before)
		}
		return nil
	})
}

func (k *Campaign) wantCounted(t *testing.T, what string, n int) {
	t.Helper()
	k.report.mu.Lock()
	defer k.report.mu.Unlock()
	if got := k.report.Operations[what]; got != n {
		t.Errorf("%s: %d, want %d (%v)", what, got, n, k.report.Operations)
	}
}

// Containers outlive their engine. Copying files from them, before and after the engine was killed, does not end
// their uses.
func TestContainersAndEngines(t *testing.T) {
	k, c := oneHost(t)
	h := k.Hosts[0]
	k.disturber.disturb(t, Fault{Kind: FilesCopied}, h)
	k.wantCounted(t, "copies done", 1)
	k.disturber.disturb(t, Fault{Number: 1, Kind: EngineKilled}, h)
	k.progresses(t, c.w)
	k.checkUse(t, c.v, c.w, "at the end")
	k.disturber.disturb(t, Fault{Number: 2, Kind: EngineKilled}, h)
	k.wantCounted(t, "copies done", 2)
	k.disturber.disturb(t, Fault{Kind: FilesCopied}, h)
	k.wantCounted(t, "uses looked at", 4)

	ended := &writer{on: h, id: "another"}
	if known, others := k.useOf(c.v, ended); !known || len(others) != 1 {
		t.Errorf("a use that is not there: known %t, beside %v", known, others)
	}
	if !canWrite(c.w.proc.PID()) {
		t.Error("a container that runs cannot write")
	}
	k.stop(t, c.v, c.w)
	k.checkNotes(t, c.v, c.w)
	if canWrite(c.w.proc.PID()) {
		t.Error("one that was killed can")
	}
	k.unmount(t, h, c.v, c.w.id)
	k.disturber.copyFrom(t, c.v, c.w, 0) // nothing, because it has ended
	k.wantCounted(t, "copies done", 3)
}

// A copy that fails removes the engine's use for a running container. The volume stays in use until the container has
// ended, and is free then, although the engine does not unmount it any more.
func TestFailedCopy(t *testing.T) {
	k, c := oneHost(t)
	h := k.Hosts[0]
	k.disturber.disturb(t, Fault{Kind: CopyFailed}, h)
	k.disturber.disturb(t, Fault{Kind: CopyFailed}, h) // the engine has nothing more to unmount
	k.wantCounted(t, "copies failed", 1)
	k.disturber.disturb(t, Fault{Kind: FilesCopied}, h)
	k.progresses(t, c.w)
	k.checkUse(t, c.v, c.w, "at the end")
	k.wantCounted(t, "uses looked at", 3)
	if err := h.Plug(t).Remove(c.v.name); err == nil {
		t.Error("removed while a container writes to it")
	}
	k.stop(t, c.v, c.w)
	if err := h.Plug(t).Remove(c.v.name); err != nil {
		t.Error(err)
	}
}

// A process that copied the mounts of a container continues to write after the container has ended, until it is
// stopped.
func TestKeptMounts(t *testing.T) {
	k, c := oneHost(t)
	h := k.Hosts[0]
	kept := make(chan struct{})
	go func() {
		defer close(kept)
		k.disturber.disturb(t, Fault{Number: 7, Kind: MountKept, Duration: 3 * time.Second}, h)
	}()
	keeper := &writer{name: "k7-" + c.w.name}
	k.progresses(t, keeper)
	k.stop(t, c.v, c.w)
	k.unmount(t, h, c.v, c.w.id)
	k.progresses(t, keeper)
	<-kept
	k.wantCounted(t, "mounts kept", 1)
	if left := k.containers(h); len(left) != 0 {
		t.Errorf("%d containers are left", len(left))
	}
	k.disturber.disturb(t, Fault{Number: 8, Kind: MountKept, Duration: time.Hour}, h)
	k.wantCounted(t, "no mount to keep", 1)
}

// A stranger that is stopped and does not continue is noticed, and so is one that is killed.
func TestStrangers(t *testing.T) {
	k, _ := oneHost(t)
	h := k.Hosts[0]
	k.disturber.disturb(t, Fault{Kind: Strangers, Duration: 100 * time.Millisecond}, h)
	k.disturber.disturb(t, Fault{Kind: HostBusy, Duration: 100 * time.Millisecond}, h)
	k.wantCounted(t, "strangers that continued", strangers)

	p, err := play(h.On, "stranger", k.dir+"/stranger", 0, nil, "10", fmt.Sprint(nobody))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Pause(); err != nil {
		t.Fatal(err)
	}
	if stateOf(p.PID()) != 'T' || stateOf(os.Getpid()) == 'T' {
		t.Errorf("states %c and %c", stateOf(p.PID()), stateOf(os.Getpid()))
	}
	go func() {
		for k.stoppedStrangers() == 0 {
			time.Sleep(time.Millisecond)
		}
		_ = p.Signal(unix.SIGCONT)
	}()
	k.disturber.watchStranger(t, h, p, 50*time.Millisecond)
	k.wantCounted(t, "strangers that continued", strangers+1)
	if err := p.End(unix.SIGKILL, time.Minute); err != nil {
		t.Fatal(err)
	}
}

func (k *Campaign) stoppedStrangers() int {
	k.report.mu.Lock()
	defer k.report.mu.Unlock()
	return k.report.Operations["strangers stopped"]
}
