package dir_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// bench is a pool with one dataset. A test changes the folder of the dataset by hand into the state that a crash
// leaves.
type bench struct {
	*testing.T
	pool backends.Pool
	d    dataset.Dataset
	path string // of the pool
}

func newBench(t *testing.T) *bench {
	b := &bench{T: t, path: filepath.Join(t.TempDir(), "pool")}
	pool, err := dir.Backend{}.Open(t.Context(), backends.Config{Name: "test", Path: b.path, Make: true})
	b.ok(err)
	b.pool, b.d = pool, dataset.Dataset{ID: uuid.New(), Volume: "db"}
	_, err = pool.Create(t.Context(), b.d)
	b.ok(err)
	b.ok(pool.Commit(t.Context(), b.d.ID))
	return b
}

func (b *bench) ok(err error) {
	b.Helper()
	require.NoError(b, err)
}

func (b *bench) in(elem ...string) string {
	return filepath.Join(append([]string{b.path, "datasets", b.d.ID.String()}, elem...)...)
}

// write writes content to the head, as a container does.
func (b *bench) write(content string) {
	b.Helper()
	b.ok(os.WriteFile(filepath.Join(b.head(), "file"), []byte(content), 0o600))
}

// head returns the directory from which the head is mounted.
func (b *bench) head() string {
	b.Helper()
	a, err := b.pool.Attach(b.Context(), b.d.ID, backends.AttachOptions{})
	b.ok(err)
	b.ok(a.Release())
	return a.Mount.Source
}

func (b *bench) holds(want string) {
	b.Helper()
	if got, err := os.ReadFile(filepath.Join(b.head(), "file")); err != nil || string(got) != want {
		b.Errorf("the head holds %q, %v, want %q", got, err, want)
	}
}

func (b *bench) snapshots() (ids []uuid.UUID) {
	b.Helper()
	e, err := b.pool.Stat(b.Context(), b.d.ID)
	b.ok(err)
	if e.Problem != "" {
		b.Errorf("problem: %s", e.Problem)
	}
	for _, s := range e.Snapshots {
		ids = append(ids, s.ID)
	}
	return ids
}

func (b *bench) reap() int {
	b.Helper()
	n, err := b.pool.Reap(b.Context(), func(uuid.UUID) bool { return false })
	b.ok(err)
	return n
}

// A copy of a snapshot that is removed meanwhile may lack files.
func TestCopyOfRemovedSnapshotFails(t *testing.T) {
	for _, whole := range []bool{false, true} {
		b, copied := newBench(t), func(string) {}
		pool, err := dir.Stepping(func(name string) { copied(name) }).Open(t.Context(), backends.Config{Path: b.path})
		b.ok(err)
		b.write("content")
		s := dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}
		b.ok(pool.Snapshot(t.Context(), s, nil))
		copied = func(name string) {
			if name == "dir.copy.copied" && whole {
				b.ok(b.pool.Delete(t.Context(), b.d.ID))
			} else if name == "dir.copy.copied" {
				b.ok(b.pool.DeleteSnapshot(t.Context(), b.d.ID, s.ID))
			}
		}
		clone := dataset.Dataset{ID: uuid.New(), Volume: "copy"}
		_, err = pool.Clone(t.Context(), clone, dataset.Source{Dataset: b.d.ID, Snapshot: s.ID}, nil)
		require.ErrorIs(t, err, dataset.ErrNotFound)
		_, err = pool.Stat(t.Context(), clone.ID)
		require.ErrorIs(t, err, dataset.ErrNotFound)
	}
}

