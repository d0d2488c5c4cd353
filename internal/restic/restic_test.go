package restic_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/restic/restictest"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/require"
)

// TestMain keeps the files of the tests in memory. On a disk, the tests take ten times as long, because restic
// runs at idle I/O priority and waits for all other I/O.
func TestMain(m *testing.M) { os.Exit(scratch.MainInMemory(m)) }

const password = "correct horse battery staple"

func write(t *testing.T, path, content string) string {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o700))
	require.NoError(t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// options returns the options of a repository in an empty folder.
func options(t *testing.T) restic.Options {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "repository"), 0o700))
	return restic.Options{
		URL:      filepath.Join(dir, "repository"),
		Password: dataset.PasswordSource{File: write(t, filepath.Join(dir, "password"), password+"\n")},
		CacheDir: filepath.Join(dir, "cache"),
	}
}

func open(t *testing.T, o restic.Options) *restic.Repository {
	t.Helper()
	r, err := restic.New(t.Context(), &run.System{}, o)
	require.NoError(t, err)
	return r
}

// initialized returns a new repository.
func initialized(t *testing.T, o restic.Options) *restic.Repository {
	t.Helper()
	restictest.Make(t, o.URL, password)
	return open(t, o)
}

// source returns a folder with a tree in data and a file beside it.
func source(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	write(t, filepath.Join(dir, "data", "a"), "content of a")
	write(t, filepath.Join(dir, "record.json"), "{}")
	return dir
}

func names() []string { return []string{"data", "record.json"} }

// refused checks the kind of an error, that its only line contains want, and that it has no secret.
func refused(t *testing.T, err error, kind *dataset.Kind, want string) {
	t.Helper()
	if err == nil || dataset.KindOf(err) != kind || !strings.Contains(err.Error(), want) ||
		strings.Contains(err.Error(), "\n") || strings.Contains(err.Error(), password) {
		t.Errorf("got %v (%v), want %v: %s", err, dataset.KindOf(err), kind, want)
	}
}

func TestRepositoryIsMadeOnce(t *testing.T) {
	o := options(t)
	require.NoError(t, os.Remove(o.URL))
	r := open(t, o)
	_, err := r.Stat(t.Context())
	refused(t, err, dataset.ErrNotFound, "repository "+o.URL+": there is no repository")
	made, err := r.Init(t.Context())
	if err != nil || len(made.ID) != 64 || made.Format < 1 {
		t.Fatalf("got %+v, %v", made, err)
	}
	if again, err := open(t, o).Stat(t.Context()); err != nil || again != made {
		t.Errorf("got %+v, %v, want %+v", again, err, made)
	}
	_, err = r.Init(t.Context())
	refused(t, err, dataset.ErrExists, "a repository exists there already")
	write(t, o.Password.File, "another password")
	_, err = r.Stat(t.Context())
	refused(t, err, dataset.ErrForbidden, "the password is wrong")
}

func TestBackupsAreListedAndRemoved(t *testing.T) {
	r, dir := initialized(t, options(t)), source(t)
	ask := restic.Request{Dir: dir, Names: names(), Tags: []string{"drover", "volume=db"}}
	first, s, err := r.Backup(t.Context(), ask)
	require.NoError(t, err)
	if len(first.ID) != 64 || first.Parent != "" || s.Files != 2 || s.Bytes != 14 || s.BytesAdded == 0 {
		t.Errorf("got %+v, %+v", first, s)
	}
	write(t, filepath.Join(dir, "data", "b"), "more")
	ask.Parent, ask.Time = first.ID, time.Now().Add(time.Hour)
	second, s, err := r.Backup(t.Context(), ask)
	require.NoError(t, err)
	if !second.Time.Equal(ask.Time.Truncate(time.Second)) {
		t.Errorf("got the time %s, want %s", second.Time, ask.Time)
	}
	if second.Parent != first.ID || s.Files != 3 {
		t.Errorf("got %+v, %+v, want parent %s", second, s, first.ID)
	}
	ids := func(tags ...string) string {
		t.Helper()
		list, err := r.Backups(t.Context(), tags...)
		require.NoError(t, err)
		var ids []string
		for _, b := range list {
			ids = append(ids, b.ID)
		}
		return strings.Join(ids, " ")
	}
	if got := ids("drover", "volume=db"); got != first.ID+" "+second.ID {
		t.Errorf("got %s", got)
	}
	if got := ids("drover", "volume=other"); got != "" {
		t.Errorf("got %s of another volume", got)
	}
	require.NoError(t, r.Remove(t.Context()))
	require.NoError(t, r.Remove(t.Context(), first.ID))
	require.NoError(t, r.Prune(t.Context()))
	if got := ids(); got != second.ID {
		t.Errorf("got %s after the removal of the first", got)
	}
	if s, err := r.Stats(t.Context()); err != nil || s.Backups != 1 || s.Bytes == 0 {
		t.Errorf("got %+v, %v", s, err)
	}
	require.NoError(t, r.Check(t.Context(), 100))
	err = r.Restore(t.Context(), strings.Repeat("0", 64), t.TempDir())
	refused(t, err, dataset.ErrNotFound, "it has no such backup")
}

