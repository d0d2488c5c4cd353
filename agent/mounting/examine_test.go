package mounting_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
)

// TestExamineNamesHolders: a process with an open file, and a loop device, are named with the file. Copies of the
// mount in other namespaces are not holders while the dataset is mounted.
func TestExamineNamesHolders(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	path := r.MountPath(d.ID)
	if got := r.Holders.Examine(t.Context(), d); !got.IsEmpty() || got.Node != r.NodeName {
		t.Errorf("unused: %+v", got)
	}
	f, err := os.Create(filepath.Join(path, "disk.img"))
	if err == nil {
		err = f.Truncate(1 << 20)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	sleep := exec.Command("sleep", "infinity")
	sleep.ExtraFiles = []*os.File{f}
	if err := sleep.Start(); err != nil {
		t.Fatal(err)
	}
	got := r.Holders.Examine(t.Context(), d)
	if len(got.List) != 1 || len(got.Unexamined) != 0 || got.List[0].PID != sleep.Process.Pid ||
		got.List[0].User == "" || got.List[0].Path != "disk.img" {
		t.Errorf("open file: %+v", got)
	}
	_ = sleep.Process.Kill() // it runs, so this cannot fail
	_ = sleep.Wait()
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	dev, err := loopdev.Attach(t.Context(), f.Name(), loopdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer dev.Close()
	got = r.Holders.Examine(t.Context(), d)
	named := false
	for _, h := range got.List {
		named = named || h.Kind == dataset.HolderDevice && strings.HasPrefix(h.Device, "/dev/loop") && h.Path == "disk.img"
	}
	if !named {
		t.Errorf("loop device: %+v", got)
	}
	if err := dev.Close(); err != nil {
		t.Error(err)
	}
	r.MustUnmount("db", "one")
	if got := r.Holders.Examine(t.Context(), d); !got.IsEmpty() {
		t.Errorf("unmounted: %+v", got)
	}
}

// TestExamineNeverCallsUnexaminedUnused: each part of the host that cannot be examined is reported in a line.
func TestExamineNeverCallsUnexaminedUnused(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MountDataset(d, "one")
	defer r.MustUnmount("db", "one")
	files, foreign := r.Holders.Files, r.Holders.ReadForeign
	defer func() { r.Holders.Files, r.Holders.ReadForeign = files, foreign }()

	// On a host with very many open files the examination must end when its time is over.
	r.Holders.Files = func(ctx context.Context, _ []mount.Filesystem) (*inuse.Files, error) {
		if _, limited := ctx.Deadline(); !limited {
			return nil, errors.New("no time limit")
		}
		return nil, errors.New("too many files")
	}
	if got := r.Holders.Examine(t.Context(), d); got.IsEmpty() || !strings.Contains(got.Summary(), "too many files") {
		t.Errorf("files: %+v", got)
	}
	r.Holders.ReadForeign = func() (*mount.Foreign, error) { return nil, errors.New("no /proc") }
	if got := r.Holders.Examine(t.Context(), d); got.IsEmpty() || !strings.Contains(got.Summary(), "no /proc") {
		t.Errorf("mounts: %+v", got)
	}
}
