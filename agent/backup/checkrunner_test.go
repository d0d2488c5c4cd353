package backup_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// checkProgram writes a check program, and returns its path. The folder stays: other tests can use it at the same time.
func checkProgram(t *testing.T, script string) string {
	t.Helper()
	path := "/etc/drover/checks/test-" + uuid.NewString()
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700))
	t.Cleanup(func() { must(t, os.Remove(path)) })
	return path
}

// sleepTime returns for how many seconds check programs sleep. No other run of the tests has the same.
func sleepTime() string { return fmt.Sprintf("1000.%d", os.Getpid()) }

// profileOf returns a profile that the pool of f.B can satisfy.
func profileOf(f *agenttest.Cluster) string {
	if f.B.Pool().Info().Capabilities.EnforcesSize {
		return "free"
	}
	return "plain"
}

// startVerification requests a verification with a check program.
func startVerification(f *agenttest.Cluster, backup, check string) dataset.Operation {
	return *f.Submit(api.Request{
		ID: uuid.New(), Kind: dataset.OpVerify, Volume: "db@" + profileOf(f), Repository: "offsite", Backup: backup, Check: check,
	}).Operation
}

// verifiable makes a cluster with a backup of the volume db, which has the file "file". Verifications run on f.B, which
// has a pool of the backend.
func verifiable(t *testing.T, backend string) (f *agenttest.Cluster, backup string) {
	t.Helper()
	f = agenttest.NewCluster(t, "loop", backend)
	newRepository(t, f)
	f.A.NewVolume("db@free")
	f.A.MustMount("db", "user")
	f.A.WriteFile("db", "file", "first")
	backup = backUp(f, "db", "").Backup
	_, err := f.Service.Cordon(t.Context(), f.A.Node(), api.Cordoned{Cordoned: true})
	must(t, err)
	return f, backup
}

// A check program sees the restored volume, and only that. It can change it. It has no network, and no process of it is
// left.
func TestCheckProgram(t *testing.T) {
	for _, backend := range []string{"loop", "dir"} {
		t.Run(backend, func(t *testing.T) {
			f, made := verifiable(t, backend)
			f.B.NewVolume("other@" + profileOf(f))
			f.B.MustMount("other", "user") // the program must neither see it nor keep it mounted
			notes := t.TempDir()
			check := checkProgram(t, fmt.Sprintf(`
set -e
cd "$1"
exec 3>%[1]s/notes
cat file >&3
echo " $# $DROVER_VOLUME $DROVER_REPOSITORY $DROVER_BACKUP" >&3
echo changed >file
ls /proc | grep -c '^[0-9]*$' >&3
ls -A .. >&3
cat /proc/self/mountinfo >%[1]s/mounts
ip -o link 2>/dev/null | wc -l >&3 || wc -l </proc/net/dev >&3
ionice >&3
setsid sleep %[2]s </dev/null >/dev/null 2>&1 &
echo $$ >&3
`, notes, sleepTime()))
			op := awaitEnd(f, startVerification(f, made, check))
			if op.State != dataset.OpDone || op.Check != check {
				t.Fatalf("got %s: %+v", op.State, op.Problem)
			}
			text, err := os.ReadFile(filepath.Join(notes, "notes"))
			must(t, err)
			lines := strings.Split(strings.TrimSpace(string(text)), "\n")
			if len(lines) != 6 || lines[0] != "first 1 db offsite "+made || lines[2] != "volume" || lines[3] != "1" ||
				lines[4] != "idle" || lines[5] != "1" {
				t.Errorf("the program saw %q", lines)
			}
			if n, err := strconv.Atoi(lines[1]); err != nil || n > 4 { // the shell, ls and grep
				t.Errorf("it saw %s processes: %v", lines[1], err)
			}
			mounts, err := os.ReadFile(filepath.Join(notes, "mounts"))
			must(t, err)
			below := 0
			for line := range strings.Lines(string(mounts)) {
				fields := strings.Fields(line)
				if !strings.HasPrefix(fields[4], f.B.Root+"/") {
					continue
				}
				if below++; fields[4] == f.B.Root+"/volume" {
					if !strings.Contains(fields[5], "nosuid") || !strings.Contains(fields[5], "nodev") || strings.Contains(line, "shared:") {
						t.Errorf("the volume is mounted as %s", line)
					}
				}
			}
			if below != 1 {
				t.Errorf("the program sees %d mounts below Drover's root, want one: %s", below, mounts)
			}
			wantNoCheck(t, f)
			f.A.MustUnmount("db", "user")
			f.B.MustUnmount("other", "user")
		})
	}
}

// wantNoCheck fails unless nothing is left of a verification: no dataset, no process, no mount.
func wantNoCheck(t *testing.T, f *agenttest.Cluster) {
	t.Helper()
	wantNothingLeft(f.A)
	wantNothingLeft(f.B)
	if left := checkProcesses(t); len(left) > 0 {
		t.Errorf("processes of the check program are left: %v", left)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err)
	for _, h := range []*agenttest.Host{f.A, f.B} {
		if strings.Contains(string(mounts), h.Root+"/volume") {
			t.Error("the volume is mounted on the host")
		}
	}
}

