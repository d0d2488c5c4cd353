package backup_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// A verification restores a backup into a dataset that nobody sees, and removes it, whether it succeeds or fails. The
// volume that was backed up need not exist any more.
func TestVerify(t *testing.T) {
	t.Parallel()
	f, _ := mounted(t)
	f.A.WriteFile("db", "file", "first")
	made := backUp(f, "db", "")
	f.A.MustUnmount("db", "user")
	verify := func(options map[string]string) dataset.Operation {
		op := *f.Submit(api.Request{
			ID: uuid.New(), Kind: dataset.OpVerify, Volume: "former@free", Repository: "offsite", Backup: made.Backup, Options: options,
		}).Operation
		ended := awaitEnd(f, op)
		if _, err := f.Service.Volume(t.Context(), "former"); dataset.KindOf(err) != dataset.ErrNotFound {
			t.Errorf("the temporary volume is visible: %v", err)
		}
		wantNothingLeft(f.A)
		wantNothingLeft(f.B)
		return ended
	}
	if got := verify(nil); got.State != dataset.OpDone || got.Backup != made.Backup {
		t.Errorf("got %s: %+v", got.State, got.Problem)
	}
	record, err := f.Service.Repository(t.Context(), "offsite")
	must(t, err)
	packs, err := filepath.Glob(filepath.Join(record.URL, "data", "*", "*"))
	must(t, err)
	for _, pack := range packs { // restic would retry the read of a missing file for more than a minute
		content, err := os.ReadFile(pack)
		must(t, err)
		content[16] ^= 1 // the first byte after the nonce
		must(t, os.Chmod(pack, 0o600))
		must(t, os.WriteFile(pack, content, 0o600))
	}
	got := verify(nil)
	if got.State != dataset.OpFailed || got.Problem.Code != dataset.ErrCorrupt.Code || !strings.HasPrefix(got.Problem.Message, "verification of a backup of volume former: backups in offsite: ") {
		t.Errorf("got %s: %+v", got.State, got.Problem)
	}
	t.Logf("with damaged data: %s", got.Problem.Message)
	must(t, os.Rename(record.URL, record.URL+"-away"))
	if got := verify(nil); got.State != dataset.OpFailed || got.Problem.Code != dataset.ErrOffline.Code {
		t.Errorf("without the repository: %s: %+v", got.State, got.Problem)
	}
}

// A scheduled verification is carried out on the home, with the profile of the volume. Like one by hand, it is recorded
// with the volume. A backup of an earlier volume with the same name is not.
func TestVerificationIsRecorded(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	former := f.A.NewVolume("db@free")
	earlier := backUp(f, "db", "").Backup
	f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db"})
	agenttest.Await(t, func() bool {
		_, err := f.Service.Volume(t.Context(), "db")
		return dataset.KindOf(err) == dataset.ErrNotFound
	})
	d := f.A.NewVolume("db@verified")
	f.A.MustMount("db", "user")
	f.A.WriteFile("db", "file", "first")
	made := backUpOnSchedule(f, "db")
	f.A.MustUnmount("db", "user")
	op := awaitEnd(f, *f.Submit(api.Request{Kind: dataset.OpVerify, Volume: "db", Repository: "offsite", Backup: made, Scheduled: true}).Operation)
	if op.State != dataset.OpDone || op.Node != d.Home || op.BackupOf != d.ID {
		t.Errorf("got %s: %+v, %+v", op.State, op, op.Problem)
	}
	op = awaitEnd(f, read(f, dataset.OpVerify, "db@free", earlier))
	if op.State != dataset.OpDone || op.BackupOf != uuid.Nil {
		t.Errorf("of dataset %s: got %s: %+v, %+v", former.ID, op.State, op, op.Problem)
	}
	v, err := f.Service.Volume(t.Context(), "db")
	must(t, err)
	if len(v.Verified) != 1 || v.Verified[0].Backup != made || v.Verified[0].Failed || v.Backups.Verify.Last.IsZero() {
		t.Errorf("recorded: %+v, %+v", v.Verified, v.Backups.Verify)
	}
	wantNothingLeft(f.A)
	wantNothingLeft(f.B)
}

// fullPool is a pool that has only a few bytes besides its reserve.
type fullPool struct {
	backends.Pool
	room dataset.Size
}

func (p fullPool) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	st.Free = backends.Reserve(st.Size) + p.room
	return st
}

// Clone fails as it does in a pool that is nearly full.
func (p fullPool) Clone(ctx context.Context, d dataset.Dataset, src dataset.Source, pr backends.Progress) (dataset.Size, error) {
	if st := p.Status(ctx); p.room < 0 {
		return 0, backends.CheckRoom("main", st.Free, st.Size)
	}
	return p.Pool.Clone(ctx, d, src, pr)
}

