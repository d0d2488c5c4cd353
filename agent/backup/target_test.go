package backup_test

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restic/restictest"
)

// later is a clock whose steady time a test can advance.
type later struct {
	clock.Clock
	by atomic.Int64
}

func (l *later) Steady() time.Duration { return l.Clock.Steady() + time.Duration(l.by.Load()) }

// withSilent records a repository named silent, whose server accepts connections and says nothing, and has host A note
// a backup in it as unwanted. Runs of restic end after the given time without an answer.
func withSilent(t *testing.T, stall time.Duration) (f *agenttest.Cluster, connections *atomic.Int32, at *later) {
	t.Helper()
	f = agenttest.NewCluster(t, "loop", "loop")
	f.A.Stop()
	at = &later{Clock: f.A.Config.Clock}
	f.A.Config.StallLimit, f.A.Config.Clock = stall, at
	f.A.Start()
	newRepository(t, f)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	connections = new(atomic.Int32)
	go func() {
		for {
			connection, err := silent.Accept()
			if err != nil {
				return
			}
			defer connection.Close()
			connections.Add(1)
		}
	}()
	good, err := f.Service.Repository(t.Context(), "offsite")
	must(t, err)
	url := "rest:https://" + silent.Addr().String() + "/repository"
	_, err = f.Service.AddRepository(t.Context(), api.NewRepository{Name: "silent", URL: url, Password: good.Password})
	must(t, err)
	note := filepath.Join(f.A.Root, "backups", "remove-silent.json")
	must(t, os.MkdirAll(filepath.Dir(note), 0o700))
	text := `{"format":1,"repository":"silent","url":"` + url + `","operation":"` + uuid.NewString() + `","backups":["12345678"]}`
	must(t, os.WriteFile(note, []byte(text), 0o600))
	return f, connections, at
}

func backUpTo(f *agenttest.Cluster, volume, repository string) dataset.Operation {
	f.Helper()
	return *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: volume, Repository: repository}).Operation
}

// While unwanted backups are removed from a repository that does not answer, backups to another one are made, and what
// is unwanted there is removed.
func TestRemovalHoldsNoOtherRepository(t *testing.T) {
	f, connections, _ := withSilent(t, time.Hour)
	f.A.NewVolume("db@free")
	ctx, cancel := context.WithCancel(t.Context())
	cleared := make(chan struct{})
	go func() {
		f.A.Backups.Clear(ctx)
		close(cleared)
	}()
	defer func() { cancel(); <-cleared }()
	agenttest.Await(t, func() bool { return connections.Load() > 0 })
	first := awaitEnd(f, backUpTo(f, "db", "offsite"))
	noteUnwanted(f, first, first.Backup)
	second := awaitEnd(f, backUpTo(f, "db", "offsite"))
	if first.State != dataset.OpDone || second.State != dataset.OpDone {
		t.Errorf("the backups are %s: %+v, and %s: %+v", first.State, first.Problem, second.State, second.Problem)
	}
	agenttest.Await(t, func() bool { return len(marks(f.A)) == 1 })
	select {
	case <-cleared:
		t.Error("the backups waited for the removal")
	default:
	}
}

// After a removal from a repository that did not answer, the next attempt begins ten minutes later.
func TestRemovalPausesAfterSilence(t *testing.T) {
	t.Parallel()
	f, connections, at := withSilent(t, 2*time.Second)
	for _, c := range []struct {
		after time.Duration
		tries bool
	}{{0, true}, {9 * time.Minute, false}, {61 * time.Second, true}} {
		before := connections.Load()
		at.by.Add(int64(c.after))
		f.A.Backups.Clear(t.Context())
		if tried := connections.Load() > before; tried != c.tries {
			t.Errorf("another %s later, the repository was asked: %t, want %t", c.after, tried, c.tries)
		}
	}
	if len(marks(f.A)) != 1 {
		t.Errorf("the notes are %s, want one", marks(f.A))
	}
}

// newSecond makes a repository beside offsite, and records it as second.
func newSecond(t *testing.T, f *agenttest.Cluster) {
	t.Helper()
	good, err := f.Service.Repository(t.Context(), "offsite")
	must(t, err)
	n := api.NewRepository{Name: "second", URL: good.URL + "-second", Password: good.Password}
	restictest.Make(t, n.URL, "correct horse")
	_, err = f.A.CheckRepository(t.Context(), api.RepositoryCheck{New: &n, Init: true})
	must(t, err)
	_, err = f.Service.AddRepository(t.Context(), n)
	must(t, err)
}

