package mounting_test

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Uses of an engine that has ended are void once nobody has the dataset mounted, but not before the new engine had
// time to mount it again.
func TestUsesOfOldEngineEndUnlessMounted(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	r.Activated(ctx)
	d, other := r.NewVolume("db"), r.NewVolume("other")
	r.MountDataset(d, "one")
	r.MountDataset(d, "two")
	r.MountDataset(other, "three")
	end := agenttest.StartContainer(t, r.MountPath(d.ID))
	r.Activated(ctx)
	r.FakeClock.Set(r.FakeClock.Now().Add(time.Hour)) // no time is left to start containers
	r.Advance(mounting.UnverifiedGrace - time.Second)
	r.WantUses(d, "one", "two")
	r.WantUses(other, "three")
	r.Advance(time.Second)
	r.WantUses(d, "one", "two") // it cannot be told which of them the container is
	r.WantUses(other)
	r.MountDataset(other, "four")
	r.Advance(mounting.VerifyEvery)
	r.WantUses(other, "four")
	if err := r.Unmount(ctx, "db", "one"); err != nil {
		t.Fatal(err)
	}
	r.WantUses(d, "two")
	end()
	// A process that starts or ends during a look can make it fail. The use then stays until the next look.
	agenttest.Await(t, func() bool {
		r.Advance(mounting.VerifyEvery)
		return len(r.Uses.Get(d.ID).IDs) == 0
	})
	r.WantUses(d)
}

// A request that needs a volume unused frees it at once from a container that ended while no agent ran, but not before
// the engine had time to start a container with its last mount. The error says when.
func TestRequestFreesVolumeOfEndedContainer(t *testing.T) {
	r := agenttest.New(t)
	r.Activated(t.Context())
	d := r.NewVolume("db")
	r.MountDataset(d, "id-of-db")
	r.Restart()
	says := "the engine on node host-a mounted it shortly before drover or the engine started, and may be starting a " +
		"container with it (try again in 21s)"
	if err := r.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), says) {
		t.Errorf("removed at once: %v", err)
	}
	end := agenttest.StartContainer(t, r.MountPath(d.ID))
	r.Advance(mounting.RequestGrace)
	if err := r.Remove(t.Context(), "db"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("removed from a container that outlived drover: %v", err)
	}
	r.WantUses(d, "id-of-db")
	end()
	agenttest.Await(t, func() bool { return r.Remove(t.Context(), "db") == nil })
	r.WantUses(d)
}

// An engine does not repeat an unmount that it sent while no agent ran. So a use from before the start is void once
// nobody has the dataset mounted, but not before a container had time to start with it.
func TestUsesBeforeStartEndUnlessMounted(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	r.Activated(ctx)
	d, again, bound := r.NewVolume("db"), r.NewVolume("again"), r.NewVolume("bound")
	for _, v := range []dataset.Dataset{d, again, bound} {
		r.MountDataset(v, "id-of-"+v.Volume)
	}
	r.Restart()
	r.FakeClock.Set(r.FakeClock.Now().Add(time.Hour))
	// A process of the host has it mounted, in no other namespace.
	place := t.TempDir()
	src, err := os.Open(r.MountPath(bound.ID))
	if err != nil {
		t.Fatal(err)
	}
	err = mount.Bind(src, place, mount.BindFlags{})
	if src.Close(); err != nil {
		t.Fatal(err)
	}
	for passed := time.Duration(0); passed < mounting.MountedGrace-mounting.VerifyEvery; passed += mounting.VerifyEvery {
		r.Advance(mounting.VerifyEvery)
		r.WantUses(d, "id-of-db")
	}
	// This container was stopped while no agent ran. It is started and stopped again.
	r.MountDataset(again, "id-of-again")
	if err := r.Unmount(ctx, "again", "id-of-again"); err != nil {
		t.Fatal(err)
	}
	r.Advance(mounting.VerifyEvery)
	r.WantUses(d)
	r.WantUses(again, "id-of-again")
	r.WantUses(bound, "id-of-bound")
	if err := mount.Unmount(place); err != nil {
		t.Fatal(err)
	}
	r.Advance(mounting.VerifyEvery)
	r.WantUses(bound)
	r.WantUses(again, "id-of-again")
	r.Advance(mounting.MountedGrace - 3*mounting.VerifyEvery)
	r.WantUses(again, "id-of-again")
	r.Advance(2 * mounting.VerifyEvery)
	r.WantUses(again)
}

// A Mount of an engine that has ended may be recorded after an earlier check found nothing to verify. The check that
// was postponed for the restart of the engine still takes place, and ends that use.
func TestEarlierCheckKeepsPostponedCheck(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	r.Activated(ctx)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	running := r.Uses.Get(d.ID)
	if err := r.Uses.Save(ctx, d, 0, mounting.Record{}, nil); err != nil { // the Mount is not recorded yet
		t.Fatal(err)
	}
	r.Activated(ctx)
	r.Verifier.ScheduleCheck(r.FakeClock.Steady())
	r.Advance(time.Second)
	if err := r.Uses.Save(ctx, d, 0, running, nil); err != nil {
		t.Fatal(err)
	}
	r.Advance(mounting.UnverifiedGrace)
	r.WantUses(d)
}