// Names, owners, modes, times, attributes, ACLs and hard links are restored as they were.
func TestRestoredTreeIsEqual(t *testing.T) {
	at := scratch.Mount(t, "ext4", scratch.Ext4)
	r, dir, target := initialized(t, options(t)), filepath.Join(at, "dir"), filepath.Join(at, "target")
	data := filepath.Join(dir, "data")
	write(t, filepath.Join(dir, "record.json"), "{}")
	require.NoError(t, os.Mkdir(data, 0o700))
	require.NoError(t, os.Mkdir(target, 0o700))
	// restic reads holes as zeros, which takes too long for terabytes.
	treetest.Plant(t, data, treetest.Sparse)
	// restic does not back up sockets.
	require.NoError(t, filepath.WalkDir(data, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.Type() == os.ModeSocket {
			return os.Remove(path)
		}
		return err
	}))
	require.NoError(t, os.Chmod(data, 0o2751))
	require.NoError(t, os.Chown(data, 5, 6))
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: dir, Names: names()})
	require.NoError(t, err)
	require.NoError(t, r.Restore(t.Context(), b.ID, target))
	want, err := os.Open(dir)
	require.NoError(t, err)
	defer want.Close()
	got, err := os.Open(target)
	require.NoError(t, err)
	defer got.Close()
	var st unix.Stat_t
	require.NoError(t, unix.Fstat(int(want.Fd()), &st))
	require.NoError(t, unix.UtimesNano(target, []unix.Timespec{st.Atim, st.Mtim}))
	found, err := tree.Compare(t.Context(), want, got)
	require.NoError(t, err)
	// What restic 0.14 does not store, as the comment of Backup says.
	lost := []string{
		`"data/links/fifo-too": hard link of`, `"data/links/symlink-too": hard link of`,
		`"data/symlink-dangling": attribute "trusted.symlink"`, `"data/symlink-odd": target`,
	}
	for _, d := range found {
		if !slices.ContainsFunc(lost, func(l string) bool { return strings.HasPrefix(d.String(), l) }) {
			t.Error(d)
		}
	}
}

