package inuse

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/linux/mount"
)

// Who can write to a tree through an overlay whose upper directory is in the tree.
func TestHoldersThroughAnOverlay(t *testing.T) {
	const path, images = "/root/mnt/uuid", "/var/lib/docker"
	tree := mount.Filesystem{Major: 8, Minor: 1, Root: "/pool/uuid"}
	// over is an overlay whose upper directory is below images.
	over := func(id, minor int, point string) *mount.Entry {
		e := entry(id, 0, minor, "/", point, "rw")
		e.FSType, e.VFSOptions = "overlay", "rw,lowerdir=/l,upperdir="+images+"/upper,workdir="+images+"/work"
		return e
	}
	within := func(around int, e *mount.Entry) *mount.Entry { e.Parent = around; return e }
	const ofHost, nested = 50, 60 // the minor numbers of two overlays
	merged := images + "/merged"
	disk := entry(1, 8, 1, "/", "/", "rw")
	own := mount.Mounts{disk, within(1, entry(2, 8, 1, "/pool/uuid", path, "rw")), within(1, over(3, ofHost, merged))}
	volume := func(point string) *mount.Entry { return within(10, entry(11, 8, 1, "/pool/uuid", point, "rw")) }
	engine := NewView(mount.Mounts{over(10, ofHost, "/"), volume(images), within(11, over(12, nested, merged))})
	elsewhere := NewView(mount.Mounts{over(10, ofHost, "/"), volume("/data"), within(10, over(12, nested, merged))})
	inner := over(20, nested, "/")
	readOnly := over(20, nested, "/")
	readOnly.Options = "ro"
	for name, c := range map[string]struct {
		others []*View // the tables of other processes
		p      mount.Mounts
		want   bool
	}{
		"a container of the engine on the volume":  {[]*View{engine}, mount.Mounts{inner}, true},
		"the same, read-only":                      {[]*View{engine}, mount.Mounts{readOnly}, false},
		"no table shows the mounter's paths":       {nil, mount.Mounts{inner}, false},
		"the upper directory is beside the volume": {[]*View{elsewhere}, mount.Mounts{inner}, false},
		"another container of the host":            {[]*View{engine}, mount.Mounts{over(20, ofHost+1, "/")}, false},
		"a service's copy of the host's mounts": {
			[]*View{engine}, mount.Mounts{disk, within(1, over(21, ofHost, merged))}, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			v := NewView(c.p)
			h := NewTreeUse(own, tree, []string{path})
			h.FindOverlays(&Scan{all: append(c.others, v)})
			if got := h.IsMountedIn(v); got != c.want {
				t.Errorf("it holds it: %t", got)
			}
		})
	}
}

// An engine has a private copy of the host's mounts, and the host does not show the overlays of its containers. One
// of these containers has the volume where the engine has its images.
func TestEngineIsNoHolderThroughAnOverlay(t *testing.T) {
	const images = "/var/lib/docker"
	over := func(id, parent int, point string) *mount.Entry {
		e := entry(id, 0, 50, "/", point, "rw")
		e.Parent, e.FSType, e.VFSOptions = parent, "overlay", "rw,upperdir="+images+"/upper"
		return e
	}
	volume := entry(11, 8, 1, "/pool/uuid", images, "rw")
	volume.Parent = 10
	engine := NewView(mount.Mounts{entry(1, 8, 1, "/", "/", "rw"), over(2, 1, images+"/merged")})
	container := NewView(mount.Mounts{over(10, 0, "/"), volume})
	h := NewTreeUse(mount.Mounts{entry(3, 8, 1, "/", "/", "rw")},
		mount.Filesystem{Major: 8, Minor: 1, Root: "/pool/uuid"}, nil)
	h.FindOverlays(&Scan{all: []*View{engine, container}})
	if h.IsMountedIn(engine) || !h.IsMountedIn(container) {
		t.Errorf("engine %t, container %t", h.IsMountedIn(engine), h.IsMountedIn(container))
	}
}

// Any user can make a mount table with thousands of overlays. The time to look at them grows with their
// number, and not with its square.
func TestManyOverlays(t *testing.T) {
	table := func(n int) mount.Mounts {
		tree := entry(1, 8, 1, "/pool/uuid", "/volume", "rw")
		list := mount.Mounts{entry(2, 8, 1, "/", "/", "rw"), tree}
		for i := range n {
			e := entry(3+i, 0, 100, "/", fmt.Sprintf("/mnt/%d", i), "rw")
			e.FSType, e.VFSOptions = "overlay", "rw,upperdir=/volume"+strings.Repeat("/a", 2*maxDepth)
			list = append(list, e)
		}
		return list
	}
	lookups := func(n int) float64 {
		list := table(n)
		return testing.AllocsPerRun(1, func() {
			if got := overlaysIn(list); len(got) != 1 || got[0].on != list[1] || got[0].root != "" {
				t.Errorf("%+v", got)
			}
		})
	}
	if few, many := lookups(100), lookups(10_000); many > 200*few {
		t.Errorf("%v allocations for 100 overlays, %v for 10,000", few, many)
	}
	h := NewTreeUse(mount.Mounts{entry(2, 8, 1, "/", "/", "rw")},
		mount.Filesystem{Major: 8, Minor: 1, Root: "/pool/uuid"}, nil)
	began := time.Now()
	h.FindOverlays(&Scan{all: []*View{NewView(table(16_000))}})
	if took := time.Since(began); took > 2*time.Second || !h.overlays[deviceNumber{0, 100}] {
		t.Errorf("%v: %v", took, h.overlays)
	}
}
