package mounting_test

import (
	"errors"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
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
	require.NoError(t, r.Unmount(ctx, "db", "one"))
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
	assert.ErrorIsf(t, r.Remove(t.Context(), "db"), dataset.ErrInUse, "removed from a container that outlived drover")
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
	require.NoError(t, err)
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
	require.NoError(t, r.Unmount(ctx, "again", "id-of-again"))
	r.Advance(mounting.VerifyEvery)
	r.WantUses(d)
	r.WantUses(again, "id-of-again")
	r.WantUses(bound, "id-of-bound")
	require.NoError(t, mount.Unmount(place))
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
	require.NoError(t, r.Uses.Save(ctx, d, 0, running, nil))
	r.Advance(mounting.UnverifiedGrace)
	r.WantUses(d)
}

// scans counts how often an agent examines the whole host.
func scans(r *agenttest.Host) *atomic.Int64 {
	var n atomic.Int64
	r.Holders.ReadForeign = func() (*mount.Foreign, error) {
		n.Add(1)
		return mount.ReadForeign()
	}
	return &n
}

func unmount(r *agenttest.Host, d dataset.Dataset, id string) {
	r.T.Helper()
	require.NoError(r.T, r.Unmount(r.T.Context(), d.Volume, id))
}

// copied runs a docker cp into a running container, or out of it.
func copied(r *agenttest.Host, d dataset.Dataset, id string) {
	r.T.Helper()
	r.MountDataset(d, id)
	unmount(r, d, id)
}

// wantHeld fails unless the removal of a volume in use is refused with an error that names the node and the users.
func wantHeld(r *agenttest.Host, d dataset.Dataset, who ...string) {
	r.T.Helper()
	err := r.Remove(r.T.Context(), d.Volume)
	require.ErrorIsf(r.T, err, dataset.ErrInUse, "removed")
	for _, word := range append(who, r.NodeName) {
		if !strings.Contains(err.Error(), word) {
			r.T.Errorf("%q does not name %s", err, word)
		}
	}
}

// TestI9CpAfterRestart: docker cp mounts with the ID of a container that outlived the engine, and
// unmounts it. The container's use stays, whatever restarts in between, and ends with the container.
func TestI9CpAfterRestart(t *testing.T) {
	for name, cp := range map[string]func(r *agenttest.Host, d dataset.Dataset){
		"once":  func(r *agenttest.Host, d dataset.Dataset) { copied(r, d, "one") },
		"twice": func(r *agenttest.Host, d dataset.Dataset) { copied(r, d, "one"); copied(r, d, "one") },
		"agent restarted in between": func(r *agenttest.Host, d dataset.Dataset) {
			r.MountDataset(d, "one")
			r.Restart()
			unmount(r, d, "one")
		},
		"engine restarted in between": func(r *agenttest.Host, d dataset.Dataset) {
			r.MountDataset(d, "one")
			r.Activated(r.T.Context())
			unmount(r, d, "one")
		},
		"agent away at the end": func(r *agenttest.Host, d dataset.Dataset) {
			r.MountDataset(d, "one")
			r.Restart()
			r.Advance(mounting.MountedGrace)
		},
	} {
		for _, end := range []string{"unmounted", "found out"} {
			t.Run(name+", "+end, func(t *testing.T) {
				r := agenttest.New(t)
				d := r.NewVolume("db")
				r.MountDataset(d, "one")
				stop := agenttest.StartContainer(t, r.MountPath(d.ID))
				r.Activated(t.Context())
				r.Advance(mounting.UnverifiedGrace)
				cp(r, d)
				r.WantUses(d, "one")
				wantHeld(r, d, "one")
				r.Advance(mounting.VerifyEvery)
				r.Restart()
				r.WantUses(d, "one")
				wantHeld(r, d, "one")
				stop()
				if end == "unmounted" {
					unmount(r, d, "one")
				} else {
					r.Activated(t.Context())
					r.Advance(mounting.UnverifiedGrace)
					r.Advance(mounting.MountedGrace)
				}
				r.WantUses(d)
				assert.NoError(t, r.Remove(t.Context(), "db"))
			})
		}
	}
}

// TestI9CpTwoContainers: of two containers that outlived the engine each keeps its use until it ends,
// and the last one keeps the volume.
func TestI9CpTwoContainers(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	r.MountDataset(d, "two")
	first := agenttest.StartContainer(t, r.MountPath(d.ID))
	second := agenttest.StartContainer(t, r.MountPath(d.ID))
	r.Activated(t.Context())
	copied(r, d, "one")
	copied(r, d, "two")
	r.WantUses(d, "one", "two")
	first()
	unmount(r, d, "one")
	r.WantUses(d, "two")
	// The agent cannot tell which use a container has. This use has no container yet, and is kept instead of the
	// other one when a container ends. So the last use stays, whichever it is.
	r.MountDataset(d, "new")
	unmount(r, d, "two")
	unmount(r, d, "new")
	if n := len(r.Uses.Get(d.ID).IDs); n != 1 {
		t.Fatalf("%d uses, and a container has it", n)
	}
	wantHeld(r, d)
	second()
	r.Advance(mounting.VerifyEvery)
	r.WantUses(d)
}

