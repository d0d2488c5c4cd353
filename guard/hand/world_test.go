package hand

import (
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/mount"
)

func entry(id, major, minor int, root, point, options string) *mount.Entry {
	return &mount.Entry{ID: id, Major: major, Minor: minor, Root: root, Mountpoint: point, Options: options}
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
