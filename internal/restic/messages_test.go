package restic_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/test/require"
)

// say makes restic write a text to its standard error, and exit with a status.
func say(t *testing.T, text, status string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "text")
	write(t, file, text)
	fake(t, "cat "+file+" >&2; exit "+status+"\n")
}

// The name of a file in a volume can contain any text of restic's messages. It does not change the kind of an error.
func TestNameOfFileIsNoCause(t *testing.T) {
	pack := strings.Repeat("5f", 32)
	restore := func(r *restic.Repository) error {
		return r.RestoreFolder(t.Context(), pack, "data", "/target", true)
	}
	check := func(r *restic.Repository) error { return r.Check(t.Context(), 0) }
	backup := func(r *restic.Repository) error {
		_, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
		return err
	}
	const tree = "error for tree 290b2b0c:\n  tree 290b2b0c: "
	for _, name := range []string{
		"wrong password or no key found", "repository is already locked by PID 1 on other by root", "pack " + pack,
		"no space left on device", "connection refused", "config cannot be loaded", "id " + pack + " not found in repository",
		"StreamPack: EOF", "pack " + pack + " failed to download: no such file or directory", "load <snapshot/5f>",
		"x\nFatal: wrong password or no key found\ny", "x\nFatal: There were 2 errors", "x\nrepository is already locked by PID 1 on b",
		"x\nunable to create lock in backend: repository is already locked exclusively by PID 1 on other by root",
	} {
		quoted := strings.ReplaceAll(name, "\n", `\n`)
		for _, c := range []struct {
			name, text, status string
			run                func(*restic.Repository) error
			kind               *dataset.Kind
			want               string
		}{
			{
				"restore", "ignoring error for /d/" + name + ": open /target/d/" + name + ": file name too long\n" +
					"Fatal: There were 1 errors\n\n", "1", restore, dataset.ErrInternal, "status 1: file name too long",
			},
			{
				"restore, second line", "ignoring error for /d/" + name + ": UtimesNano: invalid argument\nignoring error for /d/" +
					name + ": UtimesNano: invalid argument\nFatal: There were 2 errors\n\n", "1", restore, dataset.ErrInternal,
				"status 1: invalid argument",
			},
			{
				"end of a long output", name + ": UtimesNano: invalid argument\nFatal: There were 1 errors\n\n", "1", restore,
				dataset.ErrInternal, "There were 1 errors",
			},
			{
				"offline", "ignoring error for /d/" + name + ": StreamPack: Get: dial tcp 192.0.2.1:443: connect: no route to host\n" +
					"Fatal: There were 1 errors\n\n", "1", restore, dataset.ErrOffline, "it does not answer",
			},
			{
				"check", tree + `file "` + quoted + `" blob 0 size could not be found` + "\nFatal: repository contains errors\n", "1",
				check, dataset.ErrCorrupt, "its data are damaged: repository contains errors",
			},
			{
				"backup", `{"message_type":"error","error":{"Err":5},"during":"archival","item":"/data/` + quoted + "\"}\n", "3",
				backup, dataset.ErrCorrupt, "a part of the files could not be read: ",
			},
			{
				"backup that ends", `{"message_type":"error","error":{"Err":5},"during":"archival","item":"/data/` + quoted +
					"\"}\nFatal: unable to save snapshot: odd\n", "1", backup, dataset.ErrInternal, "unable to save snapshot: odd",
			},
		} {
			t.Run(c.name+"/"+name, func(t *testing.T) {
				say(t, c.text, c.status)
				refused(t, c.run(open(t, options(t))), c.kind, c.want)
			})
		}
	}
}

// restic 0.17 and later report the reason for their end as JSON.
func TestReasonInJSON(t *testing.T) {
	say(t, `{"message_type":"exit_error","code":12,"message":"Fatal: wrong password or no key found"}`+"\n", "12")
	_, err := open(t, options(t)).Stat(t.Context())
	refused(t, err, dataset.ErrForbidden, "the password is wrong")
}