// The password is in no argument and in no environment variable. The fake records them as other users of the host can
// read them.
func TestPasswordIsNotVisibleToOthers(t *testing.T) {
	o, bin := options(t), t.TempDir()
	o.CredentialsFile = write(t, filepath.Join(bin, "credentials"), "[default]\naws_secret_access_key = visible\n")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "of another purpose")
	require.NoError(t, os.WriteFile(filepath.Join(bin, "restic"), []byte(`#!/bin/sh
case $1 in version) echo restic 0.14.0; exit;; esac
cat /proc/$$/cmdline /proc/$$/environ >`+bin+`/seen
cat >`+bin+`/stdin
echo "Fatal: cannot use $(cat `+bin+`/stdin)" >&2
exit 1
`), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	_, err := open(t, o).Stat(t.Context())
	refused(t, err, dataset.ErrInternal, "restic failed with exit status 1: cannot use [left out]")
	stdin, err := os.ReadFile(filepath.Join(bin, "stdin"))
	if err != nil || string(stdin) != password+"\n" {
		t.Fatalf("got standard input %q, %v", stdin, err)
	}
	seen, err := os.ReadFile(filepath.Join(bin, "seen"))
	if err != nil || strings.Contains(string(seen), password) || strings.Contains(string(seen), "visible") ||
		strings.Contains(string(seen), "of another purpose") {
		t.Errorf("others can read %q, %v", seen, err)
	}
	if !strings.Contains(string(seen), "AWS_SHARED_CREDENTIALS_FILE="+o.CredentialsFile) {
		t.Errorf("the credentials file is missing in %q", seen)
	}
	require.NoError(t, os.Chmod(o.CredentialsFile, 0o644))
	_, err = open(t, o).Stat(t.Context())
	refused(t, err, dataset.ErrForbidden, "chmod 600 "+o.CredentialsFile)
}

func TestVersion(t *testing.T) {
	bin := t.TempDir()
	t.Setenv("PATH", bin+":/usr/bin:/bin")
	for version, want := range map[string]string{
		"restic 0.12.1 compiled with go1.19": "this node has restic 0.12.1, and backups need restic 0.14.0 or later " +
			"(install the package restic of Debian 12 or later)",
		"restic 0.14.0 compiled with go1.19.8 on linux/amd64": "",
		"restic 0.18.1":         "",
		"restic 1.0":            "",
		"another program":       `reports no version: "another program"`,
		"restic of development": "reports no version",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(bin, "restic"), []byte("#!/bin/sh\necho "+version+"\n"), 0o700))
		_, err := restic.New(t.Context(), &run.System{}, options(t))
		if want == "" {
			require.NoError(t, err)
			continue
		}
		refused(t, err, dataset.ErrUnsupported, want)
	}
	t.Setenv("PATH", t.TempDir())
	_, err := restic.New(t.Context(), &run.System{}, options(t))
	refused(t, err, dataset.ErrUnsupported, "not installed on this node (install Debian's package restic)")
}

// locks counts the locks of a repository in a folder.
func locks(t *testing.T, o restic.Options) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join(o.URL, "locks"))
	require.NoError(t, err)
	return len(list)
}

// slow returns a repository, and a request whose backup takes hours.
func slow(t *testing.T) (restic.Options, *restic.Repository, restic.Request) {
	t.Helper()
	o, dir := options(t), source(t)
	initialized(t, o)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "large"), treetest.Bytes(1, 4<<20), 0o600))
	o.MaxUpload = 1 << 10
	return o, open(t, o), restic.Request{Dir: dir, Names: names()}
}

// A cancelled backup removes its lock.
func TestCancelRemovesTheLock(t *testing.T) {
	o, r, ask := slow(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("the user cancelled it")
	var during int
	ask.Progress = func(restic.Progress) {
		if during == 0 {
			during = locks(t, o)
		}
		cancel(cause)
	}
	_, _, err := r.Backup(ctx, ask)
	if !errors.Is(err, context.Canceled) && !errors.Is(err, cause) {
		t.Fatalf("got %v", err)
	}
	if after := locks(t, o); during != 1 || after != 0 {
		t.Errorf("got %d locks during the backup and %d after it, want 1 and 0", during, after)
	}
}

// child returns the restic that this process started.
func child(t *testing.T) (pid int) {
	t.Helper()
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	require.NoError(t, err)
	for _, path := range stats {
		stat, _ := os.ReadFile(path) // another process may have ended
		if strings.Contains(string(stat), "(restic) ") &&
			strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))[1] == strconv.Itoa(os.Getpid()) {
			_, _ = fmt.Sscan(string(stat), &pid)
			return pid
		}
	}
	t.Error("no restic is running")
	return 0
}

// A killed backup leaves its lock. The next run that needs the repository alone removes it.
func TestLockOfAKilledRunIsRemoved(t *testing.T) {
	o, r, ask := slow(t)
	killed := false
	ask.Progress = func(restic.Progress) {
		if killed {
			return
		}
		// Another run is refused while the backup runs.
		refused(t, r.Check(t.Context(), 0), dataset.ErrInUse, "it is locked by process ")
		if pid := child(t); pid != 0 {
			require.NoError(t, unix.Kill(pid, unix.SIGKILL))
			killed = true
		}
	}
	_, _, err := r.Backup(t.Context(), ask)
	refused(t, err, dataset.ErrInternal, "restic was ended: signal: killed")
	if n := locks(t, o); n != 1 {
		t.Fatalf("got %d locks after the kill, want 1", n)
	}
	require.NoError(t, r.Check(t.Context(), 0))
	if n := locks(t, o); n != 0 {
		t.Errorf("got %d locks after the check", n)
	}
}

