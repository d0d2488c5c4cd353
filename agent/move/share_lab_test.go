//go:build lab

package move_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/nfs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/lab/inside"
	"github.com/droverhq/drover/test/require"
)

// onRealShare returns a cluster of two hosts with a share of a real server. Each host has a separate mount, whose
// cache is not shared with the other's.
func onRealShare(t *testing.T) *agenttest.Cluster {
	t.Helper()
	served := inside.XFS(t, "share")
	mounts := []string{inside.Serve(t, served), inside.MountAsOtherHost(t, served)}
	require.NoError(t, os.Mkdir(filepath.Join(served, "drover"), 0o755))
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	var hosts [2]*agenttest.Host
	for i, name := range []string{"host-a", "host-b"} {
		f.Share = filepath.Join(mounts[i], "drover")
		h := f.AddHost(name, "nfs")
		h.Config.Pools = append(h.Config.Pools, pool.Config{Name: "plain", Backend: "dir", Path: filepath.Join(t.TempDir(), "plain")})
		h.Config.Backends = backends.NewRegistry(nfs.Backend{}, dir.Backend{})
		h.Config.Timing.InUseWait = time.Minute // a home with much dirty data in a slow machine is given time
		hosts[i] = h
	}
	f.A, f.B = hosts[0], hosts[1]
	t.Cleanup(f.Close)
	f.A.Start()
	f.B.Start()
	return f
}

// A volume on a share moves between two hosts in both directions. Each host reads the data of the other in the same
// files, and the old home finds no dataset that it could mount.
func TestMoveOnARealShare(t *testing.T) {
	f := onRealShare(t)
	d := f.A.NewVolume("db", map[string]string{"pool": "default"})
	texts := []string{"one", "two", "three", "four"}
	for i, text := range texts {
		from, to := f.A, f.B
		if i%2 == 1 {
			from, to = f.B, f.A
		}
		from.WriteFile("db", "token", text)
		f.Move("db", to)
		if got := to.ReadFile("db", "token"); got != text {
			t.Errorf("round %d: it holds %q, want %q", i, got, text)
		}
		from.AwaitSettled(d.ID)
	}
	if v := f.Recorded("db"); v.Epoch != uint64(len(texts)+1) || len(v.Copies) != 0 {
		t.Errorf("on record: %+v", v.Dataset)
	}
}

// A container that uses one volume does not make another volume count as used.
func TestHeldOnARealShare(t *testing.T) {
	f := onRealShare(t)
	onShare := map[string]string{"pool": "default"}
	of := []dataset.Dataset{f.A.NewVolume("db", onShare), f.A.NewVolume("other", onShare)}
	db, other := f.A.MustMount("db", "one"), f.A.MustMount("other", "two")
	in := t.TempDir()
	_, _, end := inNamespace(t, `mount --bind "$0" "$2"; umount "$0" "$1"; echo ready; read -r line || true`, other, db, in)
	look, err := f.A.Holders.ScanMounts()
	require.NoError(t, err)
	for i, want := range []int{0, 1} {
		if list := f.A.Holders.Describe(t.Context(), look, of[i]); len(list) != want {
			t.Errorf("%s is held %d times, not %d: %q", of[i].Volume, len(list), want, list)
		}
	}
	assert.NoError(t, end())
	f.A.MustUnmount("db", "one")
	f.A.MustUnmount("other", "two")
}

// If the server does not answer, its pool goes offline with that reason, and nothing else does: volumes elsewhere are
// mounted, and an examination of the users ends. When the server is reachable again everything continues.
func TestServerOfAShareIsGone(t *testing.T) {
	f := onRealShare(t)
	f.A.NewVolume("db", map[string]string{"pool": "default"})
	f.A.NewVolume("near", map[string]string{"pool": "plain"})
	f.A.WriteFile("db", "token", "kept")
	f.A.MustMount("db", "user")
	network(t, "down")
	back := func() { network(t, "up") }
	t.Cleanup(func() { back() })
	away := func() bool {
		list, err := f.Service.Pools(t.Context())
		require.NoError(t, err)
		for _, p := range list {
			if p.Node == f.A.Node() && p.Name == "default" {
				return p.Status != nil && !p.Status.Online && strings.Contains(p.Status.Reason, "hangs")
			}
		}
		return false
	}
	f.AwaitNamed("the pool is offline", away)
	f.A.WriteFile("near", "token", "kept")
	began := time.Now()
	_, err := f.A.Holders.ScanMounts()
	assert.NoError(t, err)
	if err := f.A.Create(t.Context(), "new", map[string]string{"pool": "default"}); !errors.Is(err, dataset.ErrOffline) && !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("made on a share that hangs: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("that took %s", took)
	}
	back()
	back = func() {}
	f.AwaitNamed("the pool is back", func() bool { return !away() })
	f.A.MustUnmount("db", "user")
	f.A.WantFile("db", "token", "kept")
}

