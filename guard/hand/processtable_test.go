package hand

import (
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/linux/mount"
)

func entry(id, major, minor int, root, point, options string) *mount.Entry {
	return &mount.Entry{ID: id, Major: major, Minor: minor, Root: root, Mountpoint: point, Options: options}
}

func TestParseStat(t *testing.T) {
	b := []byte("42 (a) b (c) T 1 2 3 4 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 777 0 0\n")
	got, err := parseStat(b)
	if err != nil || got != (stat{comm: "a) b (c", state: 'T', threads: 1, start: 777}) {
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
	tool := New(Options{Run: t.TempDir()})
	id := uuid.New()
	want := []mark{{markFreeze, "-"}, {markV1, "/sys/fs/cgroup/a b"}, {markProcess, "1 2"}}
	for range 2 {
		for _, m := range want {
			if err := tool.marks.add(id, m); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, err := tool.marks.of(id)
	if d := gocmp.Diff(want, got, gocmp.AllowUnexported(mark{})); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if err := tool.marks.add(id, mark{markV1, "/a\nfreeze -"}); err == nil {
		t.Error("two lines were noted as one")
	}
	if err := Forget(tool.Run, id); err != nil {
		t.Fatal(err)
	}
	if got, err := tool.marks.of(id); len(got) > 0 || err != nil {
		t.Errorf("%v, %v", got, err)
	}
}
