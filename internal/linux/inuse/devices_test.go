package inuse

import (
	"testing"

	"github.com/droverhq/drover/internal/linux/mount"
)

// A file on a detached mount is recognized by the device number that stat(2) reports, also when the host
// has not mounted its filesystem any more.
func TestDetached(t *testing.T) {
	const dir = "/proc" // not on a btrfs
	for name, c := range map[string]struct {
		wanted       mount.Filesystem
		e            *mount.Entry
		major, minor int
		want         bool
	}{
		"mounted":               {mount.Filesystem{Major: 8, Minor: 1}, &mount.Entry{FSType: "ext4"}, 8, 1, true},
		"not mounted":           {mount.Filesystem{Major: 8, Minor: 1}, nil, 8, 1, true},
		"another disk":          {mount.Filesystem{Major: 8, Minor: 1}, nil, 8, 2, false},
		"a share, not mounted":  {mount.Filesystem{Minor: 50}, nil, 0, 50, true},
		"another, and no btrfs": {mount.Filesystem{Minor: 50}, nil, 0, 51, false},
	} {
		s := &Scan{}
		s.AddTree(c.wanted, c.e)
		if got := s.detached(c.major, c.minor, dir) != nil; got != c.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}
