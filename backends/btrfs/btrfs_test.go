package btrfs

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/btrfsctl"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
)

// subvolume makes a subvolume in a directory.
func (f *fixture) subvolume(dir, name string) string {
	f.Helper()
	d, err := os.Open(dir)
	f.must(err)
	defer d.Close()
	f.must(btrfsctl.Create(d, name))
	path := filepath.Join(dir, name)
	f.must(os.WriteFile(filepath.Join(path, "precious"), []byte("precious"), 0o600))
	return path
}

func (f *fixture) fails(err error, kind *dataset.Kind, says string) {
	f.Helper()
	if !errors.Is(err, kind) || !strings.Contains(err.Error(), says) {
		f.Errorf("got %v, want %s with %q", err, kind.Code, says)
	}
}

// A snapshot of a dataset with subvolumes of a container is refused with the reason. These subvolumes are destroyed
// together with the dataset.
func TestSubvolumesOfContainers(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	inner := f.subvolume(f.head(c.Dataset.ID), "inner")
	f.subvolume(inner, "deeper")
	f.fails(f.Snapshot(t.Context(), c.Keep, nil), dataset.ErrUnsupported, "contains 1 subvolumes")
	e, err := f.Stat(t.Context(), c.Dataset.ID)
	f.must(err)
	if !strings.Contains(e.Problem, "no size limits them") {
		t.Errorf("problem %q", e.Problem)
	}
	_, err = f.Clone(t.Context(), c.Other, dataset.Source{Dataset: c.Dataset.ID}, nil)
	f.fails(err, dataset.ErrUnsupported, "a snapshot would omit them")
	f.must(f.Restore(t.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil)) // it leaves nothing out
	if got := f.read(c.Dataset.ID); got != "old" {
		t.Errorf("restored %q", got)
	}
	f.fails(
		f.Restore(t.Context(), c.Dataset.ID, c.Keep.ID, dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}, nil),
		dataset.ErrUnsupported, "contains 1 subvolumes")
	f.must(f.DeleteSnapshot(t.Context(), c.Dataset.ID, c.Keep.ID))
	f.subvolume(f.subvolume(f.head(c.Dataset.ID), "inner"), "deeper")
	f.must(f.Delete(t.Context(), c.Dataset.ID))
	f.settled()
	root, err := os.Open(f.disk)
	f.must(err)
	defer root.Close()
	if left, err := btrfsctl.Nested(root); err != nil || len(left) > 0 {
		t.Errorf("%d subvolumes are left, %v", len(left), err)
	}
}

// If a process makes a subvolume in a dataset while a snapshot or clone is taken, the snapshot is refused and nothing
// of it remains. Otherwise the snapshot would silently lack the subvolume.
func TestSubvolumeMadeMeanwhile(t *testing.T) {
	for name, take := range map[string]func(f *fixture, c cast) error{
		"snapshot": func(f *fixture, c cast) error { return f.Snapshot(t.Context(), c.Keep, nil) },
		"clone": func(f *fixture, c cast) error {
			_, err := f.Clone(t.Context(), c.Other, dataset.Source{Dataset: c.Dataset.ID}, nil)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t)
			c := f.stage()
			head := f.head(c.Dataset.ID)
			f.backend.step = func(step string) {
				if step == "btrfs.copy.begun" {
					f.subvolume(head, "inner")
				}
			}
			f.reopen()
			f.fails(take(f, c), dataset.ErrUnsupported, "contains 1 subvolumes")
			f.backend.step = func(string) {}
			f.reopen()
			if f.has(c.Dataset.ID, c.Keep.ID) {
				t.Error("there is a snapshot without the subvolume")
			}
			f.must(subvolumeGone(head, "inner"))
			f.settled()
			f.must(take(f, c))
		})
	}
}

// subvolumeGone deletes a subvolume.
func subvolumeGone(dir, name string) error {
	parent, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(btrfsctl.Delete(parent, name), parent.Close())
}

// A former head that a restore has kept is read-only like any snapshot.
func TestKeptHeadIsReadOnly(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	old := f.head(c.Dataset.ID)
	f.must(f.Restore(t.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil))
	for _, path := range []string{old, filepath.Join(f.folder(c.Dataset.ID), "snapshot-"+c.Snapshot.ID.String())} {
		assert.ErrorIsf(t, os.WriteFile(filepath.Join(path, "file"), nil, 0o600), unix.EROFS, "%s", path)
	}
}

