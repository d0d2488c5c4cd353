package move_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A move between pools of one share copies nothing: the data is there with its snapshots, in the same files, and the
// old home has nothing of the volume any more.
func TestMoveOnShareCopiesNothing(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	s, err := f.Service.Submit(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "before"})
	require.NoError(t, err)
	if op := f.AwaitEnd(*s.Operation); op.State != dataset.OpDone {
		t.Fatalf("snapshot: %+v", op.Problem)
	}
	f.A.WriteFile("db", "token", "later")
	inode := func(h *agenttest.Host) os.FileInfo {
		info, err := os.Stat(filepath.Join(f.Share, h.NodeName, "datasets", d.ID.String(), "head", "token"))
		require.NoError(t, err)
		return info
	}
	was := inode(f.A)
	for i, to := range []*agenttest.Host{f.B, f.A, f.B} {
		f.Move("db", to)
		if v := f.Recorded("db"); v.Home != to.Node() || v.Epoch != uint64(i+2) || v.Pool != to.Pool().ID() || len(v.Copies) != 0 {
			t.Errorf("on record: %+v", v.Dataset)
		}
		f.Other(to).AwaitSettled(d.ID)
		if !os.SameFile(was, inode(to)) {
			t.Error("it was copied")
		}
		to.WantFile("db", "token", "later")
		if e, err := to.Pool().Stat(t.Context(), d.ID); err != nil || len(e.Snapshots) != 1 || e.Problem != "" || e.Record.Epoch != uint64(i+2) || e.Record.Home != to.Node() {
			t.Errorf("it lies there as %+v, %v", e, err)
		}
	}
	if list, err := f.Service.Pools(t.Context()); err != nil || len(list) != 2 || list[0].Share != list[1].Share || list[0].Reach != dataset.ReachCluster {
		t.Errorf("pools: %+v, %v", list, err)
	}
}

// A mount on another host moves the volume there, however little the profile allows to be transferred. A volume in
// use does not move, and its users continue.
func TestMountOnOtherNodeFollowsOnShare(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	f.A.Config.Timing.InUseWait = time.Second
	f.A.Restart()
	f.A.NewVolume("db@hurry", nil)
	f.A.WriteFile("db", "token", "kept")
	f.B.WantFile("db", "token", "kept")
	path := f.B.MustMount("db", "user")
	if _, err := f.A.Mount(t.Context(), "db", "other"); !errors.Is(err, dataset.ErrInUse) || !strings.Contains(err.Error(), "user") {
		t.Errorf("mounted elsewhere meanwhile: %v", err)
	}
	assert.NoError(t, os.WriteFile(filepath.Join(path, "token"), []byte("goes on"), 0o600))
	f.B.MustUnmount("db", "user")
	f.A.WantFile("db", "token", "goes on")
}

// A home that an operator superseded finds nothing to mount and does not take the volume back: neither while control
// is unreachable, nor later.
func TestSupersededHomeOnShareMountsNothing(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.A.Stop()
	out, err := f.Service.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: f.B.NodeName, Force: true, Fenced: f.A.NodeName})
	require.NoError(t, err)
	if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
		t.Fatalf("%+v", op.Problem)
	}
	f.B.WantFile("db", "token", "kept")
	if v := f.Recorded("db"); v.Home != f.B.Node() || v.Epoch != 2 || len(v.Copies) != 0 || len(v.Losses) != 0 {
		t.Errorf("on record: %+v", v.Dataset)
	}
	link := f.A.Config.Control
	f.A.Config.Control = agenttest.UnreachableControl{Service: link}
	f.A.Start()
	if path, err := f.A.Mount(t.Context(), "db", "old"); err == nil {
		t.Errorf("mounted at %s without control", path)
	}
	f.A.Stop()
	f.A.Config.Control = link
	f.A.Start()
	f.A.AwaitSettled(d.ID)
	f.B.WantFile("db", "token", "kept")
}