// Each of two copies fits, but not both.
func TestCopiesKeepTheReserve(t *testing.T) {
	b := &bench{T: t, path: filepath.Join(tmpfsOf(t, "256m"), "pool"), d: dataset.Dataset{ID: uuid.New(), Volume: "db"}}
	var err error
	b.pool, err = dir.Backend{}.Open(t.Context(), backends.Config{Name: "test", Path: b.path, Make: true})
	b.ok(err)
	_, err = b.pool.Create(t.Context(), b.d)
	b.ok(err)
	b.write(strings.Repeat("x", 60<<20))
	s := dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}
	b.ok(b.pool.Snapshot(t.Context(), s, nil))
	one, two := dataset.Dataset{ID: uuid.New(), Volume: "one"}, dataset.Dataset{ID: uuid.New(), Volume: "two"}
	clone := func(d dataset.Dataset, progress backends.Progress) error {
		_, err := b.pool.Clone(t.Context(), d, dataset.Source{Dataset: b.d.ID, Snapshot: s.ID}, progress)
		return err
	}
	var once sync.Once
	b.ok(clone(one, func(done, _ int64) {
		if done < 10<<20 {
			once.Do(func() { require.ErrorIs(t, clone(two, nil), dataset.ErrNoSpace) })
		}
	}))
	once.Do(func() { t.Error("the first copy was not observed") })
	b.ok(b.pool.Delete(t.Context(), one.ID))
	b.reap()
	require.ErrorIs(t, clone(two, func(_, _ int64) { // another writer takes the room
		b.ok(os.WriteFile(filepath.Join(filepath.Dir(b.path), "other"), make([]byte, 60<<20), 0o600))
	}), dataset.ErrNoSpace)
}

// A copy that shares blocks still needs space for attributes and for files that cannot be shared.
func TestSharingCopyKeepsTheReserve(t *testing.T) {
	for fs, fill := range map[string]func(head string, step int) error{
		"xfs": func(head string, step int) error {
			file := filepath.Join(head, fmt.Sprint(step/200))
			return errors.Join(os.WriteFile(file, nil, 0o600),
				unix.Setxattr(file, fmt.Sprint("user.", step), make([]byte, 1<<16), 0))
		},
		"btrfs": func(head string, step int) error {
			return os.WriteFile(filepath.Join(head, fmt.Sprint(step)), make([]byte, 1<<20), 0o600)
		},
	} {
		b := &bench{T: t, path: filepath.Join(scratch.Mount(t, fs, 512<<20), "pool"), d: dataset.Dataset{ID: uuid.New()}}
		var err error
		b.pool, err = dir.Backend{}.Open(t.Context(), backends.Config{Name: "test", Path: b.path, Make: true})
		b.ok(err)
		_, err = b.pool.Create(t.Context(), b.d)
		b.ok(err)
		scratch.Run(t, "chattr", map[string]string{"xfs": "-C", "btrfs": "+C"}[fs], b.head())
		for step := 0; b.pool.Status(t.Context()).Free > 200<<20; step++ {
			b.ok(fill(b.head(), step))
		}
		err = b.pool.Snapshot(t.Context(), dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}, nil)
		if !errors.Is(err, dataset.ErrNoSpace) || !strings.Contains(err.Error(), "the copy was ended") {
			t.Errorf("%s: %v", fs, err)
		}
	}
}

func TestLeftoversAreReaped(t *testing.T) {
	b := newBench(t)
	b.write("content")
	s := dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}
	b.ok(b.pool.Snapshot(t.Context(), s, nil))
	gone, orphan := uuid.NewString(), uuid.NewString()
	for _, path := range []string{
		filepath.Join(b.path, "deleting", gone, "head", strings.Repeat("deep/", 700)),
		filepath.Join(b.path, "deleting", gone+".1", "head"),
		b.in("tmp-snapshot-"+orphan, "half"), b.in("snapshot-"+orphan, "whole"),
	} {
		b.ok(os.MkdirAll(path, 0o700))
	}
	b.ok(os.WriteFile(b.in("tmp-record.json"), nil, 0o600))
	b.ok(os.WriteFile(filepath.Join(b.path, "tmp-pool.json"), nil, 0o600))
	if st := b.pool.Status(t.Context()); st.Leftovers != 2 {
		t.Errorf("%d are pending, want 2", st.Leftovers)
	}
	if n := b.reap(); n != 6 {
		t.Errorf("reaped %d, want 6", n)
	}
	if n := b.reap(); n != 0 {
		t.Errorf("reaped %d again", n)
	}
	b.holds("content")
	if ids := b.snapshots(); len(ids) != 1 || ids[0] != s.ID {
		t.Errorf("the snapshots are %v", ids)
	}
}