// TestI9RestartedContainer: an engine that was killed restarts its containers with the same IDs. The use of each
// container ends with that container.
func TestI9RestartedContainer(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	for _, id := range []string{"one", "two"} {
		r.MountDataset(d, id)
	}
	r.Activated(t.Context())
	var stop []func()
	for _, id := range []string{"one", "two"} {
		r.MountDataset(d, id)
		stop = append(stop, agenttest.StartContainer(t, r.MountPath(d.ID)))
	}
	copied(r, d, "one")
	r.WantUses(d, "one", "two")
	stop[0]()
	unmount(r, d, "one")
	r.WantUses(d, "two")
	stop[1]()
	unmount(r, d, "two")
	r.WantUses(d)
}

// TestI9LastUseEndsAfterOneCheckOfHost: while another ID uses the dataset, the end of a use needs no look at the host.
// docker cp into a running container, and into one that is stopped, is counted. The last use ends after one look.
func TestI9LastUseEndsAfterOneCheckOfHost(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	docker := newCaller(t)
	r.Activated(docker)
	n := scans(r)
	by(r, docker, "db", "one")
	stop := agenttest.StartContainer(t, r.MountPath(d.ID))
	by(r, docker, "db", "one")
	if c := r.Uses.Get(d.ID).IDs["one"].Count; c != 2 {
		t.Errorf("%d uses, want 2", c)
	}
	unmount(r, d, "one")
	by(r, docker, "db", "stopped")
	unmount(r, d, "stopped")
	r.WantUses(d, "one")
	if n.Load() != 0 {
		t.Errorf("it looked %d times before the last use ended", n.Load())
	}
	stop()
	unmount(r, d, "one")
	r.WantUses(d)
	if n.Load() != 1 {
		t.Errorf("it looked %d times, want once", n.Load())
	}
}

// TestI9CpFails: a docker cp that fails for another volume of a running container sends Unmount with the container's
// ID, without a Mount. The volume stays in use until the container has ended.
func TestI9CpFails(t *testing.T) {
	for name, other := range map[string]bool{"alone": false, "while a stopped container is copied into": true} {
		t.Run(name, func(t *testing.T) {
			r := agenttest.New(t)
			d := r.NewVolume("db")
			docker := newCaller(t)
			r.Activated(docker)
			by(r, docker, "db", "one")
			stop := agenttest.StartContainer(t, r.MountPath(d.ID))
			last := "one"
			if other {
				by(r, docker, "db", "stopped")
				last = "stopped"
			}
			unmount(r, d, "one")
			if other {
				unmount(r, d, "stopped")
			}
			r.WantUses(d, last)
			wantHeld(r, d, last)
			r.Restart()
			r.Advance(mounting.MountedGrace)
			r.WantUses(d, last)
			wantHeld(r, d, last)
			stop()
			if err := r.Remove(t.Context(), "db"); err != nil { // Remove examines the host at once
				t.Error(err)
			}
			r.WantUses(d)
		})
	}
}

// TestI9FailedCheckOfHostKeepsUse: if the host cannot be examined, a use that may continue stays.
func TestI9FailedCheckOfHostKeepsUse(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	r.Activated(t.Context())
	r.Holders.ReadForeign = func() (*mount.Foreign, error) { return nil, errors.New("/proc is not mounted") }
	copied(r, d, "one")
	r.WantUses(d, "one")
	r.Advance(mounting.UnverifiedGrace)
	r.WantUses(d, "one")
	wantHeld(r, d, "one")
	r.Holders.ReadForeign = mount.ReadForeign
	r.Advance(mounting.VerifyEvery)
	r.WantUses(d)
}

// TestI9PodmanUnmount: podman volume unmount ends Podman's use while a container runs. The volume stays mounted until
// the container has ended.
func TestI9PodmanUnmount(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	command := newCaller(t)
	r.Activated(command)
	by(r, command, "db", mounting.PodmanID)
	command.end()
	stop := agenttest.StartContainer(t, r.MountPath(d.ID))
	unmount(r, d, mounting.PodmanID)
	r.WantUses(d, mounting.PodmanID)
	wantHeld(r, d, mounting.PodmanID[:12])
	stop()
	unmount(r, d, mounting.PodmanID)
	r.WantUses(d)
}

// TestI9PodmanBesideDocker: podman volume mount does not explain the use of any container.
func TestI9PodmanBesideDocker(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	r.MountDataset(d, mounting.PodmanID)
	stop := agenttest.StartContainer(t, r.MountPath(d.ID))
	r.Activated(t.Context())
	copied(r, d, "one")
	r.WantUses(d, "one", mounting.PodmanID)
	stop()
	unmount(r, d, "one")
	r.WantUses(d, mounting.PodmanID)
	unmount(r, d, mounting.PodmanID)
	r.WantUses(d)
}

// TestI9UnmountDuringGrace: a use that is checked right after an engine has started does not end the other uses,
// which that engine is about to mount again.
func TestI9UnmountDuringGrace(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	r.MountDataset(d, "two")
	stop := []func(){agenttest.StartContainer(t, r.MountPath(d.ID)), agenttest.StartContainer(t, r.MountPath(d.ID))}
	r.Activated(t.Context())
	copied(r, d, "one")
	r.WantUses(d, "one", "two")
	for _, end := range stop {
		end()
	}
	unmount(r, d, "one")
	r.Advance(mounting.UnverifiedGrace / 2)
	r.WantUses(d, "two")
	r.MountDataset(d, "two")
	r.Advance(mounting.UnverifiedGrace)
	r.WantUses(d, "two")
	unmount(r, d, "two")
	r.WantUses(d)
}
