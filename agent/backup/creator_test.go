package backup_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

func must(t *testing.T, err error) {
	t.Helper()
	require.NoError(t, err)
}

// newRepository makes a repository, and records it as offsite.
func newRepository(t *testing.T, f *agenttest.Cluster) *restic.Repository {
	t.Helper()
	dir := t.TempDir()
	// In memory: restic runs at idle I/O priority, and would wait for all other I/O of the disk.
	for _, at := range []string{dir, filepath.Join(f.A.Root, "restic-cache")} {
		must(t, os.MkdirAll(at, 0o700))
		must(t, unix.Mount("none", at, "tmpfs", 0, "size=64m"))
		t.Cleanup(func() {
			assert.NoError(t, unix.Unmount(at, unix.MNT_DETACH))
		})
	}
	n := api.NewRepository{
		Name: "offsite", URL: filepath.Join(dir, "repository"),
		Password: dataset.PasswordSource{File: filepath.Join(dir, "password")},
	}
	must(t, os.WriteFile(n.Password.File, []byte("correct horse\n"), 0o600))
	restictest.Make(t, n.URL, "correct horse")
	_, err := f.A.CheckRepository(t.Context(), api.RepositoryCheck{New: &n, Init: true})
	must(t, err)
	_, err = f.Service.AddRepository(t.Context(), n)
	must(t, err)
	r, err := restic.New(t.Context(), &run.System{}, restic.Options{
		URL: n.URL, Password: n.Password, CacheDir: filepath.Join(dir, "cache"),
	})
	must(t, err)
	return r
}

// mounted returns a cluster with volume db, which is mounted, and an empty repository.
func mounted(t *testing.T) (*agenttest.Cluster, *restic.Repository) {
	t.Helper()
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@free")
	f.A.MustMount("db", "user")
	return f, r
}

// read begins a restore or a verification of a backup.
func read(f *agenttest.Cluster, kind dataset.OpKind, volume, id string) dataset.Operation {
	f.Helper()
	return *f.Submit(api.Request{ID: uuid.New(), Kind: kind, Volume: volume, Repository: "offsite", Backup: id}).Operation
}

func begin(f *agenttest.Cluster, volume, snapshot string) dataset.Operation {
	f.Helper()
	return *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpBackup, Volume: volume, Snapshot: snapshot}).Operation
}

// awaitEnd waits for the end of an operation. restic runs at idle priority, so that it can take long beside other tests.
func awaitEnd(f *agenttest.Cluster, op dataset.Operation) dataset.Operation {
	f.Helper()
	for !op.State.Final() {
		var err error
		if op, err = f.Service.Operation(f.Context(), op.ID.String(), 5*time.Second); err != nil {
			f.Fatal(err)
		}
	}
	return op
}

func backUp(f *agenttest.Cluster, volume, snapshot string) dataset.Operation {
	f.Helper()
	op := awaitEnd(f, begin(f, volume, snapshot))
	if op.State != dataset.OpDone {
		f.Fatalf("the backup is %s: %+v", op.State, op.Problem)
	}
	return op
}

// wantNothingLeft fails if a backup left something on a host.
func wantNothingLeft(h *agenttest.Host) {
	h.T.Helper()
	if names, err := filepath.Glob(filepath.Join(h.Root, "backups", "*")); err != nil || len(names) > 0 {
		h.T.Errorf("left: %v, %v", names, err)
	}
	entries, err := h.Pool().List(h.T.Context())
	require.NoError(h.T, err)
	for _, e := range entries {
		if _, recorded := h.Cache.Dataset(e.ID); !recorded {
			h.T.Errorf("left in the pool: %+v", e)
		}
	}
}

// restored restores a backup, and returns its folder and its record.
func restored(t *testing.T, r *restic.Repository, id string) (dir string, rec backup.Record) {
	t.Helper()
	dir = t.TempDir()
	must(t, r.Restore(t.Context(), id, dir))
	text, err := os.ReadFile(filepath.Join(dir, backup.RecordName))
	must(t, err)
	rec, err = backup.ParseRecord(text)
	must(t, err)
	return dir, rec
}

