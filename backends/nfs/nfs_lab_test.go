//go:build lab

package nfs_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/backendtest"
	"github.com/droverhq/drover/backends/nfs"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

func TestSuiteNFS(t *testing.T) {
	at := inside.Serve(t, inside.XFS(t, "share"))
	backendtest.Run(t, "nfs", func(t *testing.T) (backends.Kind, backends.Config) {
		share := filepath.Join(at, uuid.NewString())
		require.NoError(t, os.Mkdir(share, 0o755))
		t.Cleanup(func() {
			assert.NoError(t, os.RemoveAll(share))
		})
		return nfs.Backend{}, backends.Config{Name: "test", Path: filepath.Join(share, "pool")}
	}, treetest.Attributes, treetest.ACLs)
}

// Two hosts have separate mounts that share no cache. Each takes the datasets that the other wrote and gave up, back
// and forth, and neither relies on its cache.
func TestTakenByAnotherHost(t *testing.T) {
	dir := inside.XFS(t, "share")
	one := inside.Serve(t, dir)
	two := inside.MountAsOtherHost(t, dir)
	var pools [2]backends.Pool
	for i, at := range []string{one, two} {
		p, err := nfs.Backend{}.Open(t.Context(), backends.Config{
			Name: "share",
			Path: filepath.Join(at, []string{"alpha", "beta"}[i]),
			Make: true,
		})
		require.NoError(t, err)
		pools[i] = p
	}
	if pools[0].Info().Share == uuid.Nil || pools[0].Info().Share != pools[1].Info().Share ||
		pools[0].ID() == pools[1].ID() {
		t.Fatalf("shares %s and %s", pools[0].Info().Share, pools[1].Info().Share)
	}
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Epoch: 1}
	if _, err := pools[0].Create(t.Context(), d); err != nil {
		t.Fatal(err)
	}
	require.NoError(t, pools[0].Commit(t.Context(), d.ID))
	for round := range 6 {
		has, wants := pools[round%2], pools[(round+1)%2]
		text := strings.Repeat("x", round+1)
		write(t, has, d.ID, text)
		d.Epoch++
		if err := wants.(backends.Sharer).Take(t.Context(), d, backends.PreviousHome{
			Pool:  has.ID(),
			Epoch: d.Epoch - 1,
		}); err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if got := read(t, wants, d.ID); got != text {
			t.Errorf("round %d: it holds %q, want %q", round, got, text)
		}
		late := d
		late.Epoch--
		if err := has.(backends.Sharer).Take(t.Context(), late, backends.PreviousHome{
			Pool:  wants.ID(),
			Epoch: late.Epoch - 1,
		}); !errors.Is(err, dataset.ErrConflict) {
			t.Errorf("round %d: taken back at an earlier epoch: %v", round, err)
		}
	}
}

// A share that is not NFS 4, or whose server squashes root, is refused, and nothing is made there.
func TestSharesThatAreRefused(t *testing.T) {
	dir := inside.XFS(t, "share")
	at := inside.Serve(t, dir)
	refused := func(path, want string) {
		t.Helper()
		_, err := nfs.Backend{}.Open(t.Context(), backends.Config{
			Name: "share",
			Path: filepath.Join(path, "alpha"),
			Make: true,
		})
		if !errors.Is(err, dataset.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
		if names, err := os.ReadDir(dir); err != nil || len(names) > 0 {
			t.Errorf("it holds %v, %v", names, err)
		}
	}
	refused(dir, "backend nfs needs a share")
	refused(inside.Mounted(t, dir, "vers=3,nolock,nosharecache"), "version before 4")
	_, err := nfs.Backend{}.Open(t.Context(), backends.Config{
		Name: "share",
		Path: filepath.Join(inside.Mounted(t, dir, "vers=4.2,ro,nosharecache"), "alpha"),
		Make: true,
	})
	if !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "-o rw") {
		t.Errorf("mounted read-only: %v", err)
	}
	if out, err := exec.Command("export"+"fs", "-o", "rw,root_squash,no_subtree_check,insecure,fsid=7",
		"127.0.0.1:"+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	require.NoError(t, os.Chmod(dir, 0o777))
	refused(at, "no_root_squash")
	if out, err := exec.Command("export"+"fs", "-o", "ro,no_root_squash,no_subtree_check,insecure,fsid=7",
		"127.0.0.1:"+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	refused(at, "export it with rw")
}

// A host that was excluded from the export can write nothing more, not even to open files.
func TestShutOut(t *testing.T) {
	dir := inside.XFS(t, "share")
	at := inside.Serve(t, dir)
	f, err := os.Create(filepath.Join(at, "file"))
	require.NoError(t, err)
	defer f.Close()
	_, err = f.WriteString("before")
	require.NoError(t, err)
	require.NoError(t, f.Sync())
	if out, err := exec.Command("export"+"fs", "-u", "127.0.0.1:"+dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	_, err = f.WriteString("after")
	if err = errors.Join(err, f.Sync()); err == nil {
		t.Error("it was written to")
	}
	if b, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(b) != "before" {
		t.Errorf("it holds %q, %v", b, err)
	}
}