// A host that replaces a lost host, and has the lost host's folder, does not move a volume from that folder to the
// same folder, whatever it is asked: all of the volume's data would be deleted.
func TestI1TakeFromOwnPoolIsRefused(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	pool := f.A.Pool()
	next := f.Recorded("db").Dataset
	next.Epoch++
	op := &dataset.Operation{Volume: "db", DatasetID: d.ID, Epoch: d.Epoch, SameShare: true, DatasetRecord: &next}
	if err := f.A.ClearTarget(t.Context(), pool, op, pool.ID(), nil); !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "drover pool adopt") {
		t.Errorf("cleared: %v", err)
	}
	f.A.WantFile("db", "token", "kept")
}

// A crash leaves data of a volume whose new home has not taken it yet. That data is not taken for a dataset that was
// never acknowledged.
func TestUntakenDatasetIsKeptAfterCrash(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	folder := filepath.Join(f.Share, f.A.NodeName, "incoming", d.ID.String())
	require.NoError(t, os.Rename(filepath.Join(f.Share, f.B.NodeName, "datasets", d.ID.String()), folder))
	f.A.Restart()
	_, err := os.Stat(filepath.Join(folder, "head", "token"))
	assert.NoError(t, err)
	require.NoError(t, f.B.Pool().(backends.Sharer).Take(t.Context(), f.Recorded("db").Dataset, backends.PreviousHome{Pool: f.A.Pool().ID(), Epoch: 1}))
	f.B.WantFile("db", "token", "kept")
}

// The former home of a volume has the only data of it until the new home has taken it. Nothing destroys this data,
// even if the volume is in the trash or control is unreachable, and doctor does not advise to destroy it.
func TestUntakenDatasetIsNotCollected(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	control := &deaf{Service: f.A.Config.Control}
	f.A.Config.Control = control
	f.A.Restart()
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	folder := func(h *agenttest.Host) string { return filepath.Join(f.Share, h.NodeName, "datasets", d.ID.String()) }
	require.NoError(t, os.Rename(folder(f.B), folder(f.A)))
	kept := func(when string, says string, kind error) {
		t.Helper()
		found, err := f.A.Doctor(t.Context())
		require.NoError(t, err)
		text := ""
		for _, is := range found {
			text += is.Subject + ": " + is.Text + " (" + is.Fix + ")\n"
		}
		if !strings.Contains(text, says) || strings.Contains(text, "--gc") || strings.Contains(text, "quarantined") {
			t.Errorf("%s doctor says:\n%s", when, text)
		}
		if _, err := f.A.Collect(t.Context(), d.ID, false); !errors.Is(err, kind) {
			t.Errorf("%s collected: %v", when, err)
		}
		if _, err := os.Stat(filepath.Join(folder(f.A), "head", "token")); err != nil {
			t.Fatalf("%s: %v", when, err)
		}
	}
	back := move.MoveRecord{Move: uuid.New(), Pool: f.A.Pool().ID(), Share: true, Epoch: 3, Since: time.Now()}
	if err := f.A.MoveTable.Set(t.Context(), d.ID, back); err != nil { // as a failed move back leaves it
		t.Fatal(err)
	}
	kept("live", "dataset "+d.ID.String()+": is in pool default as volume db, and its home is another "+
		"node", dataset.ErrExists)
	control.off.Store(true)
	kept("where control does not say", "whether another node has dataset "+d.ID.String()+" is "+
		"unknown", dataset.ErrUnavailable)
	control.off.Store(false)
	require.NoError(t, f.B.Remove(t.Context(), "db"))
	kept("in the trash", "dataset "+d.ID.String()+": is in pool default as volume db, and its home is "+
		"another node", dataset.ErrExists)
}

// deaf is a control service that, while off is set, answers only which records a node has.
type deaf struct {
	api.Service
	off atomic.Bool
}

func (c *deaf) Volume(ctx context.Context, ref string) (api.Volume, error) {
	if c.off.Load() {
		return api.Volume{}, agenttest.ErrUnreachable
	}
	return c.Service.Volume(ctx, ref)
}

func (c *deaf) Snapshots(ctx context.Context, ref string, p api.Page) (api.List[dataset.Snapshot], error) {
	if c.off.Load() {
		return api.List[dataset.Snapshot]{}, agenttest.ErrUnreachable
	}
	return c.Service.Snapshots(ctx, ref, p)
}

