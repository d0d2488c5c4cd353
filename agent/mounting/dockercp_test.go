package mounting_test

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

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
	if err := r.Unmount(r.T.Context(), d.Volume, id); err != nil {
		r.T.Fatal(err)
	}
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
	if !errors.Is(err, dataset.ErrInUse) {
		r.T.Fatalf("removed: %v", err)
	}
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
				if err := r.Remove(t.Context(), "db"); err != nil {
					t.Error(err)
				}
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
