//go:build lab

package agent

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/nfs"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/lab/inside"
)

// onRealShare is a flock of two hosts with a share of a real server, each with a mount of its
// own that shares nothing of what it remembers with the other's.
func onRealShare(t *testing.T) *flock {
	t.Helper()
	served := inside.XFS(t, "share")
	mounts := []string{inside.Serve(t, served), inside.Another(t, served)}
	if err := os.Mkdir(filepath.Join(served, "drover"), 0o755); err != nil {
		t.Fatal(err)
	}
	f := &flock{T: t}
	f.serve()
	var hosts [2]*flockHost
	for i, name := range []string{"host-a", "host-b"} {
		f.shared = filepath.Join(mounts[i], "drover")
		h := f.host(name, "nfs")
		h.cfg.Pools = append(h.cfg.Pools, pool.Config{Name: "plain", Backend: "dir", Path: filepath.Join(t.TempDir(), "plain")})
		h.cfg.Backends = backends.NewRegistry(nfs.Backend{}, dir.Backend{})
		h.cfg.Limits.Lease = time.Minute // a home that has much to write out in a slow machine is given time
		hosts[i] = h
	}
	f.a, f.b = hosts[0], hosts[1]
	t.Cleanup(f.close)
	f.a.up()
	f.b.up()
	return f
}

// Back and forth between two hosts: what the one wrote the other reads, in the same files, and
// the old home finds nothing that it could mount.
func TestMoveOnARealShare(t *testing.T) {
	f := onRealShare(t)
	d := f.a.volume("db", map[string]string{"pool": "default"})
	texts := []string{"one", "two", "three", "four"}
	for i, text := range texts {
		from, to := f.a, f.b
		if i%2 == 1 {
			from, to = f.b, f.a
		}
		from.writes("db", "token", text)
		f.moves("db", to)
		if got := to.reads("db", "token"); got != text {
			t.Errorf("round %d: it holds %q, want %q", i, got, text)
		}
		from.settled(d.ID)
	}
	if v := f.record("db"); v.Epoch != uint64(len(texts)+1) || len(v.Copies) != 0 {
		t.Errorf("on record: %+v", v.Dataset)
	}
}