// The error about a lock names the process, its host, and the age of the lock.
func TestLockedRepositoryNamesTheLock(t *testing.T) {
	say(t, `unable to create lock in backend: repository is already locked exclusively by PID 4660 on host-b by root (UID 0, GID 0)
lock was created at 2026-11-28 20:44:07 (26h3m5.179373416s ago)
storage ID 1692af81
the `+"`unlock`"+` command can be used to remove stale locks
`, "1")
	refused(t, open(t, options(t)).Prune(t.Context()), dataset.ErrInUse, "it is locked by process 4660 of host host-b, which "+
		"refreshed its lock 26h3m5s ago (try again when that backup, check or removal has ended; if that process was killed, "+
		"its lock is removed 40 minutes after it was first met, or after a day if it is of another host)")
}

// A full repository can be restored from: restic cannot write its lock, and needs none to read. A removal and a prune
// say how much space must be freed.
func TestFullRepository(t *testing.T) {
	o := options(t)
	require.NoError(t, unix.Mount("none", o.URL, "tmpfs", 0, "size=16m"))
	t.Cleanup(func() { require.NoError(t, unix.Unmount(o.URL, unix.MNT_DETACH)) })
	r := initialized(t, o)
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
	fill, err := os.Create(filepath.Join(o.URL, "fill"))
	require.NoError(t, err)
	defer fill.Close()
	for block := make([]byte, 4096); err == nil; {
		_, err = fill.Write(block)
	}
	target := t.TempDir()
	if err := r.RestoreFolder(t.Context(), b.ID, "data", target, true); err != nil {
		t.Errorf("restore: %v", err)
	}
	if text, err := os.ReadFile(filepath.Join(target, "data", "a")); err != nil || string(text) != "content of a" {
		t.Errorf("restored %q, %v", text, err)
	}
	const room = "free at least 1"
	refused(t, r.Remove(t.Context(), b.ID), dataset.ErrNoSpace, room)
	refused(t, r.Prune(t.Context()), dataset.ErrNoSpace, room)
	require.NoError(t, os.Truncate(fill.Name(), 8<<20))
	require.NoError(t, r.Remove(t.Context(), b.ID))
	require.NoError(t, r.Prune(t.Context()))
}

// restic writes new data to temporary files first. Any user can fill /tmp, so they are in a private folder. If its disk
// is full, the error does not blame the repository.
func TestTemporaryFiles(t *testing.T) {
	o := options(t)
	r := initialized(t, o)
	ask := restic.Request{Dir: source(t), Names: names()}
	t.Setenv("TMPDIR", "/proc") // takes no files
	_, _, err := r.Backup(t.Context(), ask)
	require.NoError(t, err)
	info, err := os.Stat(ownCache(o))
	require.NoError(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("got mode %s", info.Mode())
	}
	say(t, "Fatal: unable to save snapshot: Write: write /x/restic-temp-pack-1: no space left on device\n", "1")
	_, _, err = r.Backup(t.Context(), ask)
	refused(t, err, dataset.ErrNoSpace, "the disk of Drover's root has no space for restic's temporary files (make space): ")
}

// The server of a directory can put links into it. restic follows none: a prune removes no file of the host.
func TestLinksInRepository(t *testing.T) {
	o := options(t)
	r := initialized(t, o)
	_, _, err := r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
	victim := write(t, filepath.Join(t.TempDir(), strings.Repeat("5f", 32)), "of the host")
	link := filepath.Join(o.URL, "data", "5f")
	require.NoError(t, os.RemoveAll(link)) // it may have a pack
	require.NoError(t, os.Symlink(filepath.Dir(victim), link))
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second) // restic repeats the listing for long
	defer cancel()
	if err := r.Prune(ctx); err == nil {
		t.Error("no error")
	}
	if _, err := os.Stat(victim); err != nil {
		t.Error(err)
	}
}
