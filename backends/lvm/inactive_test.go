//go:build lab

package lvm

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/dm"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
)

// The usage of a volume is known without activating it, if it was not mounted since the host was started, or never.
func TestUsedAtRest(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	d := b.create(256 * dataset.MiB)
	b.in(d.ID, func(dir string) {
		if _, err := fill(t, filepath.Join(dir, "file"), 40<<20); err != nil {
			t.Error(err)
		}
	})
	active, err := b.Used(t.Context(), d.ID)
	b.must(err)
	c := dataset.Dataset{ID: uuid.New()}
	_, err = b.Clone(t.Context(), c, dataset.Source{Dataset: d.ID}, nil)
	b.must(err)
	cloned, err := b.Used(t.Context(), c.ID)
	if err != nil || cloned != active || active < 40*dataset.MiB || active > 60*dataset.MiB {
		t.Errorf("it takes %s, its clone %s: %v", active.Human(), cloned.Human(), err)
	}
	b.deactivate(d.ID)
	for range 2 {
		if got, err := b.Used(t.Context(), d.ID); err != nil || got != active {
			t.Errorf("at rest it takes %s, not %s: %v", got.Human(), active.Human(), err)
		}
	}
	for _, id := range []uuid.UUID{d.ID, c.ID} {
		name, err := b.head(id)
		b.must(err)
		if dev, err := dm.Find(b.Pool.(*Pool).device(name)); !errors.Is(err, dm.ErrAbsent) {
			t.Errorf("%s is active: %+v, %v", name, dev, err)
		}
	}
	b.in(d.ID, func(dir string) {
		if _, err := fill(t, filepath.Join(dir, "more"), 40<<20); err != nil {
			t.Error(err)
		}
	})
	b.deactivate(d.ID)
	if got, err := b.Used(t.Context(), d.ID); err != nil || got < active+36*dataset.MiB {
		t.Errorf("after it has grown it takes %s: %v", got.Human(), err)
	}
}

func (b *bench) deactivate(id uuid.UUID) {
	b.Helper()
	name, err := b.head(id)
	b.must(err)
	lvmDo(b.T, "lvchange", "--activate", "n", filepath.Base(b.cfg.Path)+"/"+name)
}

// If a command dies and leaves a volume or the pool suspended, users wait only for a moment: the caller of the command
// resumes it, or the next Status does.
func TestSuspendedByACommandThatDied(t *testing.T) {
	dies := false
	var device string
	sys := &run.System{}
	b := &bench{T: t, cfg: place(t, "lvm-first"), left: -1}
	b.backend = New(fakes.Run(func(ctx context.Context, c run.Command) (run.Result, error) {
		if dies && c.Args[0] == "lvcreate" {
			do(t, "dmsetup", "suspend", "--noudevsync", device)
			return run.Result{}, &run.Error{Cmd: c.Name, ExitCode: -1, Err: errors.New("signal: killed")}
		}
		return sys.Run(ctx, c)
	}))
	b.open()
	b.Cleanup(func() { b.must(b.Close()) })
	d := b.create(little)
	b.write(d.ID, "content")
	name, err := b.head(d.ID)
	b.must(err)
	p := b.Pool.(*Pool)
	awake := func(what string) {
		t.Helper()
		dev, err := dm.Find(device)
		b.must(err)
		if dev.Suspended {
			do(t, "dmsetup", "resume", "--noudevsync", device)
			t.Errorf("%s: it is suspended still", what)
		}
	}
	for what, layer := range map[string]string{
		"the origin": p.device(name),
		"the pool":   p.device(poolName) + "-tpool",
	} {
		device = layer
		dies = true
		if err := b.Snapshot(t.Context(), dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}, nil); err == nil {
			t.Errorf("%s: it did not die", what)
		}
		dies = false
		awake(what)
		do(t, "dmsetup", "suspend", "--noudevsync", device) // as by an abandoned command
		p.tool.failed.Store(true)
		if st := b.Status(t.Context()); !st.Online || st.Reason != "" {
			t.Errorf("%s: %+v", what, st)
		}
		awake(what + ", by Status")
	}
	b.must(b.Snapshot(t.Context(), dataset.Snapshot{ID: uuid.New(), Dataset: d.ID}, nil))
	if got := b.read(d.ID); got != "content" {
		t.Errorf("it holds %q", got)
	}
	b.settled()
}

// The filesystem of the records cannot run out of inodes before it runs out of blocks. If the volume of the records has
// lost its tag, it is not formatted again.
func TestRecordsFilesystem(t *testing.T) {
	b := newBench(t, place(t, "lvm-first"))
	var fs unix.Statfs_t
	b.must(unix.Statfs(b.cfg.Mount, &fs))
	if fs.Files < fs.Blocks {
		t.Errorf("%d files in %d blocks", fs.Files, fs.Blocks)
	}
	d := b.create(little)
	b.write(d.ID, "content")
	records := filepath.Base(b.cfg.Path) + "/" + recordsName
	lvmDo(t, "lvchange", "--deltag", formattedTag, records)
	b.must(b.Close())
	for _, mk := range []bool{true, false} {
		cfg := b.cfg
		cfg.Make = mk
		if _, err := New(&run.System{}).Open(t.Context(), cfg); err == nil || !strings.Contains(err.Error(), "drover") {
			t.Errorf("without its tag, make %t: %v", mk, err)
		}
	}
	lvmDo(t, "lvchange", "--addtag", formattedTag, records)
	b.open()
	if got := b.read(d.ID); got != "content" {
		t.Errorf("it holds %q", got)
	}
	b.settled()
}