// network sets whether packets to the server, on this machine, are delivered.
func network(t *testing.T, state string) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "lo", state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Two hosts have one volume mounted at once, and each reads what the other one closed. The mounts continue after
// another host became the home, with the volume in another pool.
func TestAccessManyOnARealShare(t *testing.T) {
	f := onRealShare(t)
	d := f.A.NewVolume("db@many", nil)
	here, there := f.A.MustMount("db", "one"), f.B.MustMount("db", "two")
	f.A.PutToken(here, "of a")
	f.B.WantToken(there, "of a")
	f.B.PutToken(there, "of b")
	f.A.WantToken(here, "of b")
	f.AwaitSharedMounts("db", f.B)
	open, err := os.Open(filepath.Join(there, "token"))
	require.NoError(t, err)
	f.A.Stop()
	op := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"}).Operation)
	if op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.B.WantToken(there, "of b")
	_, err = open.Stat()
	assert.NoErrorf(t, errors.Join(err, open.Close()), "what was open")
	f.B.PutToken(there, "goes on")
	f.A.Start()
	f.A.AwaitSettled(d.ID)
	f.AwaitSharedMounts("db", f.A)
	f.A.WantToken(here, "goes on")
	f.A.MustUnmount("db", "one")
	f.AwaitSharedMounts("db")
	f.B.MustUnmount("db", "two")
}

// A guest that was cut off, and that an operator confirmed as fenced, continues to write. It changes neither the
// restored data nor the data that the restore keeps. When it is reachable again it has the restored data.
func TestRestoreOnARealShare(t *testing.T) {
	f := onRealShare(t)
	f.A.NewVolume("db@many", nil)
	f.A.WriteFile("db", "token", "old")
	require.NoError(t, operation.OutcomeError(f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"}).Operation)))
	there := f.B.MustMount("db", "user")
	f.B.PutToken(there, "new")
	f.AwaitSharedMounts("db", f.B)
	open, err := os.OpenFile(filepath.Join(there, "token"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer open.Close()
	f.B.Stop()
	word := store.Write{Key: "fenced/" + f.B.Node().String(), Value: []byte(`{"by":"a person"}`)}
	if _, err := f.ControlStore.Txn(t.Context(), nil, []store.Write{word}); err != nil {
		t.Fatal(err)
	}
	restore := f.AwaitEnd(*f.Submit(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"}).Operation)
	require.NoError(t, operation.OutcomeError(restore))
	_, _ = open.WriteAt([]byte("bad"), 0)
	_, _ = open.Sync(), open.Close()
	_ = os.WriteFile(filepath.Join(there, "another"), []byte("bad"), 0o600)
	f.Submit(api.Request{Kind: dataset.OpClone, Volume: "kept", Options: map[string]string{"from": restore.Snapshot.ID.String()}})
	f.AwaitNamed("what was kept is cloned", func() bool { _, err := f.Service.Volume(t.Context(), "kept"); return err == nil })
	for volume, want := range map[string]string{"db": "old", "kept": "new"} {
		if got := f.A.ReadFile(volume, "token"); got != want {
			t.Errorf("%s holds %q, want %q", volume, got, want)
		}
		at := f.A.MustMount(volume, "look")
		if _, err := os.Stat(filepath.Join(at, "another")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s has a file that the cut-off host made: %v", volume, err)
		}
		f.A.MustUnmount(volume, "look")
	}
	f.B.Start()
	f.B.MustUnmount("db", "user")
	f.B.WantFile("db", "token", "old")
}
