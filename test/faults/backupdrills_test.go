package faults

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// backupDrills: a backup of an idle volume, and a restore of one. An interrupted backup is made, whatever step it was
// interrupted at, and one of its first run can stay. An interrupted restore is repeated, and its volume is never visible
// with a part of the files. The temporary volume of a verification is never visible, and nothing of it is left.
func backupDrills() []drill {
	var r backupRepository
	ask := func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpBackup, Volume: "base", Repository: r.name})
	}
	restore := func(op, name, profile string) drill {
		var id string
		ask := func(t *testing.T, w *world) error {
			return w.submit(t, api.Request{
				Kind: dataset.OpImport, Volume: "new@" + profile, Repository: r.name, Backup: id,
			})
		}
		ends := made("new", "base")
		return drill{
			op: op, name: name, only: []string{"loop"}, ask: ask,
			ready: func(t *testing.T, w *world) {
				r = w.newBackupRepository(t)
				w.h.Must(t, "volume", "set-profile", "base", profile)
				id = w.h.Must(t, "backup", "create", "base", "--to", r.name, "-q")
				w.h.Must(t, "volume", "set-profile", "base", "plain")
			},
			ends: func(t *testing.T, w *world, asked bool) {
				ends(t, w, asked)
				if op == "backup-restore" && !w.have(t, "new") {
					t.Error("the restore was not repeated")
				}
			},
			again: func(t *testing.T, w *world) {
				if err := ask(t, w); err != nil && !errors.Is(err, dataset.ErrExists) {
					t.Errorf("asked again: %v", err)
				}
				w.volumes["new"] = "base"
			},
			clear: func(t *testing.T, w *world) { w.drop(t, "new") },
		}
	}
	var id, check string
	verify := func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{
			Kind: dataset.OpVerify, Volume: "hidden@plain", Repository: r.name, Backup: id, Check: check,
		})
	}
	return []drill{restore("import", "of a backup", "plain"), restore("backup-restore", "of a backup", "plain"), {
		op: "verify", only: []string{"loop"}, ask: verify,
		ready: func(t *testing.T, w *world) {
			r = w.newBackupRepository(t)
			id = w.h.Must(t, "backup", "create", "base", "--to", r.name, "-q")
			check = host.CheckProgram(t, "test -d \"$1\"")
		},
		ends: func(t *testing.T, w *world, _ bool) {
			if w.have(t, "hidden") {
				t.Error("the temporary volume is visible")
			}
			if left := names(t, filepath.Join(w.poolPath(t, "default"), "incoming")); len(left) > 0 {
				t.Errorf("left in the pool: %v", left)
			}
		},
		again: func(t *testing.T, w *world) { w.ok(t, verify(t, w)) },
	}, {
		op: "backup", only: []string{"loop"}, ask: ask,
		ready: func(t *testing.T, w *world) { r = w.newBackupRepository(t) },
		ends: func(t *testing.T, w *world, _ bool) {
			var list []struct {
				ID string `json:"id"`
			}
			w.ok(t, json.Unmarshal(r.restic(t, "snapshots", "--json"), &list))
			if len(list) < 1 || len(list) > 2 {
				t.Fatalf("got %d backups, want one or two", len(list))
			}
			into := t.TempDir()
			r.restic(t, "restore", "--target", into, list[len(list)-1].ID)
			assert.NoErrorf(t, compare(filepath.Join(into, "data"), "base"), "the backup")
			if left := names(t, filepath.Join(w.h.Root, "backups")); len(left) > 0 {
				t.Errorf("left below backups: %v", left)
			}
		},
		again: func(t *testing.T, w *world) { w.ok(t, ask(t, w)) },
	}, pushDrill()}
}

