package inuse

import (
	"cmp"
	"testing"

	"github.com/droverhq/drover/internal/linux/mount"
)

func entry(id, major, minor int, root, point, options string) *mount.Entry {
	return &mount.Entry{ID: id, Major: major, Minor: minor, Root: root, Mountpoint: point, Options: options}
}

// sees returns the findings of a process in whose mount namespace e is mounted on a directory of the
// mount around.
func sees(around, e *mount.Entry) Findings {
	e.Parent = around.ID
	table := mount.Mounts{around, e}
	return Findings{Views: []*View{NewView(table)}}
}

// opened returns the findings of a process that has a file open through the mount m.
func opened(m *mount.Entry, in *View, link string) Findings {
	return Findings{Files: []File{place(seenMount{m, in}, link)}}
}

// Which processes hold a dataset that is a folder of a filesystem.
func TestHolders(t *testing.T) {
	const path = "/root/mnt/uuid"
	own := mount.Mounts{entry(1, 8, 1, "/", "/", "rw"), entry(2, 8, 1, "/pool/uuid", path, "rw")}
	own[1].Parent = own[0].ID
	tree := mount.Filesystem{Major: 8, Minor: 1, Root: "/pool/uuid"}
	overlay := entry(20, 0, 90, "/", "/", "rw")
	see := func(e *mount.Entry) Findings { return sees(overlay, e) }
	detached := Findings{Files: []File{{major: 8, minor: 1, path: "/", unplaced: true}}}
	for name, c := range map[string]struct {
		p    Findings
		want bool
	}{
		"a container":             {see(entry(9, 8, 1, "/pool/uuid", "/data", "rw,noatime")), true},
		"a container, part of it": {see(entry(9, 8, 1, "/pool/uuid/sub", "/data", "rw")), true},
		"a container, removed part": {
			see(entry(9, 8, 1, "/pool/uuid/sub//deleted", "/data", "rw")), true,
		},
		"a container, read-only":                   {see(entry(9, 8, 1, "/pool/uuid", "/data", "ro,noatime")), false},
		"a container, on the host's path":          {see(entry(9, 8, 1, "/pool/uuid", path, "rw")), true},
		"a container, on a path that ends like it": {see(entry(9, 8, 1, "/pool/uuid", "/data"+path, "rw")), true},
		"another dataset":                          {see(entry(9, 8, 1, "/pool/uuid2", "/data", "rw")), false},
		"another filesystem":                       {see(entry(9, 8, 2, "/pool/uuid", "/data", "rw")), false},
		"all of the filesystem":                    {see(entry(9, 8, 1, "/", "/data", "rw")), false},
		"a service's copy of the mounts": {
			sees(entry(8, 8, 1, "/", "/", "rw"), entry(9, 8, 1, "/pool/uuid", path, "rw")), false,
		},
		"who looks at the whole host": {
			sees(entry(8, 8, 1, "/", "/rootfs", "rw"), entry(9, 8, 1, "/pool/uuid", "/rootfs"+path, "rw")), false,
		},
		"an open file":                    {opened(own[1], nil, path+"/a"), true},
		"its folder as working directory": {opened(own[1], nil, path), true},
		"an open file, through the pool":  {opened(own[0], nil, "/pool/uuid/a"), true},
		"an open file beside it":          {opened(own[0], nil, "/pool/uuid2/a"), false},
		"an open file of somebody below a chroot": {
			opened(entry(9, 8, 1, "/pool", "/jail/pool", "rw"), nil, "/pool/uuid/a"), true,
		},
		"the same, of another dataset": {
			opened(entry(9, 8, 1, "/pool/uuid2", "/jail/x", "rw"), nil, "/x/a"), false,
		},
		"an open file on a detached mount": {detached, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := NewTreeUse(own, tree, []string{path}).CanWrite(c.p); got != c.want {
				t.Errorf("it holds it: %t", got)
			}
		})
	}
}

// Which processes hold a dataset that is a folder of an NFS share. The root of a mount is known by its
// inode, or not known.
func TestHoldersOnAShare(t *testing.T) {
	const path = "/root/mnt/uuid"
	shared := func(id int, root, point string) *mount.Entry {
		e := entry(id, 0, 50, root, point, "rw")
		e.FSType = "nfs4"
		return e
	}
	db, other := mount.RootOf(10), mount.RootOf(11)
	disk := entry(7, 8, 1, "/", "/", "rw")
	nested := shared(4, "/", path+"/in")
	own := mount.Mounts{
		disk, shared(1, mount.RootOf(2), "/mnt/share"), shared(2, db, path), shared(3, other, "/root/mnt/other"),
		nested,
	}
	for _, e := range own[1:4] {
		e.Parent = disk.ID
	}
	nested.Parent = 2
	tree := mount.Filesystem{Minor: 50, Root: db}
	overlay := entry(20, 0, 90, "/", "/", "rw")
	see := func(e *mount.Entry) Findings { return sees(overlay, e) }
	part := shared(9, mount.RootOf(12), "/data")
	copies := func(prefix string) Findings {
		around := entry(11, 8, 1, "/", cmp.Or(prefix, "/"), "rw")
		list := mount.Mounts{
			around, shared(12, db, prefix+path), shared(13, other, prefix+"/root/mnt/other"),
			shared(14, "/", prefix+path+"/in"),
		}
		list[1].Parent, list[2].Parent, list[3].Parent = 11, 11, 12
		return Findings{Views: []*View{NewView(list)}}
	}
	for name, c := range map[string]struct {
		p    Findings
		want bool
	}{
		"a container":                    {see(shared(9, db, "/data")), true},
		"a container, part of it":        {see(part), true},
		"a container, within another":    {see(shared(9, "/", "/data/in")), true},
		"another dataset":                {see(shared(9, other, "/data")), false},
		"all of the share":               {see(shared(9, mount.RootOf(2), "/srv")), false},
		"a service's copy of the mounts": {copies(""), false},
		"who looks at the whole host":    {copies("/rootfs"), false},
		"an open file":                   {opened(own[2], nil, path+"/a"), true},
		"an open file of a part":         {opened(part, nil, "/data/a"), true},
		"an open file, within another":   {opened(nested, nil, path+"/in/a"), true},
		"an open file beside it":         {opened(own[3], nil, "/root/mnt/other/a"), false},
		"an open file of the share":      {opened(own[1], nil, "/mnt/share/a"), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := NewTreeUse(own, tree, []string{path}).CanWrite(c.p); got != c.want {
				t.Errorf("it holds it: %t", got)
			}
		})
	}
}