// A backup in a full pool fails, and the error says what can be freed.
func TestBackupInFullPoolSaysWhatToFree(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	f.A.NewVolume("db@free")
	leaveRoom(f, -1)
	got := awaitEnd(f, *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: "db", Repository: "offsite"}).Operation)
	if got.State != dataset.OpFailed || got.Problem.Code != dataset.ErrNoSpace.Code ||
		!strings.Contains(got.Problem.Message, "drover snapshot ls show what could be deleted") {
		t.Errorf("got %s: %+v", got.State, got.Problem)
	}
}

// leaveRoom makes each pool a fullPool.
func leaveRoom(f *agenttest.Cluster, room dataset.Size) {
	for _, h := range []*agenttest.Host{f.A, f.B} {
		for _, p := range h.Pools.All() {
			h.Pools.Change(p.ID, func(p *pool.Pool) { p.Storage = fullPool{p.Storage, room} })
		}
	}
}

// A verification or a restore writes nothing if the files of the backup would leave too little space for the volumes of
// the pool.
func TestRestoreKeepsReserveOfPool(t *testing.T) {
	f, _ := mounted(t)
	f.A.WriteFile("db", "file", strings.Repeat("x", 5000))
	f.B.NewVolume("other@free") // an empty pool would need no reserve
	made := backUp(f, "db", "")
	at := wrapped(t, "")
	leaveRoom(f, 100)
	for _, c := range []struct {
		kind                 dataset.OpKind
		volume, want, remedy string
	}{
		{dataset.OpVerify, "db@free", "verification of a backup of volume db: its files have ", "use another pool: --profile)"},
		{dataset.OpImport, "new@free", "import of volume new: its files have ", "use another pool: -o pool=NAME)"},
	} {
		got := awaitEnd(f, read(f, c.kind, c.volume, made.Backup))
		if got.State != dataset.OpFailed || got.Problem.Code != dataset.ErrNoSpace.Code ||
			!strings.HasPrefix(got.Problem.Message, c.want) || !strings.HasSuffix(got.Problem.Message, c.remedy) {
			t.Errorf("%s: got %s: %+v", c.kind, got.State, got.Problem)
		}
		t.Logf("%s: %+v", c.kind, got.Problem)
	}
	if _, err := os.Stat(filepath.Join(at, "restored")); err == nil {
		t.Error("the backup was restored")
	}
}

// compressing is a pool that can compress.
type compressing struct{ backends.Pool }

func (compressing) Compresses() bool { return true }

// A pool without datasets needs no reserve, so a restore can use all of its space. If it compresses, it may need less
// than the size of the files, so the size does not prevent an import. It prevents a verification, and an import into a
// pool with volumes.
func TestRestoreNeedsNoReserve(t *testing.T) {
	t.Parallel()
	f, _ := mounted(t)
	f.A.WriteFile("db", "file", strings.Repeat("x", 50000))
	made := backUp(f, "db", "")
	_, err := f.Service.Cordon(t.Context(), f.A.Node(), api.Cordoned{Cordoned: true})
	must(t, err)
	p := f.B.Pools.All()[0]
	full := fullPool{p.Storage, 80000 - backends.Reserve(p.Storage.Status(t.Context()).Size)}
	restore := func(to backends.Pool, kind dataset.OpKind, volume string) dataset.Operation {
		f.B.Pools.Change(p.ID, func(p *pool.Pool) { p.Storage = to })
		op := awaitEnd(f, read(f, kind, volume, made.Backup))
		agenttest.Await(t, func() bool { return !f.B.Runner.IsRunning(op.ID) })
		return op
	}
	little := full
	little.room -= 40000
	if op := restore(little, dataset.OpImport, "one@free"); op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code {
		t.Errorf("into an empty pool that is too small: %s: %+v", op.State, op.Problem)
	}
	for _, c := range []struct {
		to     backends.Pool
		kind   dataset.OpKind
		volume string
		done   bool
	}{
		{full, dataset.OpVerify, "db@free", true},
		{compressing{little}, dataset.OpVerify, "db@free", false},
		{compressing{little}, dataset.OpImport, "two@free", true},
		{full, dataset.OpImport, "three@free", false},
		{compressing{full}, dataset.OpImport, "four@free", false},
		{compressing{full}, dataset.OpVerify, "db@free", false},
	} {
		if c.done {
			agenttest.Await(t, func() bool { // what the one before has left is removed
				entries, err := p.Storage.List(t.Context())
				return err == nil && len(entries) == 0
			})
		}
		op := restore(c.to, c.kind, c.volume)
		done := op.State == dataset.OpDone
		if done != c.done || !done && op.Problem.Code != dataset.ErrNoSpace.Code {
			t.Errorf("%s of %s into a %T: %s: %+v", c.kind, c.volume, c.to, op.State, op.Problem)
		}
	}
}