// pushDrill: a push of an idle volume. An interrupted push makes its version once: one backup and one entry.
func pushDrill() drill {
	var r backupRepository
	ask := func(t *testing.T, w *world) error {
		return w.submit(t, api.Request{Kind: dataset.OpPush, Volume: "base", Repository: r.name, Name: "prod"})
	}
	return drill{
		op: "push", only: []string{"loop"}, ask: ask,
		ready: func(t *testing.T, w *world) { r = w.newBackupRepository(t) },
		ends: func(t *testing.T, w *world, _ bool) {
			var list []struct {
				ID   string   `json:"id"`
				Tags []string `json:"tags"`
			}
			w.ok(t, json.Unmarshal(r.restic(t, "snapshots", "--json"), &list))
			if len(list) != 2 {
				t.Fatalf("got %d snapshots, want a backup and an entry", len(list))
			}
			into := t.TempDir()
			for _, s := range list {
				if slices.Contains(s.Tags, "drover") {
					r.restic(t, "restore", "--target", into, s.ID)
				}
			}
			assert.NoErrorf(t, compare(filepath.Join(into, "data"), "base"), "the version")
			if got := w.h.Must(t, "repository", "versions", r.name+"/prod", "--filter", "state=newest", "-q"); strings.Count(got, "-") != 4 {
				t.Errorf("the newest versions are %q", got)
			}
			if left := names(t, filepath.Join(w.h.Root, "backups")); len(left) > 0 {
				t.Errorf("left below backups: %v", left)
			}
		},
		again: func(t *testing.T, w *world) { w.ok(t, ask(t, w)) },
	}
}

// Drover is killed while restic stores, restores or verifies a backup. restic outlives it, and is at work when Drover
// starts again. The operation is repeated, or has not happened, and the repository is valid.
func TestC1WhileResticRuns(t *testing.T) {
	at := t.TempDir()
	real, err := exec.LookPath("restic")
	require.NoError(t, err)
	// The command that the file slow names takes at least ten seconds.
	script := fmt.Sprintf(`#!/bin/sh
read slow 2>/dev/null <%[1]s/slow || exec %[2]s "$@"
case " $* " in *" $slow "*)
	echo $$ >%[1]s/pid.new
	mv %[1]s/pid.new %[1]s/pid
	exec %[2]s --limit-upload=200 --limit-download=200 "$@"
esac
exec %[2]s "$@"
`, at, real)
	require.NoError(t, os.WriteFile(filepath.Join(at, "restic"), []byte(script), 0o700))
	w := newWorld(t, host.Options{Pool: "xfs", Size: 3 << 30, Env: []string{"PATH=" + at + ":" + os.Getenv("PATH")}})
	w.make(t, "base", "plain", "base")
	w.plug.Within(t, "base", func(root string) {
		w.ok(t, writeFile(filepath.Join(root, "large"), treetest.Bytes(1, 2<<20)))
	})
	w.tidy(t)
	runs := map[string]string{"backup": "backup", "push": "backup", "backup-restore": "restore", "verify": "restore"}
	for _, d := range backupDrills() {
		if command := runs[d.op]; command != "" {
			t.Run(d.op, func(t *testing.T) { w.killedBesideRestic(t, d, command, at) })
		}
	}
}

// killedBesideRestic runs a drill, and kills Drover while a command of restic runs. at is the folder of the program that
// makes the command slow.
func (w *world) killedBesideRestic(t *testing.T, d drill, command, at string) {
	d.ready(t, w)
	slow, note := filepath.Join(at, "slow"), filepath.Join(at, "pid")
	w.ok(t, os.WriteFile(slow, []byte(command+"\n"), 0o600))
	asked := make(chan error, 1)
	go func() { asked <- d.ask(t, w) }()
	var pid string
	host.Await(t, "restic locks the repository", func() error {
		text, err := os.ReadFile(note)
		pid = strings.TrimSpace(string(text))
		if locks, _ := filepath.Glob(filepath.Join(w.h.Dir, "r-*", "locks", "*")); err == nil && len(locks) == 0 {
			err = errors.New("there is no lock")
		}
		return err
	})
	time.Sleep(2 * time.Second) // it reads or writes data for ten seconds
	w.h.Kill9(t)
	host.Await(t, "restic ends with drover", func() error {
		if name, _ := os.ReadFile(filepath.Join("/proc", pid, "comm")); string(name) == "restic\n" {
			return errors.New("it runs")
		}
		return nil
	})
	w.ok(t, errors.Join(os.Remove(slow), os.Remove(note)))
	if err := <-asked; err == nil {
		t.Fatal("the operation had ended")
	}
	w.h.Up(t)
	w.recovers(t, d, false)
	repositories, err := filepath.Glob(filepath.Join(w.h.Dir, "r-*", "config"))
	w.ok(t, err)
	for _, config := range repositories {
		host.Await(t, "restic ends, and the repository is valid", func() (err error) {
			r := w.h.Exec(t, "repository", "check", filepath.Base(filepath.Dir(config)), "--read-data", "100")
			if r.Exit != 0 {
				err = errors.New(r.Err)
			}
			return err
		})
	}
}

