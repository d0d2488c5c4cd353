package agent

import (
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// looks counts how often an agent looks at the whole host.
func (r *rig) looks() *atomic.Int64 {
	var n atomic.Int64
	r.holders.Elsewhere = func() (*mount.Foreign, error) {
		n.Add(1)
		return mount.Elsewhere()
	}
	return &n
}

func (r *rig) unmount(d dataset.Dataset, id string) {
	r.t.Helper()
	if err := r.Unmount(r.t.Context(), d.Volume, id); err != nil {
		r.t.Fatal(err)
	}
}

// copied is a docker cp into a running container, or out of it.
func (r *rig) copied(d dataset.Dataset, id string) {
	r.t.Helper()
	r.mount(d, id)
	r.unmount(d, id)
}

// wantHeld fails unless a volume in use is refused to be removed, in words that name the node and who
// uses it.
func (r *rig) wantHeld(d dataset.Dataset, who ...string) {
	r.t.Helper()
	err := r.Remove(r.t.Context(), d.Volume)
	if !errors.Is(err, dataset.ErrInUse) {
		r.t.Fatalf("removed: %v", err)
	}
	for _, word := range append(who, r.NodeName) {
		if !strings.Contains(err.Error(), word) {
			r.t.Errorf("%q does not name %s", err, word)
		}
	}
}

// TestI9CpAfterRestart: docker cp mounts with the ID of a container that outlived the engine, and
// unmounts it. The container's use stays, whatever restarts in between, and ends with the container.
func TestI9CpAfterRestart(t *testing.T) {
	for name, cp := range map[string]func(r *rig, d dataset.Dataset){
		"once":  func(r *rig, d dataset.Dataset) { r.copied(d, "one") },
		"twice": func(r *rig, d dataset.Dataset) { r.copied(d, "one"); r.copied(d, "one") },
		"agent restarted in between": func(r *rig, d dataset.Dataset) {
			r.mount(d, "one")
			r.restart()
			r.unmount(d, "one")
		},
		"engine restarted in between": func(r *rig, d dataset.Dataset) {
			r.mount(d, "one")
			r.Activated(r.t.Context())
			r.unmount(d, "one")
		},
		"agent away at the end": func(r *rig, d dataset.Dataset) {
			r.mount(d, "one")
			r.restart()
			r.after(mounting.InheritedGrace)
		},
	} {
		for _, end := range []string{"unmounted", "found out"} {
			t.Run(name+", "+end, func(t *testing.T) {
				r := newRig(t)
				d := r.volume("db")
				r.mount(d, "one")
				stop := container(t, r.MountPath(d.ID))
				r.Activated(t.Context())
				r.after(mounting.UnverifiedGrace)
				cp(r, d)
				r.want(d, "one")
				r.wantHeld(d, "one")
				r.after(mounting.VerifyEvery)
				r.restart()
				r.want(d, "one")
				r.wantHeld(d, "one")
				stop()
				if end == "unmounted" {
					r.unmount(d, "one")
				} else {
					r.Activated(t.Context())
					r.after(mounting.UnverifiedGrace)
					r.after(mounting.InheritedGrace)
				}
				r.want(d)
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
	r := newRig(t)
	d := r.volume("db")
	r.mount(d, "one")
	r.mount(d, "two")
	first := container(t, r.MountPath(d.ID))
	second := container(t, r.MountPath(d.ID))
	r.Activated(t.Context())
	r.copied(d, "one")
	r.copied(d, "two")
	r.want(d, "one", "two")
	first()
	r.unmount(d, "one")
	r.want(d, "two")
	// Which use a container has cannot be told. This one is not in a container yet, and stands for the
	// other one when that ends; so the last use stays, whichever it is.
	r.mount(d, "new")
	r.unmount(d, "two")
	r.unmount(d, "new")
	if n := len(r.uses.Get(d.ID).IDs); n != 1 {
		t.Fatalf("%d uses, and a container has it", n)
	}
	r.wantHeld(d)
	second()
	r.after(mounting.VerifyEvery)
	r.want(d)
}

// TestI9RestartedContainer: an engine that was killed starts its containers again with their IDs. What
// they hold ends with each of them.
func TestI9RestartedContainer(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	for _, id := range []string{"one", "two"} {
		r.mount(d, id)
	}
	r.Activated(t.Context())
	var stop []func()
	for _, id := range []string{"one", "two"} {
		r.mount(d, id)
		stop = append(stop, container(t, r.MountPath(d.ID)))
	}
	r.copied(d, "one")
	r.want(d, "one", "two")
	stop[0]()
	r.unmount(d, "one")
	r.want(d, "two")
	stop[1]()
	r.unmount(d, "two")
	r.want(d)
}

// TestI9OneLook: while another ID uses the dataset, the end of a use needs no look at the host. docker
// cp into a running container, and into one that is stopped, is counted. The last use ends after one
// look.
func TestI9OneLook(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	docker := newCaller(t)
	r.Activated(docker)
	n := r.looks()
	r.by(docker, "db", "one")
	stop := container(t, r.MountPath(d.ID))
	r.by(docker, "db", "one")
	if c := r.uses.Get(d.ID).IDs["one"].Count; c != 2 {
		t.Errorf("%d uses, want 2", c)
	}
	r.unmount(d, "one")
	r.by(docker, "db", "stopped")
	r.unmount(d, "stopped")
	r.want(d, "one")
	if n.Load() != 0 {
		t.Errorf("it looked %d times before the last use ended", n.Load())
	}
	stop()
	r.unmount(d, "one")
	r.want(d)
	if n.Load() != 1 {
		t.Errorf("it looked %d times, want once", n.Load())
	}
}

// TestI9CpFails: a docker cp that fails for another volume of a running container sends Unmount with the
// container's ID and no Mount. The volume stays in use until the container has ended.
func TestI9CpFails(t *testing.T) {
	for name, other := range map[string]bool{"alone": false, "while a stopped container is copied into": true} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			d := r.volume("db")
			docker := newCaller(t)
			r.Activated(docker)
			r.by(docker, "db", "one")
			stop := container(t, r.MountPath(d.ID))
			last := "one"
			if other {
				r.by(docker, "db", "stopped")
				last = "stopped"
			}
			r.unmount(d, "one")
			if other {
				r.unmount(d, "stopped")
			}
			r.want(d, last)
			r.wantHeld(d, last)
			r.restart()
			r.after(mounting.InheritedGrace)
			r.want(d, last)
			r.wantHeld(d, last)
			stop()
			if err := r.Remove(t.Context(), "db"); err != nil { // which looks at once
				t.Error(err)
			}
			r.want(d)
		})
	}
}

// TestI9LookFails: where the host cannot be looked at, a use that may go on stays.
func TestI9LookFails(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.mount(d, "one")
	r.Activated(t.Context())
	r.holders.Elsewhere = func() (*mount.Foreign, error) { return nil, errors.New("/proc is not mounted") }
	r.copied(d, "one")
	r.want(d, "one")
	r.after(mounting.UnverifiedGrace)
	r.want(d, "one")
	r.wantHeld(d, "one")
	r.holders.Elsewhere = mount.Elsewhere
	r.after(mounting.VerifyEvery)
	r.want(d)
}

// TestI9PodmanUnmount: podman volume unmount ends Podman's use while a container runs. It stays until
// the container has ended.
func TestI9PodmanUnmount(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	command := newCaller(t)
	r.Activated(command)
	r.by(command, "db", mounting.PodmanID)
	command.end()
	stop := container(t, r.MountPath(d.ID))
	r.unmount(d, mounting.PodmanID)
	r.want(d, mounting.PodmanID)
	r.wantHeld(d, mounting.PodmanID[:12])
	stop()
	r.unmount(d, mounting.PodmanID)
	r.want(d)
}

// TestI9PodmanBesideDocker: podman volume mount accounts for no container.
func TestI9PodmanBesideDocker(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.mount(d, "one")
	r.mount(d, mounting.PodmanID)
	stop := container(t, r.MountPath(d.ID))
	r.Activated(t.Context())
	r.copied(d, "one")
	r.want(d, "one", mounting.PodmanID)
	stop()
	r.unmount(d, "one")
	r.want(d, mounting.PodmanID)
	r.unmount(d, mounting.PodmanID)
	r.want(d)
}

// TestI9UnmountDuringGrace: a use that is compared with the host right after an engine has started does
// not end the others, which that engine is about to mount again.
func TestI9UnmountDuringGrace(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	r.mount(d, "one")
	r.mount(d, "two")
	stop := []func(){container(t, r.MountPath(d.ID)), container(t, r.MountPath(d.ID))}
	r.Activated(t.Context())
	r.copied(d, "one")
	r.want(d, "one", "two")
	for _, end := range stop {
		end()
	}
	r.unmount(d, "one")
	r.after(mounting.UnverifiedGrace / 2)
	r.want(d, "two")
	r.mount(d, "two")
	r.after(mounting.UnverifiedGrace)
	r.want(d, "two")
	r.unmount(d, "two")
	r.want(d)
}
