package hand

import (
	"encoding/json"
	"testing"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	gocmp "github.com/google/go-cmp/cmp"
)

// typed sets the filesystem type and the source of an entry.
func typed(e *mount.Entry, fstype, source string) *mount.Entry {
	e.FSType, e.Source = fstype, source
	return e
}

// If nothing is mounted on the paths of a dataset, its filesystem is the one that Bind found there, unless
// another mount shows that the device number belongs to another filesystem now.
func TestFilesystem(t *testing.T) {
	was := mount.Filesystem{Minor: 91, Root: "/", Identity: mount.Identity{Type: "zfs", Source: "tank/db"}}
	old := mount.Filesystem{Minor: 91, Root: "/"} // from a guard that recorded no identity
	at := func(point, fstype, source string) mount.Mounts {
		return mount.Mounts{typed(entry(1, 0, 91, "/", point, "rw"), fstype, source)}
	}
	for name, c := range map[string]struct {
		own  mount.Mounts
		was  mount.Filesystem
		want bool
	}{
		"mounted":                      {at("/m", "zfs", "tank/db"), mount.Filesystem{}, true},
		"gone":                         {nil, was, true},
		"mounted elsewhere":            {at("/other", "zfs", "tank/db"), was, true},
		"the number is of another ZFS": {at("/other", "zfs", "tank/other"), was, false},
		"the number is of an overlay":  {at("/other", "overlay", "overlay"), was, false},
		"the identity is not recorded": {at("/other", "zfs", "tank/other"), old, true},
		"never mounted":                {nil, mount.Filesystem{}, false},
	} {
		t.Run(name, func(t *testing.T) {
			target := Target{Paths: []string{"/m"}, Own: true, Filesystem: c.was}
			if got := (&processTable{own: c.own}).filesystem(target); got.ok != c.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

// Bind records the identity of the filesystem, and a record without one can be read.
func TestBindRecordsTheIdentity(t *testing.T) {
	path := scratch.Mount(t, "xfs", scratch.XFS)
	tool := New(Options{Run: t.TempDir(), Root: t.TempDir()})
	fsys, err := tool.Bind(Target{Paths: []string{path}, Own: true})
	if err != nil {
		t.Fatal(err)
	}
	if fsys.Identity.Type != "xfs" || fsys.Identity.Sequence == "" {
		t.Errorf("%+v", fsys)
	}
	b, err := json.Marshal(Target{Filesystem: fsys})
	if err != nil {
		t.Fatal(err)
	}
	var target Target
	if err := json.Unmarshal(b, &target); err != nil || target.Filesystem != fsys {
		t.Errorf("%s: %+v, %v", b, target, err)
	}
	const old = `{"paths":["/m"],"own":true,"filesystem":{"major":7,"minor":1,"root":"/"}}`
	want := Target{Paths: []string{"/m"}, Own: true, Filesystem: mount.Filesystem{Major: 7, Minor: 1, Root: "/"}}
	target = Target{}
	if err := json.Unmarshal([]byte(old), &target); err != nil {
		t.Fatal(err)
	}
	if d := gocmp.Diff(want, target); d != "" {
		t.Error(d)
	}
}