// Files and subvolumes that Drover did not make are listed and kept.
func TestForeignSubvolumesStay(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	foreign := []string{
		f.subvolume(f.path(), "mine"), f.subvolume(filepath.Join(f.path(), "datasets"), "mine"),
		f.subvolume(filepath.Join(f.path(), "incoming"), "mine"),
		f.subvolume(filepath.Join(f.path(), "deleting"), "mine"),
		f.subvolume(f.folder(c.Dataset.ID), "mine"), f.subvolume(f.disk, "beside"),
	}
	_, err := f.Reap(t.Context(), func(uuid.UUID) bool { return true })
	f.must(err)
	f.fails(f.Delete(t.Context(), c.Dataset.ID), dataset.ErrCorrupt,
		"its folder contains mine, which drover did not create")
	e, err := f.Stat(t.Context(), c.Dataset.ID)
	f.must(err)
	if !strings.Contains(e.Problem, "mine") {
		t.Errorf("problem %q", e.Problem)
	}
	for _, path := range foreign {
		if b, err := os.ReadFile(filepath.Join(path, "precious")); err != nil || string(b) != "precious" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	if got := f.read(c.Dataset.ID); got != "new" {
		t.Errorf("the head holds %q", got)
	}
}

// A tree that is not a subvolume was made by a person who copied files. It has no limit, and no snapshot of it can be
// taken.
func TestPlainDirectoriesAreNoHeads(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	head := f.head(c.Dataset.ID)
	for what, place := range map[string]func() error{
		"a directory": func() error { return os.Mkdir(head, 0o700) },
		"a file":      func() error { return os.WriteFile(head, nil, 0o600) },
		"a symlink":   func() error { return os.Symlink(head+"-aside", head) },
		"nothing":     func() error { return nil },
	} {
		f.must(os.Rename(head, head+"-aside"))
		f.must(place())
		_, err := f.Attach(t.Context(), c.Dataset.ID, backends.AttachOptions{})
		f.fails(err, dataset.ErrCorrupt, "")
		f.fails(f.Snapshot(t.Context(), c.Keep, nil), dataset.ErrCorrupt, "")
		e, err := f.Stat(t.Context(), c.Dataset.ID)
		f.must(err)
		if e.Problem == "" {
			t.Errorf("%s in the head's place is no problem", what)
		}
		_, err = f.Reap(t.Context(), func(uuid.UUID) bool { return true })
		f.must(err)
		f.must(os.RemoveAll(head))
		f.must(os.Rename(head+"-aside", head))
	}
	if got := f.read(c.Dataset.ID); got != "new" {
		t.Errorf("the head holds %q", got)
	}
}

// Sizes are enforced only if quotas are on, and other programs can switch quotas on and off.
func TestQuotasThatAreSwitched(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	reason := func(want string) {
		t.Helper()
		if st := f.Status(t.Context()); !st.Online || !strings.Contains(st.Reason, want) ||
			(want == "" && st.Reason != "") {
			t.Errorf("status %+v, want reason %q", st, want)
		}
	}
	reason("")
	scratch.Run(t, "btrfs", "quota", "disable", f.disk)
	reason("quotas were switched off: no size is enforced (btrfs quota enable " + f.path())
	_, err := f.Create(t.Context(), c.Other)
	f.fails(err, dataset.ErrUnsupported, "btrfs quota enable")
	f.reopen()
	reason("")
	if info := f.Info(); info.Capabilities.EnforcesSize || !strings.Contains(info.Note, "no size limits") ||
		strings.Contains(info.Note, "btrfs quota") || len(info.Missing) != 1 ||
		!strings.Contains(info.Missing[0], "btrfs quota enable "+f.path()) {
		t.Errorf("%+v", info)
	}
	_, err = f.Create(t.Context(), c.Other)
	f.fails(err, dataset.ErrUnsupported, "btrfs quota enable "+f.path())
	if mode, _, err := quotas(f.disk); err != nil || mode != btrfsctl.QuotaNone {
		t.Errorf("quotas were made %s, %v", mode, err)
	}
	unlimited := dataset.Dataset{ID: uuid.New()}
	if size, err := f.Clone(t.Context(), unlimited, dataset.Source{Dataset: c.Dataset.ID}, nil); size != 0 ||
		err != nil {
		t.Errorf("a clone without quotas has %s, %v", size, err)
	}
	f.must(f.Restore(t.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil))

	scratch.Quota(t, f.disk, "full")
	reason("") // the pool promised nothing that it does not keep
	f.reopen() // limits are lost when quotas are switched off, recorded sizes are not
	reason("")
	f.wantLimit(c.Dataset.ID, little)
	f.wantLimit(unlimited.ID, 0)
}

// TestQuotasAreCountedAnew makes the kernel abandon its counts, as it sometimes does by itself. The pool reports that
// and starts a recount, without an operator. If the kernel abandons the counts again soon after, the pool waits before
// the next recount.
func TestQuotasAreCountedAnew(t *testing.T) {
	f := newFixture(t)
	now := fakes.NewClock(time.Unix(1000, 0))
	f.backend.clock = now
	f.reopen()
	c := f.stage()
	head, err := os.Open(f.head(c.Dataset.ID))
	f.must(err)
	defer head.Close()
	id, err := btrfsctl.ID(head)
	f.must(err)
	f.write(c.Dataset.ID, strings.Repeat("x", 1<<20))
	f.must(f.Snapshot(t.Context(), c.Keep, nil))
	f.must(btrfsctl.StartCleanup(head)) // the blocks that both share are counted
	givesUp := func(group string) {
		t.Helper()
		scratch.Run(t, "btrfs", "qgroup", "create", group, f.disk)
		scratch.Run(t, "btrfs", "qgroup", "assign", "--no-rescan", fmt.Sprintf("0/%d", id), group, f.disk)
		if _, settled, err := quotas(f.disk); settled || err != nil {
			t.Fatalf("the kernel has not given up: %v", err)
		}
	}
	counts := func(want bool) {
		t.Helper()
		if st := f.Status(t.Context()); !st.Online ||
			!strings.HasPrefix(st.Reason,
				"quotas are being rescanned: sizes may not be enforced until then (btrfs quota rescan -w "+f.path()) {
			t.Errorf("%+v", st)
		}
		scratch.Run(t, "btrfs", "quota", "rescan", "-W", f.disk) // -W waits, and starts no rescan
		if _, settled, err := quotas(f.disk); settled != want || err != nil {
			t.Errorf("counted: %t, want %t, %v", settled, want, err)
		}
	}
	givesUp("1/7")
	counts(true)
	givesUp("1/8") // no call has noticed the end of the recount
	counts(false)
	now.Advance(RecountEvery)
	counts(true)
	if st := f.Status(t.Context()); st.Reason != "" {
		t.Errorf("%+v", st)
	}
	givesUp("1/9") // at once, because the recount had ended
	counts(true)
	f.wantLimit(c.Dataset.ID, little)
}

func quotas(path string) (btrfsctl.Quota, bool, error) {
	dir, err := os.Open(path)
	if err != nil {
		return "", false, err
	}
	defer dir.Close()
	return btrfsctl.Quotas(dir)
}

// A clone without a size gets the size of its source. A clone of an unlimited dataset has no limit, even if the
// subvolume of the source has one.
func TestLimitsAreSetOrCleared(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	same := dataset.Dataset{ID: uuid.New()}
	_, err := f.Clone(t.Context(), same, dataset.Source{Dataset: c.Dataset.ID, Snapshot: c.Snapshot.ID}, nil)
	f.must(err)
	f.wantLimit(same.ID, little)
	f.must(f.Pool.(backends.Resizer).Resize(t.Context(), c.Dataset.ID, 0, nil))
	f.wantLimit(c.Dataset.ID, 0)
	scratch.Run(t, "btrfs", "qgroup", "limit", "20M", f.head(c.Dataset.ID)) // set by a person
	e, err := f.Stat(t.Context(), c.Dataset.ID)
	f.must(err)
	if !strings.Contains(e.Problem, "the limit of its subvolume is 20MiB but its size is 0B") {
		t.Errorf("problem %q", e.Problem)
	}
	free := dataset.Dataset{ID: uuid.New()}
	_, err = f.Clone(t.Context(), free, dataset.Source{Dataset: c.Dataset.ID}, nil)
	f.must(err)
	f.wantLimit(free.ID, 0)
	f.must(f.Restore(t.Context(), c.Dataset.ID, c.Snapshot.ID, c.Keep, nil))
	f.wantLimit(c.Dataset.ID, 0) // because the dataset has no size
}

func TestSizesThatCannotBe(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	for size, says := range map[dataset.Size]string{
		dataset.MiB: "1MiB is too small for a subvolume (at least 16MiB)",
		dataset.TiB: "1TiB is more than the total size of pool test",
	} {
		c.Other.Size = size
		_, err := f.Create(t.Context(), c.Other)
		f.fails(err, dataset.ErrUnsupported, says)
		f.fails(f.Pool.(backends.Resizer).Resize(t.Context(), c.Dataset.ID, size, nil), dataset.ErrUnsupported, says)
	}
	f.must(f.Pool.(backends.Resizer).Resize(t.Context(), c.Dataset.ID, more, nil))
	f.must(os.WriteFile(filepath.Join(f.head(c.Dataset.ID), "big"), make([]byte, 80*dataset.MiB), 0o600))
	f.must(f.Snapshot(t.Context(), c.Keep, nil))
	f.fails(f.Pool.(backends.Resizer).Resize(t.Context(), c.Dataset.ID, little, nil), dataset.ErrUnsupported,
		"delete some of it first")
	f.must(os.Remove(filepath.Join(f.head(c.Dataset.ID), "big")))
	f.must(f.Pool.(backends.Resizer).Resize(t.Context(), c.Dataset.ID, little, nil))
	late := dataset.Snapshot{ID: uuid.New(), Dataset: c.Dataset.ID}
	f.fails(f.Restore(t.Context(), c.Dataset.ID, c.Keep.ID, late, nil), dataset.ErrUnsupported,
		"make the volume larger first")
	f.settled()
}

func TestOpen(t *testing.T) {
	f := newFixture(t)
	open := func(cfg backends.Config) error {
		_, err := New().Open(t.Context(), cfg)
		return err
	}
	elsewhere := t.TempDir()
	for _, path := range []string{elsewhere, filepath.Join(elsewhere, "absent")} {
		f.fails(open(backends.Config{Path: path, Make: true}), dataset.ErrUnsupported,
			"backend btrfs needs a directory on a mounted btrfs")
	}
	if left, err := os.ReadDir(elsewhere); err != nil || len(left) > 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	f.fails(open(backends.Config{Path: elsewhere}), dataset.ErrOffline, "")
	f.fails(open(backends.Config{Path: f.path(), Image: dataset.GiB}), dataset.ErrUnsupported, "not in an image")
	f.fails(open(backends.Config{Path: "/nowhere/at/all", Make: true}), dataset.ErrInvalid, "")
	scratch.Run(t, "cp", "-a", f.path(), filepath.Join(elsewhere, "copied"))
	f.fails(open(backends.Config{Path: filepath.Join(elsewhere, "copied")}), dataset.ErrUnsupported,
		"backend btrfs needs")
	f.must(New().Available(t.Context()))
}

// A pool without a free block can be opened, and its datasets can be removed.
func TestOpenWhenFull(t *testing.T) {
	f := newFixture(t)
	c := f.stage()
	scratch.Fill(t, f.disk)
	f.reopen()
	f.fails(f.Snapshot(t.Context(), c.Keep, nil), dataset.ErrNoSpace, "nearly full")
	f.must(f.Delete(t.Context(), c.Dataset.ID))
}

// The space of a removed snapshot can be used at once, also if the filesystem commits rarely.
func TestRemovedSnapshotMakesRoom(t *testing.T) {
	f := fixtureAt(t, scratch.Mount(t, "btrfs", 512<<20, "commit=300"))
	ds, kept := dataset.Dataset{ID: uuid.New()}, dataset.Snapshot{ID: uuid.New()}
	kept.Dataset = ds.ID
	_, err := f.Create(t.Context(), ds)
	f.must(err)
	content := strings.Repeat("content ", 12<<20)
	f.write(ds.ID, content)
	f.must(f.Snapshot(t.Context(), kept, nil))
	f.write(ds.ID, content)
	tree, err := os.Open(filepath.Join(f.folder(ds.ID), shelf.TreeOf(kept.ID)))
	f.must(err)
	number, err := btrfsctl.ID(tree)
	f.must(errors.Join(err, tree.Close()))
	more := f.Status(t.Context()).Free + 64*dataset.MiB
	f.must(f.DeleteSnapshot(t.Context(), ds.ID, kept.ID))
	disk, err := os.Open(f.disk)
	f.must(err)
	defer disk.Close()
	state := btrfsctl.Deleting
	for n := 0; n < 3000 && state != btrfsctl.Deleted; n++ {
		<-time.After(10 * time.Millisecond)
		state, err = btrfsctl.DeletionStateOf(disk, number)
		f.must(err)
	}
	if state != btrfsctl.Deleted {
		t.Fatal("the kernel did not begin to remove its content")
	}
	f.must(os.WriteFile(filepath.Join(f.disk, "more"), make([]byte, more), 0o600))
	f.must(fsctl.Sync(disk))
}
