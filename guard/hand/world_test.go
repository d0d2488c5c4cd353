package hand

import (
	"cmp"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/mount"
)

func entry(id, major, minor int, root, point, options string) *mount.Entry {
	return &mount.Entry{ID: id, Major: major, Minor: minor, Root: root, Mountpoint: point, Options: options}
}

// sees returns a process whose mount namespace has the mount e on a directory of the mount around.
func sees(around, e *mount.Entry) process {
	e.Parent = around.ID
	table := mount.Mounts{around, e}
	v := &view{table, table.Index()}
	return process{first: v, views: []*view{v}}
}

// opened returns a process that has a file open through the mount m.
func opened(m *mount.Entry, in *view, link string) process {
	return process{opens: []open{place(seenMount{m, in}, link)}}
}

func isHolder(own mount.Mounts, target Target, p process) bool {
	return len((&world{own: own, procs: []*process{&p}}).holders(target)) == 1
}

// Which processes hold a dataset that is a folder of a filesystem.
func TestHolders(t *testing.T) {
	const path = "/root/mnt/uuid"
	own := mount.Mounts{entry(1, 8, 1, "/", "/", "rw"), entry(2, 8, 1, "/pool/uuid", path, "rw")}
	own[1].Parent = own[0].ID
	target := Target{Paths: []string{path}}
	overlay := entry(20, 0, 90, "/", "/", "rw")
	see := func(e *mount.Entry) process { return sees(overlay, e) }
	detached := process{opens: []open{{major: 8, minor: 1, path: "/", unplaced: true}}}
	for name, c := range map[string]struct {
		p    process
		want bool
	}{
		"a container":                              {see(entry(9, 8, 1, "/pool/uuid", "/data", "rw,noatime")), true},
		"a container, part of it":                  {see(entry(9, 8, 1, "/pool/uuid/sub", "/data", "rw")), true},
		"a container, removed part":                {see(entry(9, 8, 1, "/pool/uuid/sub//deleted", "/data", "rw")), true},
		"a container, read-only":                   {see(entry(9, 8, 1, "/pool/uuid", "/data", "ro,noatime")), false},
		"a container, on the host's path":          {see(entry(9, 8, 1, "/pool/uuid", path, "rw")), true},
		"a container, on a path that ends like it": {see(entry(9, 8, 1, "/pool/uuid", "/data"+path, "rw")), true},
		"another dataset":                          {see(entry(9, 8, 1, "/pool/uuid2", "/data", "rw")), false},
		"another filesystem":                       {see(entry(9, 8, 2, "/pool/uuid", "/data", "rw")), false},
		"all of the filesystem":                    {see(entry(9, 8, 1, "/", "/data", "rw")), false},
		"a service's copy of the mounts":           {sees(entry(8, 8, 1, "/", "/", "rw"), entry(9, 8, 1, "/pool/uuid", path, "rw")), false},
		"who looks at the whole host":              {sees(entry(8, 8, 1, "/", "/rootfs", "rw"), entry(9, 8, 1, "/pool/uuid", "/rootfs"+path, "rw")), false},
		"an open file":                             {opened(own[1], nil, path+"/a"), true},
		"its folder as working directory":          {opened(own[1], nil, path), true},
		"an open file, through the pool":           {opened(own[0], nil, "/pool/uuid/a"), true},
		"an open file beside it":                   {opened(own[0], nil, "/pool/uuid2/a"), false},
		"an open file of somebody below a chroot":  {opened(entry(9, 8, 1, "/pool", "/jail/pool", "rw"), nil, "/pool/uuid/a"), true},
		"the same, of another dataset":             {opened(entry(9, 8, 1, "/pool/uuid2", "/jail/x", "rw"), nil, "/x/a"), false},
		"an open file on a detached mount":         {detached, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := isHolder(own, target, c.p); got != c.want {
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
	own := mount.Mounts{disk, shared(1, mount.RootOf(2), "/mnt/share"), shared(2, db, path), shared(3, other, "/root/mnt/other"), nested}
	for _, e := range own[1:4] {
		e.Parent = disk.ID
	}
	nested.Parent = 2
	target := Target{Paths: []string{path}}
	overlay := entry(20, 0, 90, "/", "/", "rw")
	see := func(e *mount.Entry) process { return sees(overlay, e) }
	part := shared(9, mount.RootOf(12), "/data")
	copies := func(prefix string) process {
		around := entry(11, 8, 1, "/", cmp.Or(prefix, "/"), "rw")
		list := mount.Mounts{around, shared(12, db, prefix+path), shared(13, other, prefix+"/root/mnt/other"), shared(14, "/", prefix+path+"/in")}
		list[1].Parent, list[2].Parent, list[3].Parent = 11, 11, 12
		v := &view{list, list.Index()}
		return process{first: v, views: []*view{v}}
	}
	for name, c := range map[string]struct {
		p    process
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
			if got := isHolder(own, target, c.p); got != c.want {
				t.Errorf("it holds it: %t", got)
			}
		})
	}
}

// If nothing is mounted on the paths of a dataset, its filesystem is the one that Bind found there. If the
// host has mounted that device elsewhere, it belongs to another dataset.
func TestFilesystem(t *testing.T) {
	was := mount.Filesystem{Major: 7, Minor: 1, Root: "/"}
	for name, c := range map[string]struct {
		own    mount.Mounts
		target Target
		want   bool
	}{
		"mounted":        {mount.Mounts{entry(1, 7, 1, "/", "/m", "rw")}, Target{Paths: []string{"/m"}, Own: true}, true},
		"gone":           {nil, Target{Paths: []string{"/m"}, Own: true, Filesystem: was}, true},
		"used again":     {mount.Mounts{entry(1, 7, 1, "/", "/other", "rw")}, Target{Paths: []string{"/m"}, Own: true, Filesystem: was}, false},
		"never mounted":  {nil, Target{Paths: []string{"/m"}, Own: true}, false},
		"gone, a folder": {mount.Mounts{entry(1, 7, 1, "/", "/other", "rw")}, Target{Paths: []string{"/m"}, Filesystem: was}, true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (&world{own: c.own}).filesystem(c.target); got.ok != c.want {
				t.Errorf("%+v", got)
			}
		})
	}
}

func TestParseStat(t *testing.T) {
	b := []byte("42 (a) b (c) T 1 2 3 4 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0\n")
	got, err := parseStat(b)
	if err != nil || got != (stat{comm: "a) b (c", state: 'T', start: 777}) {
		t.Errorf("%+v, %v", got, err)
	}
	if got, _ := parseStat([]byte("2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 1 0 0\n")); !got.kernel {
		t.Errorf("%+v", got)
	}
	for _, bad := range []string{"", "42", "42 (a", "42 (a)", "42 (a) S 1 2"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

// Each mark is recorded once, and marks keep their order. A mark with a newline is refused. Forget removes
// all marks.
func TestMarks(t *testing.T) {
	tool := &Tool{Run: t.TempDir()}
	id := uuid.New()
	want := []mark{{markFreeze, "-"}, {markV1, "/sys/fs/cgroup/a b"}, {markProcess, "1 2"}}
	for range 2 {
		for _, m := range want {
			if err := tool.note(id, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := tool.marks(id)
	if d := gocmp.Diff(want, got, gocmp.AllowUnexported(mark{})); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if err := tool.note(id, mark{markV1, "/a\nfreeze -"}); err == nil {
		t.Error("two lines were noted as one")
	}
	if err := Forget(tool.Run, id); err != nil {
		t.Fatal(err)
	}
	if got, err := tool.marks(id); len(got) > 0 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}