// A backup of a volume in use has its content, and its record and tags describe it. A second backup reads and adds only
// what has changed. A backup of a snapshot has the content of the snapshot, and no parent. Nothing is left on the host.
func TestBackup(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	d := f.A.NewVolume("db@free")
	root := f.A.MustMount("db", "user")
	const size = 2 << 20
	must(t, os.WriteFile(filepath.Join(root, "large"), []byte(strings.Repeat("0123456789abcdef", size/16)), 0o600))
	f.A.WriteFile("db", "file", "first")
	snap := f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "one"})
	awaitEnd(f, *snap.Operation)
	first := backUp(f, "db", "")
	f.A.WriteFile("db", "file", "second")
	second := backUp(f, "db", "")
	third := backUp(f, "db", "one")
	if second.BytesAdded > 256<<10 || first.BytesAdded == 0 {
		t.Errorf("the backups added %d and %d bytes", first.BytesAdded, second.BytesAdded)
	}
	list, err := r.Backups(t.Context(), backup.DatasetTag(d.ID), backup.VolumeTag("db"), backup.TagDrover)
	must(t, err)
	if len(list) != 3 {
		t.Fatalf("got %d backups", len(list))
	}
	for i, c := range []struct {
		op       dataset.Operation
		text     string
		snapshot uuid.UUID
	}{{first, "first", uuid.Nil}, {second, "second", uuid.Nil}, {third, "first", snap.Operation.Snapshot.ID}} {
		dir, rec := restored(t, r, c.op.Backup)
		text, err := os.ReadFile(filepath.Join(dir, backup.DataName, "file"))
		if err != nil || string(text) != c.text {
			t.Errorf("%d: got %q, %v, want %q", i, text, err, c.text)
		}
		if rec.Volume != "db" || rec.Dataset != d.ID || rec.Profile.Name != "free" || rec.Size != d.Size ||
			rec.Snapshot != c.snapshot || rec.Drover != "1.0.0" || rec.Taken.IsZero() {
			t.Errorf("%d: the record is %+v", i, rec)
		}
		for _, b := range list {
			if b.ID != c.op.Backup {
				continue
			}
			want := backup.Tags{
				Volume: "db", Dataset: d.ID, Cluster: f.A.Identity.Cluster(), Node: "host-a", Operation: c.op.ID,
				Profile: "free", Snapshot: c.snapshot,
			}
			if got, ok := backup.ParseTags(b.Tags); !ok || got != want {
				t.Errorf("%d: the tags are %+v, want %+v", i, got, want)
			}
			if (b.Parent != "") != (i == 1) || b.Time.Unix() != rec.Taken.Unix() {
				t.Errorf("%d: got parent %q and time %s, want that of the record, %s", i, b.Parent, b.Time, rec.Taken)
			}
		}
	}
	wantNothingLeft(f.A)
}

// A run that was interrupted after it stored a backup is repeated: nobody knows whether that backup is complete. It
// stays: an older store that was restored can lack the end of its operation, and then it is the backup of that day.
func TestInterruptedBackupIsRepeated(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	d := f.A.NewVolume("db@free")
	f.A.MustMount("db", "user")
	f.A.WriteFile("db", "file", "text")
	gone := f.A.DieAfter("commit", 1)
	f.A.Fuse.Mu.Lock()
	f.A.Fuse.Late = false // control does not get the report
	f.A.Fuse.Mu.Unlock()
	op := begin(f, "db", "")
	agenttest.AwaitDeath(t, gone)
	list, err := r.Backups(t.Context())
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("got %d backups before the restart", len(list))
	}
	f.A.Restart()
	if op = awaitEnd(f, op); op.State != dataset.OpDone {
		t.Fatalf("the backup is %s: %+v", op.State, op.Problem)
	}
	now, err := r.Backups(t.Context(), backup.DatasetTag(d.ID))
	must(t, err)
	i := slices.IndexFunc(now, func(b restic.Backup) bool { return b.ID == op.Backup })
	if len(now) != 2 || i < 0 || now[1-i].ID != list[0].ID || now[i].Parent != "" {
		t.Errorf("got %+v, want %s and, without a parent, %s", now, list[0].ID, op.Backup)
	}
	wantNothingLeft(f.A)
}