// A backup whose clone takes the space of users is killed: it does not clean up before it ends. Its lock is removed
// afterwards.
func TestBackupIsKilledAtReserve(t *testing.T) {
	o, r, ask := slow(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	ask.Progress = func(restic.Progress) { cancel(dataset.Errorf(dataset.ErrNoSpace, "the pool is full")) }
	_, _, err := r.Backup(ctx, ask)
	if n := locks(t, o); err == nil || n != 1 {
		t.Fatalf("got %d locks after the kill, want 1: %v", n, err)
	}
	r.RemoveKilledLock(t.Context())
	if n := locks(t, o); n != 0 {
		t.Errorf("got %d locks at the end", n)
	}
}

// largestPack returns the file with the most data of a repository in a folder.
func largestPack(t *testing.T, o restic.Options) (path string) {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(o.URL, "data", "*", "*"))
	require.NoError(t, err)
	var most int64
	for _, p := range list {
		info, err := os.Stat(p)
		require.NoError(t, err)
		if info.Size() > most {
			path, most = p, info.Size()
		}
	}
	return path
}

func TestDamageIsNamed(t *testing.T) {
	o, dir := options(t), source(t)
	r := initialized(t, o)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "data", "large"), treetest.Bytes(1, 1<<20), 0o600))
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: dir, Names: names()})
	require.NoError(t, err)
	pack := largestPack(t, o)
	content, err := os.ReadFile(pack)
	require.NoError(t, err)
	for at := 0; at < len(content)/2; at += 1 << 10 {
		content[at] ^= 1
	}
	require.NoError(t, os.Chmod(pack, 0o600))
	require.NoError(t, os.WriteFile(pack, content, 0o600))
	require.NoError(t, r.Check(t.Context(), 0)) // does not read the data
	refused(t, r.Check(t.Context(), 100), dataset.ErrCorrupt, "pack "+filepath.Base(pack)+" is damaged")
	refused(t, r.Restore(t.Context(), b.ID, t.TempDir()), dataset.ErrCorrupt, "its data are damaged")
	require.NoError(t, os.Remove(pack))
	refused(t, r.Check(t.Context(), 0), dataset.ErrCorrupt, "pack "+filepath.Base(pack)+" is missing")
}

func TestRepositoryThatDoesNotAnswer(t *testing.T) {
	o := options(t)
	o.URL = "rest:http://127.0.0.1:1/x"
	_, err := open(t, o).Stat(t.Context())
	refused(t, err, dataset.ErrOffline, "repository rest:http://127.0.0.1:1/x: it does not answer: ")
}

// A backup that lacks a file is an error, and names what is stored.
func TestIncompleteBackup(t *testing.T) {
	r, dir := initialized(t, options(t)), source(t)
	_, _, err := r.Backup(t.Context(), restic.Request{Dir: dir, Names: append(names(), "absent")})
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("absent file: got %v", err)
	}
	self := fmt.Sprintf("/proc/%d", os.Getpid())
	b, _, err := r.Backup(t.Context(), restic.Request{Dir: self, Names: []string{"status", "mem"}})
	refused(t, err, dataset.ErrCorrupt, "a part of the files could not be read: mem: input/output error")
	list, err := r.Backups(t.Context())
	if err != nil || len(list) != 1 || b.ID == "" || !strings.HasPrefix(list[0].ID, b.ID) {
		t.Errorf("got %+v, and the list %v, %v", b, list, err)
	}
	bin := t.TempDir()
	script := "#!/bin/sh\necho can not obtain extended attribute user.a for /file: >&2\nPATH=" + os.Getenv("PATH") + " exec restic \"$@\""
	require.NoError(t, os.WriteFile(bin+"/restic", []byte(script), 0o700))
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	_, _, err = r.Backup(t.Context(), restic.Request{Dir: dir, Names: names()})
	refused(t, err, dataset.ErrCorrupt, "a part of the files could not be read: attribute user.a for /file:")
}

