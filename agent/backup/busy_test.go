package backup_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
)

// wrapped puts a program restic first in PATH that runs the script before each backup, and then the real restic. In the
// script, $D is the folder that wrapped returns, and the working directory is the folder of the dataset. The begin and
// the end of each restore are noted in the file restored of that folder, with the cache of the host. A restore waits
// while $D/hold exists.
func wrapped(t *testing.T, script string) (folder string) {
	t.Helper()
	real, err := exec.LookPath("restic")
	must(t, err)
	folder = t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, "restic"), []byte(fmt.Sprintf(`#!/bin/sh
D=%s
case " $* " in *" backup "*)
%s
;; *" restore "*)
for a; do case $a in --cache-dir=*) C=$a;; esac; done
echo begin $C >>$D/restored
while [ -e $D/hold ]; do sleep 0.1; done
%s "$@"; status=$?
sleep 0.5
echo end $C >>$D/restored
exit $status
;; esac
exec %s "$@"
`, folder, script, real, real)), 0o700))
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	return folder
}

// restic cannot gain anything from a program or a device in the data. Two backups of a volume to a repository never run
// together, although the host could make two.
func TestOneBackupOfAVolume(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	f.A.NewVolume("v0@free")
	f.A.NewVolume("v1@free")
	at := wrapped(t, `echo >>$D/begun
cat /proc/self/mountinfo >$D/mounts
if mv $D/gate $D/passed 2>/dev/null; then
	read x <$D/passed
	wc -l <$D/begun >$D/meanwhile
fi`)
	gate := filepath.Join(at, "gate")
	must(t, unix.Mkfifo(gate, 0o600))
	open, err := os.OpenFile(gate, os.O_RDWR, 0) // does not wait for the reader
	must(t, err)
	defer open.Close()
	ops := []dataset.Operation{begin(f, "v0", "")}
	exists := func(name string) bool {
		_, err := os.Stat(filepath.Join(at, name))
		return err == nil
	}
	agenttest.Await(t, func() bool { return exists("passed") })
	ops = append(ops, begin(f, "v0", ""))
	agenttest.Await(t, func() bool { return f.A.Runner.IsRunning(ops[1].ID) })
	backUp(f, "v1", "")
	_, err = open.WriteString("\n")
	must(t, err)
	for i, op := range ops {
		if op = awaitEnd(f, op); op.State != dataset.OpDone {
			t.Errorf("%d: the backup is %s: %+v", i, op.State, op.Problem)
		}
	}
	if n, err := os.ReadFile(filepath.Join(at, "meanwhile")); err != nil || string(n) != "2\n" {
		t.Errorf("%q backups began while the first one ran, %v, want itself and the one of v1", n, err)
	}
	mounts, err := os.ReadFile(filepath.Join(at, "mounts"))
	must(t, err)
	data := filepath.Join(f.A.MountRoot(), backup.DataName)
	var flags string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); fields[4] == data {
			flags = "," + fields[5] + ","
		}
	}
	for _, want := range []string{"ro", "nosuid", "nodev", "noexec"} {
		if !strings.Contains(flags, ","+want+",") {
			t.Errorf("the data is mounted with %q, want %s", flags, want)
		}
	}
	wantNothingLeft(f.A)
}

// use keeps a repository in use until end is called, as another node does.
func use(t *testing.T, r backupFolder) (end func()) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "restic", "--repo", r.url, "--password-file", r.password, "--no-cache",
		"backup", "--stdin", "--host", "other")
	in, err := c.StdinPipe()
	must(t, err)
	must(t, c.Start())
	agenttest.Await(t, func() bool {
		locks, err := os.ReadDir(filepath.Join(r.url, "locks"))
		return err == nil && len(locks) > 0
	})
	return func() {
		t.Helper()
		_, err := in.Write([]byte("x")) // it must have content
		must(t, err)
		must(t, in.Close())
		must(t, c.Wait())
	}
}

// A backup that was cancelled when it had been stored is removed. While another process uses the repository, it stays,
// and is removed after the next backup, or after a restart.
func TestCancelledBackupIsRemoved(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@free")
	cancelled := func(want int) {
		t.Helper()
		id := uuid.New()
		f.A.Fuse.Set(-1, false, func(act string) {
			if act == "commit" {
				_, _ = f.Service.CancelOperation(f.Context(), id.String())
			}
		})
		op := *f.Submit(api.Request{ID: id, Kind: dataset.OpBackup, Volume: "db"}).Operation
		op = awaitEnd(f, op)
		agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(id) })
		f.A.Fuse.Mend()
		if op.State != dataset.OpCancelled {
			t.Fatalf("the backup is %s: %+v", op.State, op.Problem)
		}
		list, err := r.Backups(t.Context(), backup.OperationTag(id))
		if err != nil || len(list) != want || len(marks(f.A)) != want {
			t.Fatalf("got %v, %v, and %s, want %d", list, err, marks(f.A), want)
		}
	}
	removed := func(keep int) {
		t.Helper()
		agenttest.Await(t, func() bool { return len(marks(f.A)) == 0 })
		if list, err := r.Backups(t.Context(), backup.TagDrover); err != nil || len(list) != keep {
			t.Errorf("got %v, %v, want %d", list, err, keep)
		}
	}
	where := folderOf(t, f)
	cancelled(0)
	end := use(t, where)
	cancelled(1)
	end()
	backUp(f, "db", "")
	removed(1)
	end = use(t, where)
	cancelled(1)
	end()
	f.A.Restart()
	removed(1)
	wantNothingLeft(f.A)
}