// Two backups of a volume to two repositories run at the same time. Neither removes the clone of the other.
func TestBackupsOfAVolumeToTwoRepositories(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	newSecond(t, f)
	f.A.NewVolume("db@free")
	req := api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db", Repository: "second"}
	at := wrapped(t, `case "$*" in *`+req.ID.String()+`*) touch $D/begun; read x <$D/gate ;; esac`)
	gate := filepath.Join(at, "gate")
	must(t, unix.Mkfifo(gate, 0o600))
	open, err := os.OpenFile(gate, os.O_RDWR, 0) // does not wait for the reader
	must(t, err)
	defer open.Close()
	waits := *f.Submit(req).Operation
	agenttest.Await(t, func() bool {
		_, err := os.Stat(filepath.Join(at, "begun"))
		return err == nil
	})
	made := awaitEnd(f, backUpTo(f, "db", "offsite"))
	f.A.Backups.Sweep(t.Context())
	var list condition.List
	f.A.Backups.Findings(&list)
	clones, err := filepath.Glob(filepath.Join(f.A.Root, "backups", "clone-*.json"))
	if err != nil || len(clones) != 1 || len(list) > 0 {
		t.Errorf("got the notes %v, %v, and the findings %+v, want one note", clones, err, list)
	}
	_, err = open.WriteString("\n")
	must(t, err)
	for _, op := range []dataset.Operation{made, awaitEnd(f, waits)} {
		if op.State != dataset.OpDone {
			t.Errorf("the backup to %s is %s: %+v", op.Repository, op.State, op.Problem)
		}
	}
	if list, err := r.Backups(t.Context(), backup.TagDrover); err != nil || len(list) != 1 {
		t.Errorf("got %v, %v, want one backup", list, err)
	}
	wantNothingLeft(f.A)
}

// While as many verifications run as may use one repository, one of another repository runs, too.
func TestVerificationsOfTwoRepositories(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	newSecond(t, f)
	f.A.NewVolume("db@free")
	_, err := f.Service.Cordon(t.Context(), f.B.Node(), api.Cordoned{Cordoned: true})
	must(t, err)
	one, two := awaitEnd(f, backUpTo(f, "db", "offsite")), awaitEnd(f, backUpTo(f, "db", "second"))
	at := wrapped(t, "")
	hold := filepath.Join(at, "hold")
	must(t, os.WriteFile(hold, nil, 0o600))
	t.Cleanup(func() { _ = os.Remove(hold) })
	var ops []dataset.Operation
	for i, made := range []dataset.Operation{one, one, two} {
		ops = append(ops, *f.Submit(api.Request{
			ID: uuid.New(), Kind: dataset.OpVerify, Volume: "db@free", Repository: made.Repository, Backup: made.Backup,
		}).Operation)
		agenttest.Await(t, func() bool {
			text, err := os.ReadFile(filepath.Join(at, "restored"))
			return err == nil && strings.Count(string(text), "begin") == i+1
		})
	}
	must(t, os.Remove(hold))
	for _, op := range ops {
		if op = awaitEnd(f, op); op.State != dataset.OpDone {
			t.Errorf("the verification is %s: %+v", op.State, op.Problem)
		}
	}
}

// filling is a pool with as much free space as the test says.
type filling struct {
	backends.Pool
	backends.IdleChecker
	free *atomic.Int64 // as a part of the reserve, in percent; 0: what is free
	seen chan struct{} // gets a value for each status that the test waits for
}

func (p filling) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	select {
	case p.seen <- struct{}{}:
	default:
	}
	if percent := p.free.Load(); percent > 0 {
		st.Free = backends.Reserve(st.Size) / 100 * dataset.Size(percent)
	}
	return st
}

// CheckIdle says, as lvm and zfs do, that a dataset that is not there is idle.
func (p filling) CheckIdle(ctx context.Context, id uuid.UUID) error {
	if _, err := p.Stat(ctx, id); errors.Is(err, dataset.ErrNotFound) {
		return nil
	}
	return p.IdleChecker.CheckIdle(ctx, id)
}

// fillable makes the pool of a host a filling.
func fillable(f *agenttest.Cluster) filling {
	is := filling{free: &atomic.Int64{}, seen: make(chan struct{})}
	f.A.Pools.Change(f.A.Pools.All()[0].ID, func(p *pool.Pool) {
		is.Pool, is.IdleChecker = p.Storage, p.Storage.(backends.IdleChecker)
		p.Storage = is
	})
	return is
}

// wantEnded fails unless a backup was ended because of its pool, and left nothing.
func wantEnded(f *agenttest.Cluster, op dataset.Operation) {
	f.Helper()
	op = awaitEnd(f, op)
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code ||
		!strings.Contains(op.Problem.Message, op.Volume+" to offsite") ||
		!strings.Contains(op.Problem.Message, "would be free in its pool, which its existing volumes need: the clone") {
		f.Errorf("the %s is %s: %+v", op.Kind, op.State, op.Problem)
	}
	agenttest.Await(f.T, func() bool { return !f.A.Runner.IsRunning(op.ID) })
	wantNothingLeft(f.A)
}