// A restore keeps the space that another one in the same pool still needs, and a verification does too.
func TestRestoreKeepsSpaceForOthers(t *testing.T) {
	f, _ := mounted(t)
	f.A.WriteFile("db", "file", strings.Repeat("x", 50000))
	made := backUp(f, "db", "")
	at := wrapped(t, "")
	leaveRoom(f, 80000)
	_, err := f.Service.Cordon(t.Context(), f.B.Node(), api.Cordoned{Cordoned: true})
	must(t, err)
	hold := filepath.Join(at, "hold")
	must(t, os.WriteFile(hold, nil, 0o600))
	remove := func() { _ = os.Remove(hold) } // so that a failed test ends
	limit := time.AfterFunc(2*time.Minute, remove)
	t.Cleanup(func() { limit.Stop(); remove() })
	first := read(f, dataset.OpImport, "first@free", made.Backup)
	agenttest.Await(t, func() bool {
		_, err := os.Stat(filepath.Join(at, "restored"))
		return err == nil
	})
	for kind, volume := range map[dataset.OpKind]string{dataset.OpImport: "second@free", dataset.OpVerify: "db@free"} {
		op := awaitEnd(f, read(f, kind, volume, made.Backup))
		if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code {
			t.Errorf("%s: got %s: %+v", op.Kind, op.State, op.Problem)
		}
		t.Logf("%s: %+v", op.Kind, op.Problem)
	}
	must(t, os.RemoveAll(hold))
	if first = awaitEnd(f, first); first.State != dataset.OpDone {
		t.Errorf("the first: %s: %+v", first.State, first.Problem)
	}
	agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(first.ID) })
	if op := awaitEnd(f, read(f, dataset.OpImport, "second@free", made.Backup)); op.State != dataset.OpDone {
		t.Errorf("afterwards: %s: %+v", op.State, op.Problem)
	}
}

// A host runs two verifications of a repository at a time, and no more. If they do not fit into the pool together, the
// second one waits.
func TestTwoVerificationsAtATime(t *testing.T) {
	f, _ := mounted(t)
	f.A.WriteFile("db", "file", strings.Repeat("x", 50000))
	made := backUp(f, "db", "")
	_, err := f.Service.Cordon(t.Context(), f.B.Node(), api.Cordoned{Cordoned: true})
	must(t, err)
	at := wrapped(t, "")
	for _, c := range []struct {
		room     dataset.Size // besides the reserve of the pool; 0: as much as it has
		together int
	}{{0, 2}, {80000, 1}} {
		if c.room > 0 {
			leaveRoom(f, c.room)
		}
		verifyTogether(t, f, at, made.Backup, c.together)
	}
}

// verifyTogether submits three verifications of a backup. It holds the restores until the given number of them has
// begun and all others wait, and fails the test if another number of them ever runs together, or if one fails.
func verifyTogether(t *testing.T, f *agenttest.Cluster, at, id string, together int) {
	t.Helper()
	hold, log := filepath.Join(at, "hold"), filepath.Join(at, "restored")
	must(t, os.WriteFile(hold, nil, 0o600))
	remove := func() { _ = os.Remove(hold) } // so that a failed test ends
	limit := time.AfterFunc(2*time.Minute, remove)
	t.Cleanup(func() { limit.Stop(); remove() })
	var ops []dataset.Operation
	for range 3 {
		ops = append(ops, read(f, dataset.OpVerify, "db@free", id))
	}
	agenttest.Await(t, func() bool {
		waiting := 0
		for _, op := range ops {
			if f.A.Jobs.Progress("op/"+op.ID.String()).Step == "waiting for another verification" {
				waiting++
			}
		}
		text, err := os.ReadFile(log)
		return err == nil && waiting == len(ops)-together && strings.Count(string(text), "begin") == together
	})
	remove()
	for _, op := range ops {
		if op = awaitEnd(f, op); op.State != dataset.OpDone || op.Progress.Done < 50000 {
			t.Errorf("got %s after %d bytes: %+v", op.State, op.Progress.Done, op.Problem)
		}
	}
	text, err := os.ReadFile(log)
	must(t, err)
	run, most := 0, 0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "begin") {
			run++
		} else {
			run--
		}
		most = max(most, run)
	}
	if most != together {
		t.Errorf("%d restores ran together, want %d:\n%s", most, together, text)
	}
	must(t, os.Remove(log))
}