// restic can store a backup and fail, for example because it could not read a file. While another process uses the
// repository, that backup stays, and is removed after the next one.
func TestIncompleteBackupIsRemoved(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@free")
	real, err := exec.LookPath("restic")
	must(t, err)
	at := wrapped(t, fmt.Sprintf(`if mv $D/incomplete $D/passed 2>/dev/null; then %s "$@"; exit 3; fi`, real))
	end := use(t, folderOf(t, f))
	must(t, os.WriteFile(filepath.Join(at, "incomplete"), nil, 0o600))
	op := awaitEnd(f, begin(f, "db", ""))
	if op.State != dataset.OpFailed || !strings.Contains(op.Problem.Message, "a part of the files could not be read") {
		t.Errorf("the backup is %s: %+v", op.State, op.Problem)
	}
	agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(op.ID) })
	if len(marks(f.A)) != 1 {
		t.Errorf("the notes are %s, want one", marks(f.A))
	}
	wantBackups(t, r, onlyBackup(t, r, op))
	end()
	complete := backUp(f, "db", "")
	agenttest.Await(t, func() bool { return len(marks(f.A)) == 0 })
	wantBackups(t, r, complete.Backup)
	wantNothingLeft(f.A)
}

// onlyBackup returns the ID of the only backup that an operation has made.
func onlyBackup(t *testing.T, r *restic.Repository, op dataset.Operation) string {
	t.Helper()
	list, err := r.Backups(t.Context(), backup.OperationTag(op.ID))
	must(t, err)
	if len(list) != 1 {
		t.Fatalf("got %+v, want one backup", list)
	}
	return list[0].ID
}

// A backup that must be removed is removed also if its repository was removed meanwhile, and was added again under
// another name.
func TestUnwantedBackupOfRemovedRepository(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@free")
	id := uuid.New()
	f.A.Fuse.Set(-1, false, func(act string) {
		if act == "commit" {
			_, _ = f.Service.CancelOperation(f.Context(), id.String())
		}
	})
	end := use(t, folderOf(t, f)) // so the backup cannot be removed
	awaitEnd(f, *f.Submit(api.Request{ID: id, Kind: dataset.OpBackup, Volume: "db"}).Operation)
	agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(id) })
	f.A.Fuse.Mend()
	end()
	record, err := f.Service.Repository(t.Context(), "offsite")
	must(t, err)
	must(t, f.Service.RemoveRepository(t.Context(), "offsite", false))
	other := filepath.Join(filepath.Dir(marks(f.A)[0]), "remove-other.json")
	must(t, os.WriteFile(other, []byte(`{"format":1,"repository":"offsite","url":"/other","backups":["12345678"]}`), 0o600))
	f.A.Restart()
	f.A.Backups.Clear(t.Context())
	if len(marks(f.A)) != 2 {
		t.Fatalf("the notes are %s, want two", marks(f.A))
	}
	must(t, os.Remove(other))
	restictest.Make(t, record.URL+"-other", "correct horse")
	for _, n := range []api.NewRepository{ // another one has the former name
		{Name: "offsite", URL: record.URL + "-other", Password: record.Password},
		{Name: "second", URL: record.URL, Password: record.Password},
	} {
		_, err = f.A.CheckRepository(t.Context(), api.RepositoryCheck{New: &n, Init: true})
		must(t, err)
		_, err = f.Service.AddRepository(t.Context(), n)
		must(t, err)
	}
	f.A.Backups.Clear(t.Context())
	list, err := r.Backups(t.Context(), backup.OperationTag(id))
	if err != nil || len(list) > 0 || len(marks(f.A)) > 0 {
		t.Errorf("got %v, %v, and %s", list, err, marks(f.A))
	}
}

// backupFolder is where a repository and its password are.
type backupFolder struct{ url, password string }

func folderOf(t *testing.T, f *agenttest.Cluster) backupFolder {
	t.Helper()
	r, err := f.Service.Repository(t.Context(), "offsite")
	must(t, err)
	return backupFolder{r.URL, r.Password.File}
}

// marks returns the files about backups that must be removed.
func marks(h *agenttest.Host) []string {
	h.T.Helper()
	names, err := filepath.Glob(filepath.Join(h.Root, "backups", "remove-*.json"))
	must(h.T, err)
	return names
}

// A volume can be deleted while its backup waits.
func TestVolumeIsDeletedBeforeItsBackup(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	f.A.NewVolume("db@free")
	free := f.A.Backups.Occupy("offsite")
	op := begin(f, "db", "")
	agenttest.Await(t, func() bool { return f.A.Runner.IsRunning(op.ID) })
	awaitEnd(f, *f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpDelete, Volume: "db"}).Operation)
	free()
	const want = "backup of volume db to offsite: it was deleted meanwhile (drover trash ls)"
	if op = awaitEnd(f, op); op.State != dataset.OpFailed || op.Problem.Message != want {
		t.Errorf("the backup is %s: %+v, want %s", op.State, op.Problem, want)
	}
	wantNothingLeft(f.A)
}
