package restic_test

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// fake puts a program restic that runs the script first in PATH. Each run appends its command to the file that fake
// returns.
func fake(t *testing.T, script string) (commands string) {
	t.Helper()
	bin := t.TempDir()
	commands = filepath.Join(bin, "commands")
	require.NoError(t, os.WriteFile(filepath.Join(bin, "restic"), []byte(`#!/bin/sh
case $1 in version) echo restic 0.14.0; exit;; esac
cat >/dev/null
while :; do case $1 in --*) shift;; *) break;; esac; done
echo $1 >>`+commands+"\n"+script), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	return commands
}

// restic leaves out a backup that it cannot read, and exits with 0.
func TestDamagedBackupIsAnError(t *testing.T) {
	o, dir := options(t), source(t)
	r := initialized(t, o)
	ask := restic.Request{Dir: dir, Names: names()}
	damaged, _, err := r.Backup(t.Context(), ask)
	require.NoError(t, err)
	write(t, filepath.Join(dir, "data", "b"), "more")
	good, _, err := r.Backup(t.Context(), ask)
	require.NoError(t, err)
	require.NoError(t, os.RemoveAll(o.CacheDir))
	file := filepath.Join(o.URL, "snapshots", damaged.ID)
	require.NoError(t, os.Chmod(file, 0o600))
	require.NoError(t, os.Truncate(file, 50))

	list, err := r.Backups(t.Context())
	refused(t, err, dataset.ErrCorrupt, "its data are damaged: could not load snapshot "+damaged.ID[:8])
	if len(list) != 1 || list[0].ID != good.ID {
		t.Errorf("got %+v, want only %s", list, good.ID)
	}
	_, err = r.Stats(t.Context())
	refused(t, err, dataset.ErrCorrupt, "could not load snapshot "+damaged.ID[:8])
	refused(t, r.Remove(t.Context(), damaged.ID), dataset.ErrCorrupt, "could not load snapshot")
	require.NoError(t, r.Remove(t.Context(), strings.Repeat("0", 64)))

	// The damaged backup does not prevent others.
	_, _, err = r.Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	require.NoError(t, err)
	refused(t, r.Check(t.Context(), 0), dataset.ErrCorrupt, "its data are damaged: load <snapshot/"+damaged.ID[:8])
}

// If restic cannot read the list of backups, it prints an empty one, and exits with 0.
func TestUnreadableListIsAnError(t *testing.T) {
	fake(t, "echo '[]'; echo 'could not load snapshots: unexpected HTTP response (500): 500 Internal' >&2\n")
	r := open(t, options(t))
	const want = "its backups cannot be read: could not load snapshots: unexpected HTTP response (500)"
	_, err := r.Backups(t.Context())
	refused(t, err, dataset.ErrOffline, want)
	refused(t, r.Remove(t.Context(), strings.Repeat("0", 64)), dataset.ErrOffline, want)
}

// A caller makes a repository where there is none. No other failure must look like that.
func TestOnlyAnAbsentRepositoryIsNotFound(t *testing.T) {
	for text, want := range map[string]*dataset.Kind{
		"unable to open config file: stat /srv/bucket/config: no such file or directory": dataset.ErrNotFound,
		"unable to open config file: Stat: <config/> does not exist":                     dataset.ErrNotFound,
		"unable to open config file: Stat: The specified key does not exist.":            dataset.ErrNotFound,
		"unable to open config file: unexpected HTTP response (500): 500 Internal":       dataset.ErrOffline,
		"unable to open config file: unexpected HTTP response (429): 429 Too Many":       dataset.ErrOffline,
		"config cannot be loaded: unsupported repository version":                        dataset.ErrOffline,
	} {
		fake(t, "echo 'Fatal: "+text+"' >&2; echo 'Is there a repository at the following location?' >&2; exit 1\n")
		_, err := open(t, options(t)).Stat(t.Context())
		part := "there is no repository"
		if want == dataset.ErrOffline {
			part = "it cannot be opened: " + text
		}
		refused(t, err, want, part)
	}
}

// A repository that another run has for itself can be opened.
func TestLockedRepositoryIsOpened(t *testing.T) {
	fake(t, `case "$*" in
*--no-lock*) echo '{"id": "5f1c09aa", "version": 2}';;
*) echo 'Fatal: unable to create lock in backend: repository is already locked exclusively by PID 1 on other by root' >&2
	exit 1;;
esac
`)
	r := open(t, options(t))
	if info, err := r.Stat(t.Context()); err != nil || info.ID != "5f1c09aa" || info.Format != 2 {
		t.Errorf("got %+v, %v", info, err)
	}
	refused(t, r.Check(t.Context(), 0), dataset.ErrInUse, "it is locked by process 1 of host other (")
}

// A list of backups needs no lock: a list that is watched would make each removal fail.
func TestBackupsOfLockedRepositoryAreListed(t *testing.T) {
	fake(t, `case "$*" in
*--no-lock*) echo '[{"id": "5f1c09aa"}]';;
*) echo 'Fatal: unable to create lock in backend: repository is already locked exclusively by PID 1 on other by root' >&2
	exit 1;;
esac
`)
	r := open(t, options(t))
	for _, tags := range [][]string{nil, {"drover"}} {
		if list, err := r.Backups(t.Context(), tags...); err != nil || len(list) != 1 || list[0].ID != "5f1c09aa" {
			t.Errorf("%v: got %+v, %v", tags, list, err)
		}
	}
	if b, err := r.Get(t.Context(), strings.Repeat("5f", 32)); err != nil || b.ID != "5f1c09aa" {
		t.Errorf("got %+v, %v", b, err)
	}
}

// A backup is complete although another process locks the repository for a prune as soon as it is stored.
func TestPruneDuringLookForNewBackup(t *testing.T) {
	fake(t, `case "$*" in
backup*) echo '{"message_type":"summary","snapshot_id":"0123abcd"}';;
*--no-lock*0123abcd*) echo '[{"id": "0123abcd"}]';;
*) echo 'Fatal: unable to create lock in backend: repository is already locked exclusively by PID 1 on other by root' >&2
	exit 1;;
esac
`)
	b, _, err := open(t, options(t)).Backup(t.Context(), restic.Request{Dir: source(t), Names: names()})
	if err != nil || b.ID != "0123abcd" {
		t.Errorf("got %+v, %v", b, err)
	}
}

// A backup that is removed while restic reads the list is no failure of the list.
func TestBackupRemovedDuringListIsNoError(t *testing.T) {
	commands := fake(t, `echo '[{"id": "5f1c09aa"}]'
[ $(wc -l <"$(dirname $0)/commands") -gt 1 ] ||
	echo 'could not load snapshot 77e0dd01: open /srv/snapshots/77e0dd01: no such file or directory' >&2
`)
	list, err := open(t, options(t)).Backups(t.Context())
	if err != nil || len(list) != 1 {
		t.Errorf("got %+v, %v", list, err)
	}
	if got, err := os.ReadFile(commands); err != nil || string(got) != "snapshots\nsnapshots\n" {
		t.Errorf("got the commands %q, %v", got, err)
	}
}

// Data that cannot be read are missing or damaged only if restic says so. The server may be unreachable.
func TestUnreadableDataAreNotMissing(t *testing.T) {
	pack := "pack " + strings.Repeat("5f", 32)
	for text, want := range map[string]struct {
		kind *dataset.Kind
		text string
	}{
		pack + ": does not exist": {dataset.ErrCorrupt, "its data are damaged: " + pack + " is missing"},
		pack + " failed to download: StreamPack: open /srv/data/5f: no such file or directory": {
			dataset.ErrCorrupt, "its data are damaged: " + pack + " is missing",
		},
		pack + " failed to download: StreamPack: The specified key does not exist.": {
			dataset.ErrCorrupt, "its data are damaged: " + pack + " is missing",
		},
		pack + " failed to download: StreamPack: Get: dial tcp 192.0.2.1:443: connect: connection refused": {
			dataset.ErrOffline, "it does not answer: StreamPack: Get: dial tcp 192.0.2.1:443: connect: connection refused",
		},
		pack + " failed to download: StreamPack: Get " + strings.Repeat("x", 200) + ": dial tcp 192.0.2.1:443: connect: connection refused": {
			dataset.ErrOffline, "x: dial tcp 192.0.2.1:443: connect: connection refused",
		},
		pack + " failed to download: StreamPack: unexpected HTTP response (500): 500 Internal": {
			dataset.ErrOffline, "a part of its data cannot be read: StreamPack: unexpected HTTP response (500): 500 Internal",
		},
		pack + " failed to download: StreamPack: The specified bucket does not exist": {
			dataset.ErrOffline, "the bucket does not exist (create it, or correct the URL)",
		},
		pack + ": unexpected file size: got 500, expected 1000": {
			dataset.ErrCorrupt, "its data are damaged: " + pack + " is damaged",
		},
		"Pack ID does not match, want " + pack[5:] + ", got " + strings.Repeat("00", 32): {
			dataset.ErrCorrupt, "its data are damaged: " + pack + " is damaged",
		},
		pack + " contains 1 errors: [blob 0: ciphertext verification failed]": {
			dataset.ErrCorrupt, "its data are damaged: " + pack + " is damaged",
		},
		pack + ": not referenced in any index": {dataset.ErrCorrupt, "its data are damaged: repository contains errors"},
	} {
		fake(t, "echo '"+text+"' >&2; echo 'Fatal: repository contains errors' >&2; exit 1\n")
		refused(t, open(t, options(t)).Check(t.Context(), 100), want.kind, want.text)
	}
}

// A restore ends with the number of its errors. That data are missing is in the lines before.
func TestMissingDataOfRestoreAreDamage(t *testing.T) {
	pack := "data/47/" + strings.Repeat("47", 32)
	for text, want := range map[string]*dataset.Kind{
		"ignoring error for /: id " + strings.Repeat("5f", 32) + " not found in repository":                      dataset.ErrCorrupt,
		"ignoring error for /: ReadFull(<data/4784f043e7>): open " + pack + ": no such file or directory":        dataset.ErrCorrupt,
		"ignoring error for /d/b: StreamPack: open " + pack + ": no such file or directory":                      dataset.ErrCorrupt,
		"ignoring error for /d/b: StreamPack: The specified key does not exist.":                                 dataset.ErrCorrupt,
		"ignoring error for /d/b: StreamPack: ReadFull: unexpected EOF":                                          dataset.ErrCorrupt,
		"ignoring error for /: ReadFull(<data/4784f043e7>): EOF":                                                 dataset.ErrCorrupt,
		"ignoring error for /d/b: ciphertext verification failed":                                                dataset.ErrCorrupt,
		"ignoring error for /d/b: StreamPack: Get: dial tcp 192.0.2.1:443: connect: connection refused":          dataset.ErrOffline,
		"ignoring error for /d/b: open /target/d/b: no such file or directory":                                   dataset.ErrInternal,
		"ignoring error for /d/b: write /target/d/b: no space left on device":                                    dataset.ErrNoSpace,
		"Load(<data/47>, 0, 0) returned error, retrying after 1s: StreamPack: open x: no such file or directory": dataset.ErrInternal,
	} {
		fake(t, "echo '"+text+"' >&2; echo 'Fatal: There were 2 errors' >&2; exit 1\n")
		err := open(t, options(t)).RestoreFolder(t.Context(), strings.Repeat("5f", 32), "data", t.TempDir(), true)
		if got := dataset.KindOf(err); got != want {
			t.Errorf("%s: got %v, %v", text, got, err)
		}
	}
	fake(t, "echo 'ignoring error for /d/b: ciphertext verification failed' >&2; echo 'Fatal: There were 4 errors' >&2; exit 1\n")
	err := open(t, options(t)).RestoreFolder(t.Context(), strings.Repeat("5f", 32), "data", t.TempDir(), true)
	refused(t, err, dataset.ErrCorrupt, "its data are damaged: ciphertext verification failed (drover repository check NAME --read-data 100")
}

// A lock is removed only if its process was of this node and has ended, or if it was seen unchanged for so long that
// nobody refreshes it. A copy of this machine, or of its folder, has another name in its locks. restic would also remove
// a lock that was not refreshed for long, so no lock is removed beside such a one. Whoever wrote the lock chose its PID:
// restic reaches no process of the host with it.
func TestOnlyLocksOfEndedProcessesAreRemoved(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	victim := exec.CommandContext(t.Context(), "sleep", "infinity")
	require.NoError(t, victim.Start())
	t.Cleanup(func() { _, _ = victim.Process.Kill(), victim.Wait() })
	check := func(r *restic.Repository) error { return r.Check(t.Context(), 0) }
	prune := func(r *restic.Repository) error { return r.Prune(t.Context()) }
	const digits = "node-0123456789abcdef"
	const copied = digits + "-00000000"
	for name, c := range map[string]struct {
		host string
		age  time.Duration // of the lock that is listed
		seen time.Duration
		call func(*restic.Repository) error
		want string
	}{
		"ended":                {"", time.Minute, 0, check, "check list cat unlock check"},
		"ended long ago":       {"", time.Hour, 0, check, "check list cat unlock check"},
		"same host name":       {host, time.Minute, 0, check, "check list cat"},
		"of a copy":            {copied, time.Hour, 0, check, "check list cat"},
		"of a copy, refreshed": {copied, time.Minute, 39 * time.Minute, check, "check list cat"},
		"of an earlier boot":   {copied, time.Hour, 41 * time.Minute, check, "check list cat unlock check"},
		"of another, old":      {"other", 30 * time.Hour, 23 * time.Hour, check, "check list cat"},
		"of another, for good": {"other", 30 * time.Hour, 25 * time.Hour, check, "check list cat unlock check"},
		"unreadable":           {"other", time.Hour, 23 * time.Hour, check, "check list cat"},
		"unreadable, for good": {"other", time.Hour, 25 * time.Hour, check, "check list cat unlock check"},
		"beside old":           {"", time.Hour, 0, prune, "prune list cat"},
		"beside abandoned":     {"", time.Hour, 25 * time.Hour, prune, "prune list cat unlock prune"},
	} {
		t.Run(name, func(t *testing.T) {
			o, clk := options(t), fakes.NewClock(time.Now())
			write(t, filepath.Join(ownCache(o), "lock-host"), digits)
			own := lockName(t, o)
			by := cmp.Or(c.host, own)
			listed := by
			if strings.HasPrefix(name, "beside") {
				listed = "other"
			}
			unreadable := ""
			if strings.HasPrefix(name, "unreadable") {
				unreadable = "[ $1 = cat ] && exit 1\n"
			}
			commands := fake(t, fmt.Sprintf(
				"[ $1 = unlock ] && { kill -HUP %d; exit 0; }\n[ $1 = list ] && echo %s && exit\n"+unreadable+
					`[ $1 = cat ] && echo '{"time":"%s","hostname":"%s","pid":1}' && exit`+"\n"+
					"echo 'Fatal: unable to create lock in backend: repository is already locked by PID 1 on %s by root' "+
					">&2; exit 1\n", victim.Process.Pid, strings.Repeat("5f", 32),
				time.Now().Add(c.seen-c.age).Format(time.RFC3339Nano), listed, by))
			program := &restic.Program{Clock: clk}
			r, err := program.Open(t.Context(), &run.System{}, o)
			require.NoError(t, err)
			if c.seen > 0 {
				refused(t, c.call(r), dataset.ErrInUse, "it is locked by process 1 of host "+by)
				clk.Advance(c.seen)
			}
			_ = os.Remove(commands)
			refused(t, c.call(r), dataset.ErrInUse, "it is locked by process 1 of host "+by+" (try again when ")
			got, err := os.ReadFile(commands)
			if err != nil || strings.Join(strings.Fields(string(got)), " ") != c.want {
				t.Errorf("got the commands %q, %v, want %s", got, err, c.want)
			}
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", victim.Process.Pid))
			if err != nil || strings.Contains(string(stat), ") Z ") {
				t.Fatalf("the process of the host ended: %s, %v", stat, err)
			}
		})
	}
}

// lockName returns the host name that the runs of restic on this node write into their locks.
func lockName(t *testing.T, o restic.Options) string {
	t.Helper()
	seen := filepath.Join(t.TempDir(), "seen")
	path := os.Getenv("PATH")
	fake(t, "hostname >"+seen+"\n")
	require.NoError(t, open(t, o).Check(t.Context(), 0))
	t.Setenv("PATH", path)
	name, err := os.ReadFile(seen)
	require.NoError(t, err)
	return strings.TrimSpace(string(name))
}

// restic 0.14 can crash after SIGINT, and leaves its lock. It is removed at once, because other nodes cannot remove it.
func TestLockOfACrashedRunIsRemoved(t *testing.T) {
	const crash = "signal interrupt received, cleaning up\n" +
		"panic: runtime error: invalid memory address or nil pointer dereference\n\ngoroutine 99 [running]:\n"
	for stderr, want := range map[string]string{
		crash:                        "check list cat unlock",
		"Fatal: no panic: goroutine": "check",
	} {
		o := options(t)
		own := lockName(t, o)
		commands := fake(t, fmt.Sprintf("[ $1 = unlock ] && exit\n[ $1 = list ] && echo %s && exit\n"+
			`[ $1 = cat ] && echo '{"time":"%s","hostname":"%s","pid":1}' && exit`+"\n"+"echo '%s' >&2; exit 2\n",
			strings.Repeat("5f", 32), time.Now().Format(time.RFC3339Nano), own, stderr))
		if err := open(t, o).Check(t.Context(), 0); err == nil {
			t.Errorf("%q: no error", stderr)
		}
		got, err := os.ReadFile(commands)
		if err != nil || strings.Join(strings.Fields(string(got)), " ") != want {
			t.Errorf("%q: got the commands %q, %v, want %s", stderr, got, err, want)
		}
	}
}

// leaveLock runs restic with a host name, and kills it when it has made its lock.
func leaveLock(t *testing.T, o restic.Options, host string) {
	t.Helper()
	c := exec.CommandContext(t.Context(), "unshare", "--uts", "sh", "-c", `hostname "$1" && shift && exec restic "$@"`, "sh",
		host, "--repo="+o.URL, "--password-file="+o.Password.File, "--no-cache", "backup", "--stdin")
	in, err := c.StdinPipe() // restic waits for its end
	require.NoError(t, err)
	defer in.Close()
	made := func() int { // without the file that becomes a lock
		t.Helper()
		list, err := filepath.Glob(filepath.Join(o.URL, "locks", strings.Repeat("[0-9a-f]", 64)))
		require.NoError(t, err)
		return len(list)
	}
	before := made()
	require.NoError(t, c.Start())
	for end := time.Now().Add(time.Minute); made() == before && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	require.NoError(t, c.Process.Kill())
	_ = c.Wait()
}

// A run that was killed leaves its lock, which has the name of the node. The next prune removes it. The lock of a host
// with the same host name stays: its process can run.
func TestPruneAfterKilledRun(t *testing.T) {
	o := options(t)
	r := initialized(t, o)
	require.NoError(t, r.Prune(t.Context()))
	name := lockName(t, o)
	leaveLock(t, o, name)
	leaveLock(t, o, name)
	require.NoError(t, r.Prune(t.Context()))
	if n := locks(t, o); n != 0 {
		t.Errorf("got %d locks after the prune", n)
	}
	host, err := os.Hostname()
	require.NoError(t, err)
	leaveLock(t, o, host)
	refused(t, r.Prune(t.Context()), dataset.ErrInUse, " of host "+host)
	if n := locks(t, o); n != 1 {
		t.Errorf("got %d locks after the refused prune", n)
	}
}

// Each run of restic sees the host name of the node's locks. The runs of two nodes with the same host name differ.
func TestLocksNameTheNode(t *testing.T) {
	host, err := os.Hostname()
	require.NoError(t, err)
	a, b := options(t), options(t)
	first := lockName(t, a)
	if first != lockName(t, a) || first == lockName(t, b) || !strings.HasPrefix(first, host[:min(len(host), 8)]) {
		t.Errorf("restic saw %s on host %s", first, host)
	}
	file := filepath.Join(ownCache(a), "lock-host")
	digits, err := os.ReadFile(file)
	require.NoError(t, err)
	require.NoError(t, os.Rename(file, file+"-original")) // the inode stays in use
	write(t, file, string(digits))
	if copied := lockName(t, a); copied == first || copied[:len(digits)] != string(digits) {
		t.Errorf("restic saw %s in a copy of the folder, and %s in the original", copied, first)
	}
	write(t, file, "")
	if lockName(t, a) == "" {
		t.Error("no name with a damaged file")
	}
}

// If the memory is full, the kernel ends restic first: its repository decides how much it takes.
func TestResticIsEndedFirst(t *testing.T) {
	fake(t, "for i in $(seq 100); do [ $(cat /proc/$$/oom_score_adj) = 1000 ] && exit; sleep 0.1; done; exit 1\n")
	require.NoError(t, open(t, options(t)).Check(t.Context(), 0))
	require.NoError(t, open(t, options(t)).Remove(t.Context(), strings.Repeat("5f", 32)))
}

// A check of a large repository may write more than the runner keeps. Only a backup reports its progress.
func TestLongOutputIsNoFailure(t *testing.T) {
	fake(t, `[ -z "$RESTIC_PROGRESS_FPS" ] || exit 1; head -c 5000000 /dev/zero`+"\n")
	r := open(t, options(t))
	require.NoError(t, r.Check(t.Context(), 0))
	require.NoError(t, r.Prune(t.Context()))
}

// The end of a long line is cut off. The rest has no part of the password.
func TestCutTextHasNoPartOfThePassword(t *testing.T) {
	before := strings.Repeat("x", 125) // the text is cut after 137 bytes
	fake(t, "echo 'Fatal: "+before+password+" is wrong' >&2; exit 1\n")
	_, err := open(t, options(t)).Stat(t.Context())
	refused(t, err, dataset.ErrInternal, before+"[left out] ")
	if strings.Contains(fmt.Sprint(err), password[:5]) {
		t.Errorf("got %v", err)
	}
}

// restic accepts words such as latest, and any unique first digits of an ID.
func TestOnlyIDsNameBackups(t *testing.T) {
	r, dir := initialized(t, options(t)), source(t)
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: dir, Names: names()})
	require.NoError(t, err)
	for _, id := range []string{"latest", "", b.ID[:7], b.ID[:9], strings.ToUpper(b.ID) + "G", b.ID + ":data"} {
		refused(t, r.Restore(t.Context(), id, t.TempDir()), dataset.ErrInvalid, "bad ID of a backup")
		refused(t, r.Remove(t.Context(), id), dataset.ErrInvalid, "bad ID of a backup")
	}
	_, _, err = r.Backup(t.Context(), restic.Request{Dir: dir, Names: names(), Parent: "latest"})
	refused(t, err, dataset.ErrInvalid, "bad ID of a backup")
	target := t.TempDir()
	require.NoError(t, r.Restore(t.Context(), b.ID[:8], target))
	if got, err := os.ReadFile(filepath.Join(target, "data", "a")); err != nil || string(got) != "content of a" {
		t.Errorf("got %q, %v", got, err)
	}
}