// What a crash left is removed at the next start: the clone that a note names, and the note. A recorded dataset that a
// note names is kept.
func TestLeftoversAreRemoved(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	d, other := f.A.NewVolume("db@free"), f.A.NewVolume("other@free")
	leave := func(of, clone uuid.UUID) {
		dir := filepath.Join(f.A.Root, "backups")
		must(t, os.MkdirAll(dir, 0o700))
		note, err := json.Marshal(map[string]any{
			"format": 1, "pool": d.Pool, "clone": clone, "dataset": of, "volume": "db",
		})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(dir, "clone-"+clone.String()+".json"), note, 0o600))
	}
	clone := d
	clone.ID, clone.Size = uuid.New(), 0
	_, err := f.A.Pool().Clone(t.Context(), clone, dataset.Source{Dataset: d.ID}, nil)
	must(t, err)
	leave(d.ID, clone.ID)
	leave(other.ID, other.ID)
	leave(uuid.New(), uuid.New())
	f.A.Backups.Clear(t.Context())
	wantNothingLeft(f.A)
	f.A.MustMount("other", "user")
	f.A.MustUnmount("other", "user")
}

// Two backups to a repository run at a time, and one of a volume. The others wait, and can be cancelled meanwhile. They
// do not wait for the backups to another repository.
func TestBackupsWait(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	for i := range 3 {
		f.A.NewVolume(fmt.Sprintf("v%d@free", i))
	}
	defer f.A.Backups.Occupy("other")()
	free := f.A.Backups.Occupy("offsite")
	ops := []dataset.Operation{begin(f, "v0", ""), begin(f, "v0", ""), begin(f, "v1", "")}
	agenttest.Await(t, func() bool { return f.A.Runner.IsRunning(ops[0].ID) && f.A.Runner.IsRunning(ops[1].ID) })
	_, err := f.Service.CancelOperation(t.Context(), ops[1].ID.String())
	must(t, err)
	agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(ops[1].ID) })
	free()
	for i, want := range []dataset.OpState{dataset.OpDone, dataset.OpCancelled, dataset.OpDone} {
		if got := awaitEnd(f, ops[i]); got.State != want {
			t.Errorf("%d: the backup is %s, want %s: %+v", i, got.State, want, got.Problem)
		}
	}
	wantNothingLeft(f.A)
}

// A small volume for which restic would read or store very much is refused: it would occupy the repository for days, or
// fill it. Nothing is stored, and other volumes are backed up.
func TestBackupOfAmplifiedVolumeIsRefused(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "dir")
	r := newRepository(t, f)
	for volume, c := range map[string]struct {
		want  string
		plant func(dir string) error
	}{
		"holes": {"the largest file is large, with 1TiB", func(dir string) error {
			return errors.Join(os.WriteFile(filepath.Join(dir, "large"), nil, 0o600),
				os.Truncate(filepath.Join(dir, "large"), 1<<40))
		}},
		"exabytes": {"remove hard links or holes", func(dir string) error {
			var err error
			for _, name := range []string{"a", "b", "c"} {
				err = errors.Join(err, os.WriteFile(filepath.Join(dir, name), nil, 0o600),
					os.Truncate(filepath.Join(dir, name), 1<<62))
			}
			return err
		}},
		"links": {"of attributes and targets of links again", func(dir string) error {
			err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600)
			for i := range 20 {
				err = errors.Join(err, unix.Setxattr(filepath.Join(dir, "file"), fmt.Sprint("user.", i), make([]byte, 60_000), 0))
			}
			for i := range 70 {
				err = errors.Join(err, os.Link(filepath.Join(dir, "file"), filepath.Join(dir, fmt.Sprint(i))))
			}
			return err
		}},
	} {
		f.A.NewVolume(volume)
		must(t, c.plant(f.A.MustMount(volume, "id")))
		op := awaitEnd(f, begin(f, volume, ""))
		if op.State != dataset.OpFailed || op.Problem == nil || !strings.Contains(op.Problem.Message, c.want) {
			t.Errorf("%s: got %s, %+v, want %q", volume, op.State, op.Problem, c.want)
		}
		f.A.MustUnmount(volume, "id")
	}
	if list, err := r.Backups(t.Context()); err != nil || len(list) > 0 {
		t.Errorf("stored %v, %v", list, err)
	}
}