// What a container has of one volume does not make another one used.
func TestHeldOnARealShare(t *testing.T) {
	f := onRealShare(t)
	onShare := map[string]string{"pool": "default"}
	of := []dataset.Dataset{f.a.volume("db", onShare), f.a.volume("other", onShare)}
	db, other := f.a.mounts("db", "one"), f.a.mounts("other", "two")
	in := t.TempDir()
	_, _, end := inNamespace(t, `mount --bind "$0" "$2"; umount "$0" "$1"; echo ready; read -r line || true`, other, db, in)
	look, err := f.a.holders.LookAtMounts()
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{0, 1} {
		if list := f.a.holders.Of(t.Context(), look, of[i]); len(list) != want {
			t.Errorf("%s is held %d times, not %d: %q", of[i].Volume, len(list), want, list)
		}
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	f.a.unmounts("db", "one")
	f.a.unmounts("other", "two")
}

// A server that does not answer has its pool go offline, in so many words, and nothing else:
// what lies elsewhere is mounted, and a look for who uses what ends. When it is back all goes on.
func TestServerOfAShareIsGone(t *testing.T) {
	f := onRealShare(t)
	f.a.volume("db", map[string]string{"pool": "default"})
	f.a.volume("near", map[string]string{"pool": "plain"})
	f.a.writes("db", "token", "kept")
	f.a.mounts("db", "user")
	network(t, "down")
	back := func() { network(t, "up") }
	t.Cleanup(func() { back() })
	away := func() bool {
		list, err := f.svc.Pools(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range list {
			if p.Node == f.a.Node() && p.Name == "default" {
				return p.Status != nil && !p.Status.Online && strings.Contains(p.Status.Reason, "hangs")
			}
		}
		return false
	}
	f.soon("the pool is offline", away)
	f.a.writes("near", "token", "kept")
	began := time.Now()
	if _, err := f.a.holders.LookAtMounts(); err != nil {
		t.Error(err)
	}
	if err := f.a.Create(t.Context(), "new", map[string]string{"pool": "default"}); !errors.Is(err, dataset.ErrOffline) && !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("made on a share that hangs: %v", err)
	}
	if took := time.Since(began); took > 30*time.Second {
		t.Errorf("that took %s", took)
	}
	back()
	back = func() {}
	f.soon("the pool is back", func() bool { return !away() })
	f.a.unmounts("db", "user")
	if got := f.a.reads("db", "token"); got != "kept" {
		t.Errorf("it holds %q", got)
	}
}

// network has what goes to the server, on this machine, come through or not.
func network(t *testing.T, state string) {
	t.Helper()
	if out, err := exec.Command("ip", "link", "set", "lo", state).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// Two hosts have one volume mounted at once, and each reads what the other one closed; what is
// mounted goes on when its home is another host by now, and it lies in another pool.
func TestAccessManyOnARealShare(t *testing.T) {
	f := onRealShare(t)
	d := f.a.volume("db@many", nil)
	here, there := f.a.mounts("db", "one"), f.b.mounts("db", "two")
	f.a.puts(here, "of a")
	f.b.sees(there, "of a")
	f.b.puts(there, "of b")
	f.a.sees(here, "of b")
	f.guestsOf("db", f.b)
	open, err := os.Open(filepath.Join(there, "token"))
	if err != nil {
		t.Fatal(err)
	}
	f.a.down()
	op := f.ended(*f.asks(api.Request{Kind: dataset.OpMove, Volume: "db", Node: "host-b", Force: true, Fenced: "host-a"}).Operation)
	if op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.b.sees(there, "of b")
	_, err = open.Stat()
	if err := errors.Join(err, open.Close()); err != nil {
		t.Errorf("what was open: %v", err)
	}
	f.b.puts(there, "goes on")
	f.a.up()
	f.a.settled(d.ID)
	f.guestsOf("db", f.a)
	f.a.sees(here, "goes on")
	f.a.unmounts("db", "one")
	f.guestsOf("db")
	f.b.unmounts("db", "two")
}

// A guest that was cut off, and of whom somebody says that it writes no more, writes on all the
// same: not to what was restored, nor to what that keeps. Back again it has what was restored.
func TestRestoreOnARealShare(t *testing.T) {
	f := onRealShare(t)
	f.a.volume("db@many", nil)
	f.a.writes("db", "token", "old")
	if err := operation.Outcome(f.ended(*f.asks(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"}).Operation)); err != nil {
		t.Fatal(err)
	}
	there := f.b.mounts("db", "user")
	f.b.puts(there, "new")
	f.guestsOf("db", f.b)
	open, err := os.OpenFile(filepath.Join(there, "token"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	f.b.down()
	word := store.Write{Key: "fenced/" + f.b.Node().String(), Value: []byte(`{"by":"a person"}`)}
	if _, err := f.store.Txn(t.Context(), nil, []store.Write{word}); err != nil {
		t.Fatal(err)
	}
	restore := f.ended(*f.asks(api.Request{Kind: dataset.OpRestore, Volume: "db", Snapshot: "before"}).Operation)
	if err := operation.Outcome(restore); err != nil {
		t.Fatal(err)
	}
	_, _ = open.WriteAt([]byte("bad"), 0)
	_, _ = open.Sync(), open.Close()
	_ = os.WriteFile(filepath.Join(there, "another"), []byte("bad"), 0o600)
	f.asks(api.Request{Kind: dataset.OpClone, Volume: "kept", Options: map[string]string{"from": restore.Snapshot.ID.String()}})
	f.soon("what was kept is cloned", func() bool { _, err := f.svc.Volume(t.Context(), "kept"); return err == nil })
	for volume, want := range map[string]string{"db": "old", "kept": "new"} {
		if got := f.a.reads(volume, "token"); got != want {
			t.Errorf("%s holds %q, want %q", volume, got, want)
		}
		at := f.a.mounts(volume, "look")
		if _, err := os.Stat(filepath.Join(at, "another")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s has what was made by who was cut off: %v", volume, err)
		}
		f.a.unmounts(volume, "look")
	}
	f.b.up()
	f.b.unmounts("db", "user")
	if got := f.b.reads("db", "token"); got != "old" {
		t.Errorf("back again it reads %q", got)
	}
}