// While restic reads a clone, the clone keeps the blocks that the volume overwrites. A backup or push ends before they
// fill the pool, and its clone is removed. So does the backup of a snapshot that is removed meanwhile. So does the backup
// of an idle volume if a process has one of its files open, or if the volume is restored or purged meanwhile.
func TestBackupEndsBeforePoolIsFull(t *testing.T) {
	f := newCluster(t, "db", "first")
	newRepository(t, f)
	free := fillable(f).free
	wait, _ := gate(t)
	ends := func(op dataset.Operation) {
		t.Helper()
		wait()
		free.Store(99)
		wantEnded(f, op)
		free.Store(0)
	}
	ends(begin(f, "db", ""))
	ends(*f.Submit(api.Request{Kind: dataset.OpPush, Volume: "db", Repository: "offsite", Name: "offsite-db"}).Operation)
	clone, err := unix.OpenTree(unix.AT_FDCWD, f.A.MustMount("db", "other"), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	must(t, err)
	held, err := unix.Openat(clone, "file", unix.O_RDWR|unix.O_CLOEXEC, 0)
	must(t, errors.Join(err, unix.Close(clone)))
	f.A.MustUnmount("db", "other")
	f.A.MustUnmount("db", "user")
	ends(begin(f, "db", ""))
	must(t, unix.Close(held))
	perform := func(req api.Request) { must(t, f.A.Perform(t.Context(), req)) }
	perform(api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"})
	f.A.NewVolume("other@free")
	for _, meanwhile := range []api.Request{
		{Kind: dataset.OpRestore, Volume: "db", Snapshot: "mine"},
		{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "mine"},
		{Kind: dataset.OpDelete, Volume: "other"},
	} {
		snapshot := ""
		if meanwhile.Kind == dataset.OpSnapshotDelete {
			snapshot = "mine"
		}
		op := begin(f, meanwhile.Volume, snapshot)
		wait()
		perform(meanwhile)
		if meanwhile.Kind == dataset.OpDelete {
			awaitEnd(f, *f.Submit(api.Request{Kind: dataset.OpPurge, Volume: op.DatasetID.String()}).Operation)
		}
		free.Store(99)
		wantEnded(f, op)
		free.Store(0)
	}
}

// The backup of a snapshot or of an idle volume does not end, because its clone keeps nothing.
func TestBackupThatKeepsNothingDoesNotEnd(t *testing.T) {
	f := newCluster(t, "db", "first")
	newRepository(t, f)
	must(t, f.A.Perform(t.Context(), api.Request{Kind: dataset.OpSnapshot, Volume: "db", Name: "mine"}))
	free := fillable(f).free
	wait, pass := gate(t)
	for _, snapshot := range []string{"mine", ""} {
		free.Store(0)
		if snapshot == "" {
			f.A.MustUnmount("db", "user")
		}
		op := begin(f, "db", snapshot)
		wait()
		free.Store(99)
		<-time.After(time.Second) // the pool would be examined four times
		pass()
		if op = awaitEnd(f, op); op.State != dataset.OpDone {
			t.Errorf("the backup of snapshot %q is %s: %+v", snapshot, op.State, op.Problem)
		}
	}
}

// A neighbour that takes much space in a moment, of a pool that has more, ends no backup.
func TestBurstEndsNoBackup(t *testing.T) {
	f := newCluster(t, "db", "first")
	newRepository(t, f)
	pool := fillable(f)
	wait, pass := gate(t)
	op := begin(f, "db", "")
	wait()
	for _, percent := range []int64{2000, 1000, 210, 210} {
		pool.free.Store(percent)
		<-pool.seen // one that began before, and one after
		<-pool.seen
	}
	pass()
	if op = awaitEnd(f, op); op.State != dataset.OpDone {
		t.Errorf("the backup is %s: %+v", op.State, op.Problem)
	}
}

// An export ends before its clone fills the pool, also while its reader stands still.
func TestExportEndsBeforePoolIsFull(t *testing.T) {
	f := newCluster(t, "db", strings.Repeat("x", 1<<20))
	pool := fillable(f)
	read, write := io.Pipe()
	ended := make(chan error, 1)
	go func() {
		_, err := f.A.Export(t.Context(), "db", "", write)
		ended <- errors.Join(err, write.Close())
	}()
	if _, err := read.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	pool.free.Store(99)
	agenttest.Await(t, func() bool {
		all, err := pool.List(t.Context())
		return err == nil && len(all) == 1
	})
	_, _ = io.Copy(io.Discard, read)
	if err := <-ended; !errors.Is(err, dataset.ErrNoSpace) {
		t.Errorf("got %v", err)
	}
}