// checkProcesses returns the processes of check programs that sleep.
func checkProcesses(t *testing.T) (found []string) {
	t.Helper()
	procs, err := filepath.Glob("/proc/[0-9]*/cmdline")
	must(t, err)
	for _, p := range procs {
		if line, err := os.ReadFile(p); err == nil && string(line) == "sleep\x00"+sleepTime()+"\x00" {
			found = append(found, p)
		}
	}
	return found
}

// Only a program that exits with 1 to 125 says that the backup is not usable.
func TestCheckProgramFails(t *testing.T) {
	t.Parallel()
	f, made := verifiable(t, "loop")
	for _, c := range []struct {
		name, script string
		kind         *dataset.Kind
		want         string
	}{
		{"finds damage", "echo out; echo first >&2; printf 'table \\033[31mt1 is damaged\\n\\n' >&2; exit 3", dataset.ErrCorrupt, "exit status 3: table  [31mt1 is damaged"},
		{"writes to stdout", "echo reason; exit 1", dataset.ErrCorrupt, "exit status 1: reason"},
		{"says nothing", "exit 1", dataset.ErrCorrupt, "exit status 1"},
		{"lacks a program", "mariadb-of-another-host", dataset.ErrInvalid, "cannot be executed"},
		{"is killed by way of a shell", "sh -c 'kill -9 $$'; exit $?", dataset.ErrInternal, "exit status 137, which says nothing"},
		{"exits with the last status", "exit 255", dataset.ErrInternal, "exit status 255, which says nothing"},
		{"exits with the last status that counts", "exit 125", dataset.ErrCorrupt, "exit status 125"},
		{"writes much", "yes | head -c 9000000; echo end; exit 1", dataset.ErrCorrupt, "exit status 1: end"},
	} {
		op := awaitEnd(f, startVerification(f, made, checkProgram(t, c.script)))
		if op.State != dataset.OpFailed || op.Problem.Code != c.kind.Code || !strings.Contains(op.Problem.Message, c.want) {
			t.Errorf("a program that %s: %s: %+v", c.name, op.State, op.Problem)
		}
		wantNoCheck(t, f)
	}
}

// A request cannot make root run a program that root has not put in the folder of check programs, or that others can
// change.
func TestCheckProgramIsAllowed(t *testing.T) {
	f, made := verifiable(t, "loop")
	ran := filepath.Join(t.TempDir(), "ran")
	script := "touch " + ran
	elsewhere := filepath.Join(t.TempDir(), "check")
	must(t, os.WriteFile(elsewhere, []byte("#!/bin/sh\n"+script), 0o755))
	for _, path := range []string{elsewhere, "/bin/true", "/etc/drover/checks", "/etc/drover/checks/../x", "/etc/drover/x", "checks/x", "/etc/drover/checks/"} {
		_, err := f.Service.Submit(t.Context(), api.Request{
			ID: uuid.New(), Kind: dataset.OpVerify, Volume: "db@free", Repository: "offsite", Backup: made, Check: path,
		})
		if dataset.KindOf(err) != dataset.ErrInvalid {
			t.Errorf("%s: %v", path, err)
		}
	}
	anybody, link := checkProgram(t, script), checkProgram(t, script)
	must(t, os.Chmod(anybody, 0o777))
	must(t, errors.Join(os.Remove(link), os.Symlink(elsewhere, link)))
	must(t, os.Chown(filepath.Dir(elsewhere), 1000, 0))
	for _, c := range []struct{ path, want string }{
		{anybody, "users other than root can write to it"},
		{link, "users other than root can write to"},
		{"/etc/drover/checks/absent", "check program /etc/drover/checks/absent does not exist"},
	} {
		op := awaitEnd(f, startVerification(f, made, c.path))
		if op.State != dataset.OpFailed || op.Problem.Code == dataset.ErrCorrupt.Code || op.Problem.Code == dataset.ErrNotFound.Code ||
			!strings.Contains(op.Problem.Message, c.want) {
			t.Errorf("%s: %s: %+v", c.path, op.State, op.Problem)
		}
	}
	if _, err := os.Stat(ran); err == nil {
		t.Error("a program ran")
	}
	wantNoCheck(t, f)
}

// The end of the operation kills the program with all its processes.
func TestCheckProgramIsCancelled(t *testing.T) {
	f, made := verifiable(t, "loop")
	begun := filepath.Join(t.TempDir(), "begun")
	check := checkProgram(t, "trap '' TERM INT; setsid sleep "+sleepTime()+" </dev/null >/dev/null 2>&1 & touch "+begun+"; sleep "+sleepTime())
	op := startVerification(f, made, check)
	agenttest.Await(t, func() bool {
		_, err := os.Stat(begun)
		return err == nil
	})
	_, err := f.Service.CancelOperation(t.Context(), op.ID.String())
	must(t, err)
	agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(op.ID) && !f.B.Runner.IsRunning(op.ID) })
	// The kernel kills the other processes after the first one.
	agenttest.Await(t, func() bool { return len(checkProcesses(t)) == 0 })
	wantNoCheck(t, f)
}