// A node whose share only claims to be the same share takes nothing: the move fails while the home still has the
// volume.
func TestMoveToCopyOfShareFails(t *testing.T) {
	f := &agenttest.Cluster{T: t}
	f.StartControl()
	f.A = f.AddHost("host-a", "nfs")
	first := f.Share
	f.Share = t.TempDir()
	f.B = f.AddHost("host-b", "nfs")
	t.Cleanup(f.Close)
	f.A.Start()
	mark, err := os.ReadFile(filepath.Join(first, "share.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(f.Share, "share.json"), mark, 0o600)
	}
	require.NoError(t, err)
	f.B.Start()
	f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	out, err := f.Service.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: f.B.NodeName})
	require.NoError(t, err)
	op := f.AwaitEnd(*out.Operation)
	if !op.SameShare || op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "share than that of "+
		"the volume") || op.Manifest != nil {
		t.Errorf("%+v, %+v", op, op.Problem)
	}
	if v := f.Recorded("db"); v.Home != f.A.Node() || v.Epoch != 1 {
		t.Errorf("on record: %+v", v.Dataset)
	}
	f.A.WantFile("db", "token", "kept")
}

// A pool on another share than the one on which it was made is offline, and nothing is done in it until its share is
// available again.
func TestExchangedShareIsOffline(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "nfs", "nfs")
	f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	file := filepath.Join(f.Share, "share.json")
	was, err := os.ReadFile(file)
	if err == nil {
		err = os.WriteFile(file, []byte(`{"format":1,"id":"1b4e28ba-2fa1-41d2-883f-0016d3cca427"}`), 0o600)
	}
	require.NoError(t, err)
	f.A.Restart()
	if _, err := f.A.Mount(t.Context(), "db", "user"); !errors.Is(err, dataset.ErrOffline) || !strings.Contains(err.Error(), "1b4e28ba-2fa1-41d2-883f-0016d3cca427") {
		t.Errorf("mounted on another share: %v", err)
	}
	require.NoError(t, os.WriteFile(file, was, 0o600))
	f.A.Restart()
	f.A.WantFile("db", "token", "kept")
}

// A home that is cut off from control continues. If another node takes its volume over after a fence command has shut
// the home out, the holders here are killed as soon as the agent learns that, and no data is left here. The same
// happens if the volume was removed meanwhile.
func TestI1FailoverOnShareKillsHolders(t *testing.T) {
	for _, removed := range []bool{false, true} {
		t.Run(fmt.Sprintf("removed %t", removed), func(t *testing.T) { failoverOnAShare(t, removed) })
	}
}

func failoverOnAShare(t *testing.T, removed bool) {
	g := agenttest.NewBoundedOn(t, "nfs", 2*time.Second)
	agenttest.Await(t, func() bool { // control knows both guards
		nodes, err := g.Service.NodeList(t.Context(), "")
		return err == nil && len(nodes) == 2 && nodes[0].GuardRunning && nodes[1].GuardRunning
	})
	require.NoError(t, g.A.Create(t.Context(), "db@shut", nil))
	d, _ := g.A.Cache.Volume("db")
	g.A.WriteFile("db", "token", "kept")
	path := g.A.MustMount("db", "user")
	holder := exec.Command("sleep", "1000")
	holder.Dir = path
	require.NoError(t, holder.Start())
	killed := make(chan error, 1)
	go func() { killed <- holder.Wait() }()
	g.LinkA.Cut()
	agenttest.Await(t, func() bool { // its session has ended
		nodes, err := g.Service.NodeList(t.Context(), "")
		return err == nil && slices.ContainsFunc(nodes, func(n api.Node) bool { return n.ID == g.A.Node() && !n.Live })
	})
	g.B.WantFile("db", "token", "kept")
	if v := g.Recorded("db"); v.Home != g.B.Node() || v.Epoch != d.Epoch+1 || len(v.Copies)+len(v.CopyDetails) != 0 {
		t.Errorf("%+v", v)
	}
	if removed {
		require.NoError(t, g.B.Remove(t.Context(), "db"))
	}
	select {
	case err := <-killed:
		t.Errorf("killed before it was heard: %v", err)
	default:
	}
	g.LinkA.Mend()
	if err := <-killed; err == nil {
		t.Error("the holder was not killed")
	}
	agenttest.Await(t, func() bool {
		mounted, err := host.IsMountPoint(path)
		_, there := g.GuardA.Entry(d.ID)
		return err == nil && !mounted && !there && len(g.A.Uses.Get(d.ID).IDs) == 0
	})
	g.A.AwaitSettled(d.ID)
	if removed {
		return
	}
	g.B.WantFile("db", "token", "kept")
}