// restic 0.15 and later restore zeros as holes. The same arguments would make restic 0.14 fail. A comparison uses an empty
// cache, because the cache of the host can have data that the repository has lost.
func TestSparseRestore(t *testing.T) {
	for version, want := range map[string]bool{"0.14.0": false, "0.15.0": true, "0.18.1": true, "1.0.0": true} {
		bin := t.TempDir()
		write(t, filepath.Join(bin, "restic"), fmt.Sprintf("#!/bin/sh\necho restic %s\ncat >/dev/null\necho $* >>%s/args\n",
			version, bin))
		require.NoError(t, os.Chmod(filepath.Join(bin, "restic"), 0o700))
		t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
		r := open(t, options(t))
		const id = "0123abcd"
		require.NoError(t, r.Restore(t.Context(), id, "/to"))
		require.NoError(t, r.RestoreFolder(t.Context(), id, "data", "/to", true))
		args, err := os.ReadFile(filepath.Join(bin, "args"))
		require.NoError(t, err)
		restores := 0
		for line := range strings.Lines(string(args)) {
			if !strings.Contains(line, " restore ") {
				continue
			}
			restores++
			if strings.Contains(line, " --sparse") != want || strings.Contains(line, "/empty-") != (restores == 2) {
				t.Errorf("restic %s got the arguments %q", version, line)
			}
		}
		if restores != 2 {
			t.Errorf("restic %s ran %d restores: %q", version, restores, args)
		}
	}
}

// A malformed backup hides no other one.
func TestMalformedBackupHidesNoOther(t *testing.T) {
	fake(t, `echo '[{"id":"11","tags":"no list"},{"id":"22","time":"2026-01-02T03:04:05Z"}]'`+"\n")
	list, err := open(t, options(t)).Backups(t.Context())
	refused(t, err, dataset.ErrCorrupt, "a backup is malformed")
	if len(list) != 1 || list[0].ID != "22" {
		t.Errorf("got %+v", list)
	}
}
