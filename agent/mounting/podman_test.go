package mounting_test

import (
	"context"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/control/store"
)

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
	if err := r.Unmount(t.Context(), "db", mounting.PodmanID); err != nil {
		t.Error(err)
	}
	r.WantUses(d)
}

// TestI9PodmanHearsNoError: an Unmount by Podman succeeds once its use has ended, even if the host keeps the mount
// busy.
func TestI9PodmanHearsNoError(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, mounting.PodmanID)
	shell, err := os.Open(r.MountPath(d.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	if err := r.Unmount(t.Context(), "db", mounting.PodmanID); err != nil {
		t.Errorf("unmount while the host is in it: %v", err)
	}
	if ids := r.Uses.Get(d.ID).SortedIDs(); len(ids) > 0 {
		t.Errorf("uses: %v", ids)
	}
	// A container that starts before the unmount was retried gets the volume.
	r.MountDataset(d, mounting.PodmanID)
	r.WantUses(d, mounting.PodmanID)
	if err := r.Unmount(t.Context(), "db", mounting.PodmanID); err != nil {
		t.Errorf("unmount while the host is in it: %v", err)
	}
	if err := shell.Close(); err != nil {
		t.Fatal(err)
	}
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
			if err != nil {
				t.Errorf("slow unmount: %v", err)
			}
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