// untaken makes a volume whose recorded home is host-b, but which host-b has not taken from host-a yet. host-b has no
// record any more that it should take it.
func untaken(f *agenttest.Cluster) dataset.Dataset {
	f.Helper()
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	f.Move("db", f.B)
	f.A.AwaitSettled(d.ID)
	old := filepath.Join("datasets", d.ID.String())
	for _, h := range []*agenttest.Host{f.A, f.B} { // they can write the record too
		unlock, err := h.Locks.Lock(f.Context(), d.ID, "test")
		require.NoError(f, err)
		defer unlock()
	}
	require.NoError(f, os.Rename(filepath.Join(f.Share, f.B.NodeName, old), filepath.Join(f.Share, f.A.NodeName, old)))
	require.NoError(f, f.A.Pool().WriteRecord(f.Context(), d, true))
	return d
}

// The data survives if a home is lost before it has taken a volume, or if its record of the move is lost. The volume
// continues where its data is, on a third node, and on that home.
func TestHomeThatNeverTookVolumeLosesNothing(t *testing.T) {
	for _, to := range []string{"host-a", "host-c", "host-b"} {
		t.Run(to, func(t *testing.T) { neverTook(t, to) })
	}
}

func neverTook(t *testing.T, to string) {
	f := agenttest.NewCluster(t, "nfs", "nfs")
	third := f.AddHost("host-c", "nfs")
	third.Start()
	d := untaken(f)
	next := map[string]*agenttest.Host{"host-a": f.A, "host-b": f.B, "host-c": third}[to]
	if next == f.B {
		f.B.Restart()
	} else {
		f.B.Stop()
		out, err := f.Service.Submit(t.Context(), api.Request{Kind: dataset.OpMove, Volume: "db", Node: to, Force: true, Fenced: "host-b"})
		require.NoError(t, err)
		if op := f.AwaitEnd(*out.Operation); op.State != dataset.OpDone {
			t.Fatalf("%s: %+v", to, op.Problem)
		}
		f.B.Start()
	}
	if got := next.ReadFile("db", "token"); got != "kept" {
		t.Errorf("%s has %q", to, got)
	}
	v := f.Recorded("db")
	if e, err := next.Pool().Stat(t.Context(), d.ID); err != nil || e.Record.Epoch != v.Epoch || v.TakenOver == nil || v.TakenOver.FromPool != f.A.Pool().ID() {
		t.Errorf("%s: %+v, %+v, %v", to, v.TakenOver, e, err)
	}
}

// The data of an interrupted file-by-file move in a pool does not hinder a volume that is taken there. It is not kept
// for a volume that continued elsewhere.
func TestInterruptedMoveOfFilesOnShare(t *testing.T) {
	f := agenttest.NewCluster(t, "nfs", "nfs")
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "kept")
	for _, restart := range []bool{false, true} {
		half := filepath.Join(f.Share, f.B.NodeName, "incoming", d.ID.String())
		require.NoError(t, os.MkdirAll(filepath.Join(half, "head"), 0o700))
		if restart {
			f.B.Restart()
			if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("it is kept: %v", err)
			}
			continue
		}
		f.Move("db", f.B)
		f.B.WantFile("db", "token", "kept")
		f.Move("db", f.A)
		f.B.AwaitSettled(d.ID)
	}
}