// A run on a server that accepts connections and says nothing is ended, and the error says so.
func TestSilentServer(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close() // the kernel accepts the connections
	o := options(t)
	o.URL, o.StallLimit = "rest:http://"+silent.Addr().String()+"/", 2*time.Second
	var told error
	o.Ended = func(err error) { told = err }
	_, err = open(t, o).Backups(t.Context())
	want := "repository " + o.URL + ": it does not answer: restic neither received nor sent anything for 2s, and was ended"
	if !errors.Is(err, dataset.ErrOffline) || !strings.HasPrefix(err.Error(), want) || !errors.Is(told, dataset.ErrOffline) {
		t.Errorf("got %v, reported %v, want %s", err, told, want)
	}
}

// Lines about the progress are no progress. A run that reads is not ended, although it takes longer than the limit.
func TestProgress(t *testing.T) {
	for script, stalls := range map[string]bool{
		"echo $line; echo $line >&2":             true,
		"while read other; do :; done <$0.input": false,
	} {
		program := filepath.Join(t.TempDir(), "restic")
		line := strings.Repeat("x", 1000) + "\n"
		write(t, program+".input", strings.Repeat(line, 20))
		require.NoError(t, os.WriteFile(program, []byte(`#!/bin/bash
if [ "$1" = version ]; then echo restic 0.14.0; exit; fi
read line <$0.input
mkfifo $0.fifo
exec 3<>$0.fifo # what a program sleep reads would count
for i in {1..30}; do read -t 0.1 -u 3; `+script+`; done
true
`), 0o700))
		t.Setenv("PATH", filepath.Dir(program)+":"+os.Getenv("PATH"))
		o := options(t)
		o.StallLimit = time.Second
		err := open(t, o).Restore(t.Context(), "12345678", t.TempDir())
		if stalled := errors.Is(err, dataset.ErrOffline); stalled != stalls || err != nil != stalls {
			t.Errorf("%s: got %v, want it ended: %t", script, err, stalls)
		}
	}
}

// ownCache returns the folder of a repository's cache.
func ownCache(o restic.Options) string {
	sum := sha256.Sum256([]byte(o.URL))
	return filepath.Join(o.CacheDir, hex.EncodeToString(sum[:8]))
}

// While restic runs, the largest cache of a repository is emptied if all caches together exceed the limit. The others
// stay, and so does a file that restic writes now.
func TestCacheKeepsItsLimit(t *testing.T) {
	o := options(t)
	plant := func(repository, name string, size int64) string {
		t.Helper()
		path := write(t, filepath.Join(o.CacheDir, repository, "index", "5f", name), "")
		require.NoError(t, os.Truncate(path, size))
		return path
	}
	var complete string
	for _, digit := range strings.Split("123456789", "") { // more than the limit on any disk
		complete = plant("large", strings.Repeat(digit, 64), 1000<<20)
	}
	unfinished, small := plant("large", "tmp-1", 1<<20), plant("small", strings.Repeat("5f", 32), 100)
	// restic ends when the cache was emptied, or with a failure after a while.
	fake(t, "i=0; while [ -e "+complete+" ]; do i=$((i+1)); [ $i -lt 100 ] || exit 1; sleep 0.2; done\n")
	require.NoError(t, open(t, o).Check(t.Context(), 0))
	for _, path := range []string{small, unfinished} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

// A repository with a file that would fill the disk with its cache is refused, and the file is removed.
func TestCacheOfHugeFile(t *testing.T) {
	o := options(t)
	path := filepath.Join(ownCache(o), "repository", "tmp-1")
	fake(t, "mkdir -p "+filepath.Dir(path)+"; truncate -s 2G "+path+"; exec sleep 60\n")
	begin := time.Now()
	refused(t, open(t, o).Check(t.Context(), 0), dataset.ErrCorrupt, "it has a file of more than 1 GiB")
	if _, err := os.Stat(path); err == nil {
		t.Error("the file was not removed")
	}
	if took := time.Since(begin); took > 40*time.Second {
		t.Errorf("it took %s", took)
	}
}

// A file that another repository makes restic store ends no run of this one. It stays: a process that still writes it
// would fill the disk where nobody sees it.
func TestCacheOfAnotherRepository(t *testing.T) {
	o := options(t)
	path := write(t, filepath.Join(o.CacheDir, "0123456789abcdef", "repository", "tmp-1"), "")
	require.NoError(t, os.Truncate(path, 2<<30))
	fake(t, "sleep 5\n") // the cache is measured twice meanwhile
	require.NoError(t, open(t, o).Check(t.Context(), 0))
	if _, err := os.Stat(path); err != nil {
		t.Error(err)
	}
}