// Drover is killed while a check program runs. The program ends with it, because it would use the temporary volume that
// the repeated verification removes.
func TestC1WhileCheckProgramRuns(t *testing.T) {
	w := newWorld(t, host.Options{Pool: "xfs", Size: 3 << 30})
	w.make(t, "base", "plain", "base")
	r := w.newBackupRepository(t)
	id := w.h.Must(t, "backup", "create", "base", "--to", r.name, "-q")
	slow := filepath.Join(t.TempDir(), "slow")
	w.ok(t, os.WriteFile(slow, nil, 0o600))
	long := fmt.Sprintf("1000.%d", os.Getpid()) // no other run of the test has the same
	check := host.CheckProgram(t, "test ! -e "+slow+" || setsid sleep "+long)
	running := func() error {
		all, err := filepath.Glob("/proc/[0-9]*/cmdline")
		w.ok(t, err)
		for _, p := range all {
			if line, err := os.ReadFile(p); err == nil && string(line) == "sleep\x00"+long+"\x00" {
				return nil
			}
		}
		return errors.New("the program does not run")
	}
	asked := make(chan error, 1)
	go func() {
		asked <- w.submit(t, api.Request{
			Kind: dataset.OpVerify, Volume: "base@plain", Repository: r.name, Backup: id, Check: check,
		})
	}()
	host.Await(t, "the program runs", running)
	w.h.Kill9(t)
	if err := <-asked; err == nil {
		t.Fatal("the operation had ended")
	}
	host.Await(t, "the program ends", func() error {
		if running() == nil {
			return errors.New("it runs")
		}
		return nil
	})
	w.ok(t, os.Remove(slow))
	w.h.Up(t)
	host.Await(t, "the verification is repeated", func() error {
		if got := w.h.Must(t, "volume", "inspect", "base", "-o", "json"); !strings.Contains(got, check) {
			return errors.New("it is not recorded")
		}
		return nil
	})
	if left := names(t, filepath.Join(w.poolPath(t, "default"), "incoming")); len(left) > 0 {
		t.Errorf("left in the pool: %v", left)
	}
}

// backupRepository is a repository for backups in memory.
type backupRepository struct{ name, at, secret string }

// newBackupRepository makes a repository that opens quickly. It and restic's cache are in memory until the test ends:
// restic has idle I/O priority, and would wait for the other tests.
func (w *world) newBackupRepository(t *testing.T) backupRepository {
	t.Helper()
	name := "r-" + uuid.NewString()
	r := backupRepository{name, filepath.Join(w.h.Dir, name), filepath.Join(w.h.Dir, name+".password")}
	for _, at := range []string{r.at, filepath.Join(w.h.Root, "restic-cache")} {
		w.ok(t, os.MkdirAll(at, 0o700))
		w.ok(t, unix.Mount("none", at, "tmpfs", 0, "size=512m"))
		t.Cleanup(func() {
			// A power cut ends the mount: EINVAL.
			if err := unix.Unmount(at, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) {
				t.Error(err)
			}
		})
	}
	w.ok(t, os.WriteFile(r.secret, []byte("correct horse\n"), 0o600))
	restictest.Make(t, r.at, "correct horse")
	w.h.Must(t, "repository", "add", r.name, r.at, "--password", "file:"+r.secret)
	return r
}

// restic runs restic on the repository, and returns its output.
func (r backupRepository) restic(t *testing.T, args ...string) []byte {
	t.Helper()
	args = append([]string{"--repo", r.at, "--password-file", r.secret, "--no-cache"}, args...)
	out, err := exec.CommandContext(t.Context(), "restic", args...).Output()
	require.NoErrorf(t, err, "restic %v", args)
	return out
}