// inNamespace runs a script in a new mount namespace, and returns when the script writes ready. The script reads
// commands from tell, until the command end.
func inNamespace(t *testing.T, script string, args ...string) (tell io.Writer, said io.Reader, end func() error) {
	t.Helper()
	c := exec.Command("unshare", append([]string{"--mount", "--propagation", "private", "sh", "-ec", script}, args...)...)
	in, err := c.StdinPipe()
	require.NoError(t, err)
	said, err = c.StdoutPipe()
	if err == nil {
		err = c.Start()
	}
	if err == nil {
		_, err = said.Read(make([]byte, 6))
	}
	require.NoError(t, err)
	return in, said, func() error { return errors.Join(in.Close(), c.Wait()) }
}

// A copy of the host's mount that nobody can reach, which any user can make, does not prevent a move.
func TestMoveDespiteACopyOfTheMount(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "dir")
	f.A.NewVolume("db", nil)
	f.A.MustMount("db", "web")
	_, _, end := inNamespace(t, `exec setpriv --reuid=65534 --regid=65534 --clear-groups unshare -Urm sh -c "echo ready; read -r line || true"`)
	f.A.MustUnmount("db", "web")
	f.Move("db", f.B)
	assert.NoError(t, end())
}

// A volume is not relinquished while a process has it mounted in another mount namespace or has a file of it open,
// even if the agent has recorded the end of its use: the process may still write.
func TestI1MoveOfDatasetHeldInAnotherNamespace(t *testing.T) {
	const mounted = `mount --bind "$0" "$1"; umount "$0"; echo ready; read -r line; echo late >"$1/token"; echo written; read -r line || true`
	// The container passes the open file to a process of the host, and ends.
	const handed = `mount --bind "$0" "$1"; exec 3>"$1/token"
		exec nsenter --mount="/proc/$2/ns/mnt" sh -ec "echo ready; read -r line; echo late >&3; echo written; read -r line || true"`
	for _, c := range []struct{ name, backend, script string }{
		{"dir", "dir", mounted},
		{"nfs", "nfs", mounted},
		{"dir, a file handed over", "dir", handed},
		{"nfs, a file handed over", "nfs", handed},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := agenttest.NewCluster(t, c.backend, c.backend)
			f.A.NewVolume("db", nil)
			path, in := f.A.MustMount("db", "web"), t.TempDir()
			tell, said, end := inNamespace(t, c.script, path, in, strconv.Itoa(os.Getpid()))
			f.A.MustUnmount("db", "web")
			op := f.AwaitEnd(f.BeginMove("db", f.B))
			words := in
			if c.script == handed {
				words = "head/token open inside of it"
			}
			if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrInUse.Code || !strings.Contains(op.Problem.Message, words) {
				t.Errorf("%s: %+v", op.State, op.Problem)
			}
			_, err := tell.Write([]byte("\n"))
			if err == nil {
				_, err = said.Read(make([]byte, 8))
			}
			require.NoError(t, errors.Join(err, end()))
			f.Move("db", f.B)
			f.B.WantFile("db", "token", "late\n")
		})
	}
}

// After a volume left the share, the pool of the former home still has data of it. That data is not taken for the
// volume when the volume returns from another pool of the share.
func TestMoveBackToAShare(t *testing.T) {
	f := agenttest.NewCluster(t, "nfs", "dir")
	c := f.AddHost("host-c", "nfs")
	c.Start()
	d := f.A.NewVolume("db", nil)
	f.A.WriteFile("db", "token", "left")
	f.Move("db", f.B)
	f.Move("db", c)
	c.WriteFile("db", "token", "acknowledged")
	if e, err := f.A.Pool().Stat(t.Context(), d.ID); err != nil || e.Record.Epoch != 1 {
		t.Fatalf("nothing was left: %+v, %v", e, err)
	}
	f.Move("db", f.A)
	if got := f.A.ReadFile("db", "token"); got != "acknowledged" {
		t.Fatalf("it came back with %q", got)
	}
	c.AwaitSettled(d.ID)
	if e, err := c.Pool().Stat(t.Context(), d.ID); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("it lies there too: %+v, %v", e, err)
	}
	if v := f.Recorded("db"); v.Home != f.A.Node() || v.Epoch != 4 {
		t.Errorf("on record: %+v", v.Dataset)
	}
}

func TestMain(m *testing.M) { agenttest.Main(m) }