// A pool that copies a clone cannot give the content of one moment, except that of a snapshot.
func TestBackupOfCopyingPool(t *testing.T) {
	f := agenttest.NewCluster(t, "dir", "loop")
	r := newRepository(t, f)
	d := f.A.NewVolume("db")
	f.A.MustMount("db", "user")
	f.A.WriteFile("db", "file", "text")
	op := awaitEnd(f, begin(f, "db", ""))
	want := "backup of volume db to offsite: its pool copies the whole volume for a clone, and the volume can change " +
		"meanwhile (back up a snapshot, with --snapshot, or use drover volume export)"
	if op.State != dataset.OpFailed || op.Problem.Code != dataset.ErrUnsupported.Code || op.Problem.Message != want {
		t.Errorf("got %s: %+v, want %s", op.State, op.Problem, want)
	}
	f.A.MustUnmount("db", "user")
	op = awaitEnd(f, *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpSnapshot, Volume: "db", Name: "one"}).Operation)
	copies := 0
	f.A.Fuse.Set(-1, false, func(act string) { // the volume can be used while its snapshot is copied
		if act == "clone" {
			copies++
			f.A.MustMount("db", "meanwhile")
			f.A.MustUnmount("db", "meanwhile")
			if slices.Contains(f.A.Locks.Locked(), d.ID) || !slices.Contains(f.A.Snapshots.Locked(), op.Snapshot.ID) {
				t.Error("the volume is locked, or its snapshot is not")
			}
		}
	})
	dir, _ := restored(t, r, backUp(f, "db", "one").Backup)
	_, err := f.A.Export(t.Context(), "db", "one", io.Discard)
	must(t, err)
	f.A.NewVolume("copy@snapshot-" + op.Snapshot.ID.String()[:8])
	if copies != 3 {
		t.Errorf("%d copies were made", copies)
	}
	unlock, err := f.A.Snapshots.Lock(t.Context(), op.Snapshot.ID, "copy")
	must(t, err)
	removal := *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: "one"}).Operation
	agenttest.Await(t, func() bool { return f.A.Runner.IsRunning(removal.ID) && f.A.Snapshots.Users(op.Snapshot.ID) == 2 })
	unlock()
	if removal = awaitEnd(f, removal); removal.State != dataset.OpDone {
		t.Errorf("the removal is %s: %+v", removal.State, removal.Problem)
	}
	if text, err := os.ReadFile(filepath.Join(dir, backup.DataName, "file")); err != nil || string(text) != "text" {
		t.Errorf("got %q, %v", text, err)
	}
	wantNothingLeft(f.A)
}

func TestMain(m *testing.M) { agenttest.Main(m) }

// here is the cluster of the tests.
var here = ofCluster(uuid.MustParse("11111111-1111-4111-8111-111111111111"))

type ofCluster uuid.UUID

func (c ofCluster) Cluster() uuid.UUID { return uuid.UUID(c) }