// argsRunner notes the arguments of the programs that it runs.
type argsRunner struct {
	run.System
	mu   sync.Mutex
	args [][]string
}

func (a *argsRunner) Run(ctx context.Context, c run.Command) (run.Result, error) {
	a.mu.Lock()
	a.args = append(a.args, c.Args)
	a.mu.Unlock()
	return a.System.Run(ctx, c)
}

// Only a verification has restic read the restored files again.
func TestVerifyComparesFiles(t *testing.T) {
	made, folder := folderRepository(t)
	runner := &argsRunner{}
	opened, err := restic.New(t.Context(), runner, restic.Options{
		URL: folder, Password: dataset.PasswordSource{File: filepath.Join(filepath.Dir(folder), "password")},
		CacheDir: filepath.Join(filepath.Dir(folder), "cache"),
	})
	must(t, err)
	tags := backup.Tags{Volume: "db", Dataset: uuid.New(), Operation: uuid.New()}
	b := storeRecord(t, made, backup.Record{Version: 1, Volume: "db", Dataset: tags.Dataset}, tags.List())
	s := newRestorer(t, oneRepository{opened})
	for name, restore := range map[string]func(context.Context, string, string, *os.File, func(string)) error{
		"restore": func(ctx context.Context, repository, id string, root *os.File, step func(string)) error {
			return s.Restore(ctx, repository, id, nil, root, step)
		},
		"verify": func(ctx context.Context, repository, id string, root *os.File, step func(string)) error {
			of, _, err := s.Verify(ctx, repository, id, root, step)
			if of != tags.Dataset {
				t.Errorf("the backup is of dataset %s, want %s", of, tags.Dataset)
			}
			return err
		},
	} {
		runner.args = nil
		root := rootAt(t, t.TempDir())
		must(t, restore(t.Context(), "offsite", b.ID, root, func(string) {}))
		compares := slices.ContainsFunc(runner.args, func(args []string) bool { return slices.Contains(args, "--verify") })
		if compares != (name == "verify") {
			t.Errorf("%s runs %q", name, runner.args)
		}
	}
}

// hiding is a pool that hides a part of its free space.
type hiding struct {
	backends.Pool
	hidden dataset.Size
}

func (p hiding) Status(ctx context.Context) dataset.PoolStatus {
	st := p.Pool.Status(ctx)
	st.Free -= p.hidden
	return st
}

// A backup can be larger than its repository says. Its restore ends before it fills the pool, and leaves nothing.
func TestRestoreOfMoreThanMeasured(t *testing.T) {
	f, _ := mounted(t)
	f.A.WriteFile("db", "file", string(treetest.Bytes(1, 24<<20)))
	made := backUp(f, "db", "")
	f.B.NewVolume("other@free")
	_, err := f.Service.Cordon(t.Context(), f.A.Node(), api.Cordoned{Cordoned: true})
	must(t, err)
	real, err := exec.LookPath("restic")
	must(t, err)
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "restic"), []byte(fmt.Sprintf(`#!/bin/sh
case " $* " in
*" --mode=restore-size "*) echo '{"total_size":1000,"snapshots_count":1}'; exit;;
*" restore "*) exec %s --limit-download=6000 "$@";;
esac
exec %s "$@"
`, real, real)), 0o700))
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	p := f.B.Pools.All()[0]
	st := p.Storage.Status(t.Context())
	f.B.Pools.Change(p.ID, func(p *pool.Pool) {
		p.Storage = hiding{p.Storage, st.Free - backends.Reserve(st.Size) - 16<<20}
	})
	free := func() dataset.Size { return f.B.Pools.All()[0].Storage.Status(t.Context()).Free }
	room := free()
	for _, c := range []struct {
		kind   dataset.OpKind
		volume string
	}{{dataset.OpImport, "new@free"}, {dataset.OpVerify, "db@free"}} {
		agenttest.Await(t, func() bool { return free() >= room-4<<20 }) // XFS frees the blocks of a removed file later
		start := time.Now()
		op := awaitEnd(f, read(f, c.kind, c.volume, made.Backup))
		if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrNoSpace.Code ||
			!strings.Contains(op.Problem.Message, "says that the backup has 1000B") {
			t.Errorf("%s: got %s: %+v", c.kind, op.State, op.Problem)
		}
		t.Logf("%s: %+v, after %v", c.kind, op.Problem, time.Since(start))
		agenttest.Await(t, func() bool { return !f.B.Runner.IsRunning(op.ID) })
	}
	agenttest.Await(t, func() bool {
		entries, err := p.Storage.List(t.Context())
		return err == nil && len(entries) == 1
	})
}