// TestNoTreeIsReapedInDoubt damages the record of a snapshot. Then no record names the tree of the snapshot, but the
// tree must stay.
func TestNoTreeIsReapedInDoubt(t *testing.T) {
	b := newBench(t)
	b.write("content")
	s := dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}
	b.ok(b.pool.Snapshot(t.Context(), s, nil))
	for _, damage := range []struct{ file, text string }{
		{"snapshot-" + s.ID.String() + ".json", "{"},
		{"snapshot-" + s.ID.String() + ".json", `{"id":"` + s.ID.String() + `","tree":"../../../etc"}`},
		{"current.json", `{"tree":"/etc"}`},
		{"current.json", ``},
	} {
		b.ok(os.WriteFile(b.in(damage.file), []byte(damage.text), 0o600))
		if n := b.reap(); n != 0 {
			t.Errorf("reaped %d", n)
		}
		for _, tree := range []string{"head", "snapshot-" + s.ID.String()} {
			_, err := os.Stat(b.in(tree, "file"))
			assert.NoError(t, err)
		}
		e, err := b.pool.Stat(t.Context(), b.d.ID)
		b.ok(err)
		if e.Problem == "" {
			t.Errorf("no problem with %q in %s", damage.text, damage.file)
		}
	}
	if _, err := b.pool.Attach(t.Context(), b.d.ID, backends.AttachOptions{}); !errors.Is(err, dataset.ErrCorrupt) {
		t.Errorf("attached with a damaged current.json: %v", err)
	}
}

func TestCopyThatDoesNotFitIsRefusedBefore(t *testing.T) {
	b := newBench(t)
	small := tmpfsOf(t, "70m")
	pool, err := dir.Backend{}.Open(t.Context(), backends.Config{Path: filepath.Join(small, "pool"), Make: true})
	b.ok(err)
	b.pool = pool
	_, err = pool.Create(t.Context(), b.d)
	b.ok(err)
	b.ok(os.WriteFile(filepath.Join(b.head(), "file"), make([]byte, 36<<20), 0o600))
	err = pool.Snapshot(t.Context(), dataset.Snapshot{ID: uuid.New(), Dataset: b.d.ID}, func(int64, int64) {
		t.Error("bytes were copied")
	})
	if !errors.Is(err, dataset.ErrNoSpace) || strings.Contains(err.Error(), "nearly full") {
		t.Errorf("got %v, want no space for a copy", err)
	}
	if n := b.reap(); n != 0 {
		t.Errorf("%d things were left", n)
	}
}

func TestOpen(t *testing.T) {
	b := newBench(t)
	open := func(cfg backends.Config) error {
		_, err := dir.Backend{}.Open(t.Context(), cfg)
		return err
	}
	half := filepath.Join(t.TempDir(), "half") // the remains of an interrupted attempt to make a pool
	b.ok(
		errors.Join(os.MkdirAll(filepath.Join(half, "incoming"), 0o700),
			os.WriteFile(filepath.Join(half, "tmp-pool.json"), nil, 0o600)))
	b.ok(open(backends.Config{Path: half, Make: true}))
	fresh := filepath.Join(t.TempDir(), "fresh") // a new ext4
	b.ok(os.MkdirAll(filepath.Join(fresh, "lost+found"), 0o700))
	b.ok(open(backends.Config{Path: fresh, Make: true}))
	for name, test := range map[string]struct {
		marker string
		want   *dataset.Kind
	}{
		"another backend": {`{"format":1,"backend":"loop","id":"` + uuid.NewString() + `"}`, dataset.ErrExists},
		"a later format":  {`{"format":99,"backend":"dir","id":{"new":1}}`, dataset.ErrUnsupported},
		"garbage":         {`{`, dataset.ErrOffline},
	} {
		b.ok(os.WriteFile(filepath.Join(fresh, "pool.json"), []byte(test.marker), 0o600))
		if err := open(backends.Config{Path: fresh}); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %s", name, err, test.want.Code)
		}
	}
	assert.ErrorIsf(t, open(backends.Config{Path: b.path, Image: dataset.GiB}), dataset.ErrUnsupported, "an image")
	if err := open(backends.Config{Path: "/nowhere/at/all", Make: true}); !errors.Is(err, dataset.ErrInvalid) {
		t.Errorf("no directory above: %v", err)
	}
}
