package zfs_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/zfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/fakes"
)

// TestForeignInZFS puts foreign filesystems and snapshots beside and below those of Drover.
func TestForeignInZFS(t *testing.T) {
	b := newBench(t)
	d, other := b.create(), b.create()
	b.write(other.ID, "content")
	top := b.home + "/drover-" + b.cfg.ID.String()
	lost := uuid.New()
	foreign := []string{
		b.home + "/beside", top + "/mine", top + "/" + lost.String(), top + "/" + d.ID.String() + "/below",
		top + "/deleted/among", top + "/" + other.ID.String() + "/head@theirs", top + "/" + d.ID.String() + "/head@own",
	}
	for _, name := range foreign {
		if strings.Contains(name, "@") {
			lines(t, "snapshot", name)
		} else {
			lines(t, "create", "-o", "mountpoint=none", name)
		}
	}
	b.reap()
	if _, err := b.pool.Create(t.Context(), dataset.Dataset{ID: lost}); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("create where a filesystem is without its record: %v", err)
	}
	b.ok(b.pool.Delete(t.Context(), lost))
	b.ok(b.pool.Delete(t.Context(), d.ID))
	b.reap()
	b.holds(other.ID, "content")
	names := lines(t, "get", "-Hp", "-r", "-o", "name", "type", b.home)
	for _, name := range foreign {
		if base := filepath.Base(name); !slices.ContainsFunc(names, func(n string) bool {
			return strings.HasSuffix(n, base)
		}) {
			t.Errorf("%s is gone", name)
		}
	}
	for _, kept := range []string{"/below", "/head@own"} { // objects of the deleted dataset
		if !slices.ContainsFunc(names, func(n string) bool {
			return strings.HasPrefix(n, top+"/deleted/") && strings.HasSuffix(n, kept)
		}) {
			t.Errorf("the deleted dataset's %s is gone: %q", kept, names)
		}
	}
	entries, err := b.pool.List(t.Context())
	b.ok(err)
	var told []string
	for _, e := range entries {
		if e.State == backends.EntryForeign {
			told = append(told, strings.TrimPrefix(e.Path, top+"/"))
		}
	}
	for _, want := range []string{"mine", lost.String(), "deleted/among"} {
		if !slices.Contains(told, want) {
			t.Errorf("%s is not listed: %q", want, told)
		}
	}
}

// TestUnknownIsNotAbsent: if zfs(8) fails for another reason, the object does not count as absent.
func TestUnknownIsNotAbsent(t *testing.T) {
	b := newBench(t)
	d := b.create()
	b.write(d.ID, "content")
	fail := fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
		if c.Args[0] == "get" && strings.Contains(c.Args[len(c.Args)-1], d.ID.String()) {
			return run.Result{}, &run.Error{
				Cmd:      "zfs",
				ExitCode: 1,
				Stderr:   "internal error: out of memory",
				Err:      errors.New("exit status 1"),
			}
		}
		return (&run.System{}).Run(ctx, c)
	})
	b.cfg.Make = false
	pool, err := zfs.New(fail, clock.System{}).Open(t.Context(), b.cfg)
	b.ok(err)
	if _, err := pool.Attach(t.Context(), d.ID, backends.AttachOptions{}); err == nil ||
		errors.Is(err, dataset.ErrCorrupt) || errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("attach: %v", err)
	}
	e, err := pool.Stat(t.Context(), d.ID)
	if err != nil || strings.Contains(e.Problem, "gone") || e.Problem == "" {
		t.Errorf("stat: %+v, %v", e, err)
	}
	if err := pool.Delete(t.Context(), d.ID); err == nil {
		t.Error("deleted")
	}
	b.reap()
	b.has(false, d.ID.String())
}

// TestSizeIsWhatDfShows tests what df shows. The suite does not, because the capability OwnFilesystem is not declared.
func TestSizeIsWhatDfShows(t *testing.T) {
	b := newBench(t)
	d := b.create()
	df := func() (size int64) {
		b.in(d.ID, func(root *os.Root) {
			var st unix.Statfs_t
			dir, err := root.Open(".")
			b.ok(err)
			defer dir.Close()
			b.ok(unix.Fstatfs(int(dir.Fd()), &st))
			size = int64(st.Blocks) * st.Bsize
		})
		return size
	}
	for _, size := range []dataset.Size{64 * dataset.MiB, 96 * dataset.MiB, 32 * dataset.MiB} {
		b.ok(b.pool.(backends.Resizer).Resize(t.Context(), d.ID, size, nil))
		if got := df(); got < int64(size)*99/100 || got > int64(size)*101/100 {
			t.Errorf("df shows %d of %s", got, size)
		}
	}
	b.in(d.ID, func(root *os.Root) {
		b.ok(root.WriteFile("big", []byte(strings.Repeat(fmt.Sprint(uuid.New()), 600_000)), 0o600))
	})
	if err := b.pool.(backends.Resizer).Resize(t.Context(), d.ID, 8*dataset.MiB,
		nil); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("made smaller than what it holds: %v", err)
	}
	if got := df(); got < 31<<20 {
		t.Errorf("after the refusal df shows %d", got)
	}
}

