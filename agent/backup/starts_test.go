package backup_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
)

// resticStarts notes each start of restic from now on. The returned function returns the commands since the last call.
func resticStarts(t *testing.T) (commands func() string) {
	t.Helper()
	program, err := exec.LookPath("restic")
	must(t, err)
	bin := t.TempDir()
	log := filepath.Join(bin, "log")
	must(t, os.WriteFile(filepath.Join(bin, "restic"), fmt.Appendf(nil, `#!/bin/bash
for a; do case $a in --*) ;; *) echo "$a" >>%s; break;; esac; done
exec %s "$@"
`, log, program), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return func() string {
		t.Helper()
		text, err := os.ReadFile(log)
		must(t, err)
		must(t, os.Truncate(log, 0))
		return strings.Join(strings.Fields(string(text)), " ")
	}
}

// Each start of restic takes half a second for the key of the repository. A backup needs one, unless the parent was
// removed. A restore needs four: to find the backup, to read its record, to measure it unless this agent has made or
// measured it, and to restore it.
func TestStartsOfRestic(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	commands := resticStarts(t)
	f.A.NewVolume("db@free")
	f.A.MustMount("db", "user")
	f.A.WriteFile("db", "file", "first")
	f.A.MustUnmount("db", "user") // so that the backups are exact
	want := func(what, commandsOfIt string) {
		t.Helper()
		if got := commands(); got != commandsOfIt {
			t.Errorf("%s starts restic for %q, want %q", what, got, commandsOfIt)
		}
	}
	first := backUp(f, "db", "")
	want("a first backup", "version backup")
	second := backUp(f, "db", "")
	want("a second backup", "backup")
	made, err := r.Get(t.Context(), second.Backup)
	must(t, err)
	commands()
	if made.Parent != first.Backup {
		t.Errorf("got the parent %q, want %s", made.Parent, first.Backup)
	}

	restored := second.Backup
	restore := func(on *agenttest.Host) {
		t.Helper()
		list, err := f.A.VolumeBackups(t.Context(), "offsite", "")
		must(t, err)
		if !slices.ContainsFunc(list.Items, func(b api.VolumeBackup) bool { return b.ID == restored }) {
			t.Fatalf("got %+v", list)
		}
		b, err := f.A.VolumeBackup(t.Context(), "offsite", restored)
		must(t, err)
		if b.Record == nil || b.Record.Node == "" || restored == second.Backup && !b.Taken.Equal(made.Time) {
			t.Errorf("got %+v", b)
		}
		op := *f.Submit(api.Request{
			ID: uuid.New(), Kind: dataset.OpImport, Volume: "new" + uuid.NewString()[:8] + "@free", Repository: "offsite",
			Backup: restored, Options: map[string]string{"node": on.Config.NodeName},
		}).Operation
		if op = awaitEnd(f, op); op.State != dataset.OpDone {
			t.Fatalf("the restore is %s: %+v", op.State, op.Problem)
		}
	}
	restore(f.A)
	want("a restore", "snapshots dump restore")
	restore(f.B) // it has not read the record
	want("a restore on another host", "snapshots dump version stats snapshots dump restore")
	restore(f.B)
	want("a second restore on another host", "snapshots dump restore")

	// Without a list, restic also reads the tags.
	b, err := f.B.VolumeBackup(t.Context(), "offsite", first.Backup[:8])
	must(t, err)
	if words := strings.Fields(commands()); b.ID != first.Backup || b.Record == nil || len(words) != 2 ||
		!slices.Contains(words, "dump") || !slices.Contains(words, "snapshots") {
		t.Errorf("got %+v by %q", b, words)
	}

	// A backup that was read before and is removed now is not found.
	must(t, r.Remove(t.Context(), second.Backup))
	_, err = f.A.VolumeBackup(t.Context(), "offsite", second.Backup)
	refused(t, err, dataset.ErrNotFound, "it has no such backup")
	_, err = f.A.Backups.Size(t.Context(), "offsite", second.Backup, true)
	refused(t, err, dataset.ErrNotFound, "it has no such backup")
	root := rootAt(t, t.TempDir())
	err = f.A.Backups.Restore(t.Context(), "offsite", second.Backup, nil, root, func(string) {})
	refused(t, err, dataset.ErrNotFound, "it has no such backup")
	commands()

	// The removed backup would have been the parent. No other one becomes it.
	third := backUp(f, "db", "")
	want("a backup whose parent was removed", "backup backup stats")
	made, err = r.Get(t.Context(), third.Backup)
	must(t, err)
	if made.Parent != "" || third.ReadsAll != "its last exact backup is not in the repository any more, or is damaged" {
		t.Errorf("got the parent %q, and it reads everything because %q", made.Parent, third.ReadsAll)
	}

	// The same operation runs again, as after a report that was lost.
	commands()
	again := third
	_, err = f.A.Backups.Create(context.WithoutCancel(t.Context()), &host.Job{}, &again)
	must(t, err)
	want("a repeated backup", "backup")

	// restic does not store sockets, and the record of a backup does not count them.
	must(t, unix.Mknod(filepath.Join(f.A.MustMount("db", "user"), "socket"), unix.S_IFSOCK|0o600, 0))
	restored = backUp(f, "db", "").Backup
	commands()
	restore(f.A)
	want("a restore of a backup without a socket", "snapshots dump restore")
}

// If the folders of the parent are damaged, a backup succeeds only if it has none of them.
func TestDamagedParent(t *testing.T) {
	long.Only(t) // restic repeats each failed read for a minute; TestStartsOfRestic has the other reason for the same steps
	t.Parallel()
	f, _ := mounted(t)
	dir, text := f.A.MustMount("db", "user"), ""
	damaged := func(name string) dataset.Operation {
		must(t, os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755))
		f.A.WriteFile("db", name, "text")
		backUp(f, "db", "")
		found, err := f.Service.Repository(t.Context(), "offsite")
		must(t, err)
		// restic's cache has the packs with folders, and no others.
		packs, err := filepath.Glob(filepath.Join(f.A.Root, "restic-cache", "*", "*", "data", "*", "*"))
		must(t, err)
		for _, pack := range packs {
			id := filepath.Base(pack)
			must(t, os.WriteFile(filepath.Join(found.URL, "data", id[:2], id), make([]byte, 100), 0o600))
			must(t, os.Remove(pack))
		}
		text += "."
		f.A.WriteFile("db", "file", text)
		return awaitEnd(f, begin(f, "db", ""))
	}
	op := damaged("file")
	if op.State != dataset.OpDone || op.Parent != "" || !strings.HasSuffix(op.ReadsAll, "is damaged") {
		t.Errorf("got %+v", op)
	}
	if op = damaged("folder/file"); op.Problem == nil || op.Problem.Code != dataset.ErrCorrupt.Code ||
		!strings.Contains(op.Problem.Message, "its data are damaged") {
		t.Errorf("got %+v", op)
	}
	wantNothingLeft(f.A) // the note of an incomplete backup goes with the backup
}

// A backup has a parent only if the volume stayed mounted, or stayed unmounted, since the parent was made. In between,
// its filesystem can have lost its journal.
func TestParentIsOfOneSession(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	d := f.A.NewVolume("db@free")
	last := ""
	check := func(what string, continues bool) {
		t.Helper()
		op := backUp(f, "db", "")
		want, reason := "", "the volume was mounted or unmounted, or drover was started, since its last exact backup"
		if continues {
			want, reason = last, ""
		}
		if last != "" && (op.Parent != want || op.ReadsAll != reason) {
			t.Errorf("%s: got the parent %q, and it reads everything because %q", what, op.Parent, op.ReadsAll)
		}
		last = op.Backup
	}
	check("first", false)
	check("idle", true)
	f.A.MustMount("db", "one")
	check("mounted", false)
	check("still mounted", true)
	f.A.Restart()
	check("after a restart of drover", false)
	check("mounted since", true)
	f.A.MustUnmount("db", "one")
	check("unmounted", false)
	check("still unmounted", true)
	f.A.MustMount("db", "two")
	must(t, unix.Unmount(f.A.MountPath(d.ID), 0)) // by somebody else
	check("unmounted by somebody else", false)
}

// A backup that was made of a volume in use without a freeze is the parent of no other one.
func TestFlushedBackupIsNoParent(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	newRepository(t, f)
	f.A.NewVolume("db@flushed")
	f.A.MustMount("db", "one")
	backUp(f, "db", "")
	if op := backUp(f, "db", ""); op.Parent != "" || op.ReadsAll == "" {
		t.Errorf("got the parent %q, and it reads everything because %q", op.Parent, op.ReadsAll)
	}
	f.A.MustUnmount("db", "one")
}
