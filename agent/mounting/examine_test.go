package mounting_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
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
	require.NoError(t, err)
	defer f.Close()
	sleep := exec.Command("sleep", "infinity")
	sleep.ExtraFiles = []*os.File{f}
	require.NoError(t, sleep.Start())
	got := r.Holders.Examine(t.Context(), d)
	if len(got.List) != 1 || len(got.Unexamined) != 0 || got.List[0].PID != sleep.Process.Pid ||
		got.List[0].User == "" || got.List[0].Path != "disk.img" {
		t.Errorf("open file: %+v", got)
	}
	_ = sleep.Process.Kill() // it runs, so this cannot fail
	_ = sleep.Wait()
	require.NoError(t, f.Close())
	dev, err := loopdev.Attach(t.Context(), f.Name(), loopdev.Options{})
	require.NoError(t, err)
	defer dev.Close()
	got = r.Holders.Examine(t.Context(), d)
	named := false
	for _, h := range got.List {
		named = named || h.Kind == dataset.HolderDevice && strings.HasPrefix(h.Device, "/dev/loop") && h.Path == "disk.img"
	}
	if !named {
		t.Errorf("loop device: %+v", got)
	}
	assert.NoError(t, dev.Close())
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

// TestExamineUserFoundByPool: if a dataset is not mounted here, its pool finds the process that uses the dataset. The
// process is listed with the command that frees the dataset. The error of the pool ends with the command, too.
func TestExamineUserFoundByPool(t *testing.T) {
	for _, backend := range []string{"dir", "loop"} {
		t.Run(backend, func(t *testing.T) {
			f := &agenttest.Cluster{T: t}
			f.StartControl()
			f.A = f.AddHost("host-a", backend)
			t.Cleanup(f.Close)
			f.A.Start()
			d := f.A.NewVolume("db", nil)
			path, elsewhere := f.A.MustMount("db", "one"), t.TempDir()
			holder := exec.Command("sh", "-c", `mount --bind "$0" "$1"; umount "$0"; echo ready; exec sleep infinity`,
				path, elsewhere)
			holder.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
			out, err := holder.StdoutPipe()
			if err == nil {
				err = holder.Start()
			}
			if err == nil {
				_, err = out.Read(make([]byte, 6))
			}
			require.NoError(t, err)
			defer func() {
				_ = holder.Process.Kill() // it runs, so this cannot fail
				_ = holder.Wait()
			}()
			f.A.MustUnmount("db", "one") // the mount on the host stays, because the process uses it
			if out, err := exec.Command("umount", path).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			remedy := fmt.Sprintf("(to free it: umount -N %d %s)", holder.Process.Pid, elsewhere)
			got := f.A.Holders.Examine(t.Context(), d)
			if len(got.List) != 1 || len(got.Unexamined) != 0 || !strings.Contains(got.Summary(), remedy) {
				t.Errorf("%+v", got)
			}
			err = f.A.Holders.CheckPool(t.Context(), d)
			if !errors.Is(err, dataset.ErrInUse) || !strings.HasSuffix(err.Error(), remedy) {
				t.Errorf("%v, want %s", err, remedy)
			}
		})
	}
}