// TestWrongPlaces: unsuitable places are refused before anything is made there.
func TestWrongPlaces(t *testing.T) {
	plain := filepath.Join(t.TempDir(), "pool")
	_, err := zfs.New(&run.System{}, clock.System{}).Open(t.Context(), backends.Config{
		Name: "test",
		Path: plain,
		Make: true,
	})
	if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), "zfs create") {
		t.Errorf("on another filesystem: %v", err)
	}
	if _, err := os.Lstat(plain); err == nil {
		t.Error("something was made")
	}
}

// TestRestoreCutBeforeTheExchange: the head that the interrupted restore would have kept is still the head, and not a
// snapshot.
func TestRestoreCutBeforeTheExchange(t *testing.T) {
	for _, then := range []string{"again", "reaped"} {
		t.Run(then, func(t *testing.T) { restoreCut(t, then) })
	}
}

func restoreCut(t *testing.T, then string) {
	b, d, s, keep := newRestored(t)
	b.ok(os.Remove(filepath.Join(b.cfg.Path, "datasets", d.ID.String(), "current.json")))
	e, err := b.pool.Stat(t.Context(), d.ID)
	b.ok(err)
	if len(e.Snapshots) != 1 || e.Problem != "" {
		t.Errorf("it has %+v", e)
	}
	b.write(d.ID, "later")
	if then == "reaped" {
		b.reap()
		b.has(false, keep.ID.String())
	} else {
		b.ok(b.pool.Restore(t.Context(), d.ID, s.ID, keep, nil))
		b.holds(d.ID, "old")
		c := dataset.Dataset{ID: uuid.New()}
		_, err := b.pool.Clone(t.Context(), c, dataset.Source{Dataset: d.ID, Snapshot: keep.ID}, nil)
		b.ok(err)
		d = c
	}
	b.holds(d.ID, "later")
}

// TestUsedIsCheap counts the commands of Used: none for a mounted dataset, and one in several seconds for all others
// together.
func TestUsedIsCheap(t *testing.T) {
	b := newBench(t)
	var idle []uuid.UUID
	for range 3 {
		idle = append(idle, b.create().ID)
	}
	mounted := b.create()
	b.write(mounted.ID, "content")
	now := fakes.NewClock(time.Unix(0, 0))
	b.clock = now
	b.open() // a Pool without a listing of these datasets
	dir := b.mount(mounted.ID)
	defer func() { b.ok(mount.Unmount(dir)) }()
	used := func(what string, commands int, ids ...uuid.UUID) {
		t.Helper()
		b.asked, b.done = 0, nil
		for _, id := range ids {
			if n, err := b.pool.Used(t.Context(), id); err != nil || n <= 0 || n > dataset.MiB {
				t.Errorf("%s: %d bytes, %v", what, n, err)
			}
		}
		if b.asked != commands || len(b.done) > 0 {
			t.Errorf("%s took %d commands that ask, want %d, and %q", what, b.asked, commands, b.done)
		}
	}
	used("a mounted one", 0, mounted.ID, mounted.ID)
	used("three idle ones", 1, idle...)
	now.Advance(3 * time.Second)
	used("again", 0, idle...)
	now.Advance(3 * time.Second)
	used("later", 1, idle...)
	used("one that was made since", 1, b.create().ID)
}

// label returns the description of a zpool in the label of a device: an nvlist in XDR with the string "name".
func label(name string) string {
	number := func(n int) string { return string(binary.BigEndian.AppendUint32(nil, uint32(n))) }
	text := func(s string) string { return number(len(s)) + s + strings.Repeat("\x00", (4-len(s)%4)%4) }
	pair := text("name") + number(9) + number(1) + text(name) // of type string, with one element
	return "\x01\x01\x00\x00" + number(0) + number(1) + number(8+len(pair)) + number(0) + pair
}

// Devices of different pools are refused unless the caller says which pool it means: one of them would be opened.
func TestDevicesOfDifferentPools(t *testing.T) {
	var devices []string
	for range 3 {
		device := scratch.Disk(t, diskSize)
		put(t, device, 16<<10, label("drover-"+uuid.NewString()))
		devices = append(devices, device)
	}
	for range 5 {
		var ran []string
		cfg := backends.Config{Name: "test", Devices: devices, Mount: t.TempDir()}
		cfg.Path = cfg.Mount
		_, err := zfs.New(fakes.Run(func(_ context.Context, r run.Command) (run.Result, error) {
			ran = append(ran, r.Name+" "+strings.Join(r.Args, " "))
			return run.Result{}, errors.New("no")
		}), clock.System{}).Open(t.Context(), cfg)
		if dataset.KindOf(err) != dataset.ErrConflict || len(ran) != 0 {
			t.Errorf("%v, ran %q", err, ran)
		}
	}
}
