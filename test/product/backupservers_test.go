package product_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/internal/tree"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/backupserver"
	"github.com/droverhq/drover/test/host"
)

// remote is a host with a volume db in use, and a repository on a server.
type remote struct {
	*host.Host
	server *backupserver.Server
	root   string // the mount point of db
	secret string // the path of the password
}

// startRemote starts a host that uses a server, and adds the repository offsite there.
func startRemote(t *testing.T, s *backupserver.Server) *remote {
	t.Helper()
	const profiles = `default: plain
profiles:
  plain: {}
  nightly: {backup: {to: offsite, schedule: "0 2 * * *"}}
`
	r := &remote{Host: host.Start(t, host.Options{Size: 2 << 30, Profiles: profiles, Env: s.Env}), server: s}
	r.secret = filepath.Join(r.Dir, "password")
	writePassword(t, r.secret, "correct horse battery staple")
	plug := r.Plug(t)
	if err := plug.Create("db", nil); err != nil {
		t.Fatal(err)
	}
	var err error
	if r.root, err = plug.Mount("db", "user"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := plug.Unmount("db", "user"); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	wantOutput(t, r.add(t), "made repository ", "added repository offsite\n")
	return r
}

// add adds the repository under the name offsite.
func (r *remote) add(t *testing.T) host.Result {
	t.Helper()
	args := []string{"repository", "add", "offsite", r.server.URL, "--password", "file:" + r.secret, "--store-records=false"}
	if r.server.CredentialsFile != "" {
		args = append(args, "--credentials-file", r.server.CredentialsFile)
	}
	return r.Exec(t, args...)
}

// fails fails unless a command fails with one line that begins as given, contains the texts, and has no secret.
func (r *remote) fails(t *testing.T, command, begin string, texts ...string) {
	t.Helper()
	res := r.Exec(t, strings.Fields(command)...)
	if res.Exit != 1 || !strings.HasPrefix(res.Err, begin) || strings.Count(res.Err, "\n") != 1 {
		t.Errorf("%s: exit %d, %q, want one line that begins with %q", command, res.Exit, res.Err, begin)
	}
	for _, text := range texts {
		if !strings.Contains(res.Err, text) {
			t.Errorf("%s: got %q, want %q in it", command, res.Err, text)
		}
	}
	for _, secret := range []string{"correct horse", "a secret of the test"} {
		if strings.Contains(res.Out+res.Err+r.Log(), secret) {
			t.Errorf("%s: the output or the log has a secret: %q", command, res.Err)
		}
	}
}

// valid fails unless all data of the repository can be read.
func (r *remote) valid(t *testing.T) {
	t.Helper()
	wantOutput(t, r.Exec(t, "repository", "check", "offsite", "--read-data", "100"), "repository offsite (",
		"): no data is missing, and 100% of the data was read without errors\n")
}

// TestBackupServers makes, lists, restores, verifies and removes backups on each kind of server. In the short form, the
// servers besides S3 only store, read and remove a backup.
func TestBackupServers(t *testing.T) {
	for name, start := range map[string]func(testing.TB) *backupserver.Server{
		"s3": backupserver.S3, "rest": backupserver.REST, "sftp": backupserver.SFTP,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRemote(t, start(t))
			treetest.Plant(t, r.root, treetest.Sparse) // restic reads holes
			if name == "s3" || long.Enabled() {
				testServer(t, r)
				return
			}
			r.Must(t, "backup", "create", "db")
			r.valid(t)
			r.Must(t, "backup", "rm", r.Must(t, "backup", "ls", "db", "-q"), "--yes")
			if got := r.Must(t, "backup", "ls", "db", "-q"); got != "" {
				t.Errorf("the backups are %q after their removal", got)
			}
		})
	}
}

// testServer makes two backups, restores and verifies the second one, and removes the first one.
func testServer(t *testing.T, r *remote) {
	t.Helper()
	for _, what := range []string{"first", "second"} {
		put(t, filepath.Join(r.root, what), treetest.Bytes(3, 4<<20))
		r.Must(t, "backup", "create", "db")
	}
	ids := strings.Fields(r.Must(t, "backup", "ls", "db", "-q"))
	if len(ids) != 2 {
		t.Fatalf("the backups are %q", ids)
	}
	var last dataset.Operation
	var ops []dataset.Operation
	r.JSON(t, &ops, "operation", "ls")
	for _, op := range ops {
		if op.Kind == dataset.OpBackup && op.Created.After(last.Created) {
			last = op
		}
	}
	if last.BytesAdded == 0 || last.BytesAdded > 1<<20 {
		t.Errorf("the second backup added %d bytes, want less than 1 MiB: its only new file has the bytes of another",
			last.BytesAdded)
	}
	r.Must(t, "backup", "restore", ids[1], "copy")
	plug := r.Plug(t)
	copied, err := plug.Mount("copy", "user")
	if err != nil {
		t.Fatal(err)
	}
	if found := differences(t, r.root, copied); len(found) > 0 {
		t.Errorf("the restored files differ: %v", found)
	}
	if err := plug.Unmount("copy", "user"); err != nil {
		t.Fatal(err)
	}
	r.Must(t, "backup", "verify", "db")
	r.Must(t, "backup", "rm", ids[0], "--yes")
	r.Must(t, "backup", "prune")
	r.valid(t)
	if got := r.Must(t, "backup", "ls", "db", "-q"); got != ids[1] {
		t.Errorf("the backups are %q, want %s", got, ids[1])
	}
}

// differences compares two trees without the properties that restic does not store: see restic.Repository.Backup.
func differences(t *testing.T, a, b string) (found []tree.Difference) {
	t.Helper()
	roots := make([]*os.File, 2)
	for i, at := range []string{a, b} {
		f, err := os.Open(at)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		roots[i] = f
	}
	all, err := tree.Compare(t.Context(), roots[0], roots[1])
	if err != nil {
		t.Fatal(err)
	}
	lost := []string{"links/fifo-too", "links/symlink-too", "symlink-dangling", "symlink-odd"}
	for _, d := range all {
		if !strings.Contains(d.Path, "socket") && !slices.Contains(lost, d.Path) {
			found = append(found, d)
		}
	}
	return found
}

// TestBackupServerFails: each fault of a server of repositories fails the backup with its reason, and leaves no backup
// and a valid repository. The next backup after the fault succeeds.
func TestBackupServerFails(t *testing.T) {
	long.Only(t) // restic repeats failed requests, with pauses
	r := startRemote(t, backupserver.S3(t))
	put(t, filepath.Join(r.root, "old"), treetest.Bytes(1, 4<<20))
	r.Must(t, "backup", "create", "db")
	created := 1
	const begin = "drover: backup of volume db to offsite: repository "
	check := func(t *testing.T) {
		t.Helper()
		r.server.Fail(nil)
		r.Must(t, "backup", "create", "db", "-q")
		created++
		if got := strings.Fields(r.Must(t, "backup", "ls", "db", "-q")); len(got) != created {
			t.Errorf("there are %d backups, want %d", len(got), created)
		}
		if left, err := filepath.Glob(filepath.Join(r.Root, "backups", "*")); err != nil || len(left) > 0 {
			t.Errorf("left: %v, %v", left, err)
		}
	}
	// refuse makes the server refuse uploads of data after the first n ones.
	refuse := func(n int64, status int, code, message string) {
		var uploads atomic.Int64
		r.server.Fail(func(w http.ResponseWriter, req *http.Request) bool {
			if req.Method != http.MethodPut || !strings.Contains(req.URL.Path, "/data/") || uploads.Add(1) <= n {
				return false
			}
			return backupserver.S3Error(w, status, code, message)
		})
	}
	write := func(t *testing.T, seed uint64) {
		t.Helper()
		put(t, filepath.Join(r.root, fmt.Sprint("new", seed)), treetest.Bytes(seed, 48<<20))
	}
	t.Run("Keys", func(t *testing.T) {
		r.server.SetKeys(t, "drover", "another secret")
		r.fails(t, "backup create db -q", begin, "it refuses the access (check the credentials)")
		r.server.RestoreKeys(t)
		check(t)
	})
	t.Run("KeysExpireInTheMiddle", func(t *testing.T) {
		write(t, 10)
		refuse(1, http.StatusForbidden, "ExpiredToken", "The provided token has expired.")
		r.fails(t, "backup create db -q", begin, "it refuses the access (check the credentials)", "has expired")
		check(t)
	})
	t.Run("Full", func(t *testing.T) {
		write(t, 20)
		refuse(1, http.StatusInsufficientStorage, "QuotaExceeded", "no space left on device")
		r.fails(t, "backup create db -q", begin, "it has no space left (make space, or remove old backups)")
		check(t)
	})
	t.Run("Clock", func(t *testing.T) {
		r.server.Fail(func(w http.ResponseWriter, _ *http.Request) bool {
			return backupserver.S3Error(w, http.StatusForbidden, "RequestTimeTooSkewed",
				"The difference between the request time and the server's time is too large.")
		})
		r.fails(t, "backup create db -q", begin, "its clock and that of this node differ (set both)")
		check(t)
	})
	t.Run("Bucket", func(t *testing.T) {
		absent := strings.Replace(r.server.URL, "/backups/", "/absent/", 1)
		r.fails(t, "repository add other "+absent+" --password file:"+r.secret+" --credentials-file "+
			r.server.CredentialsFile, "drover: repository "+absent, "the bucket does not exist (create it, or correct the URL)")
	})
	t.Run("Certificate", func(t *testing.T) {
		untrusted := backupserver.S3(t) // its certificate is of another authority
		r.fails(t, "repository add other "+untrusted.URL+" --password file:"+r.secret+" --credentials-file "+
			untrusted.CredentialsFile, "drover: repository "+untrusted.URL, "its certificate is not trusted")
	})
	t.Run("Slow", func(t *testing.T) {
		write(t, 30)
		reached := make(chan struct{}, 1000)
		r.server.Fail(func(_ http.ResponseWriter, req *http.Request) bool {
			if req.Method == http.MethodPut && strings.Contains(req.URL.Path, "/data/") {
				reached <- struct{}{}
				// Answers nothing. The context ends with the connection only if the body was read.
				_, _ = io.Copy(io.Discard, req.Body)
				<-req.Context().Done()
				panic(http.ErrAbortHandler)
			}
			return false
		})
		op := r.Must(t, "backup", "create", "db", "--detach")
		<-reached
		r.Must(t, "operation", "cancel", op)
		r.fails(t, "operation inspect --wait "+op, "drover: ", "cancel")
		check(t)
	})
	t.Run("Away", func(t *testing.T) {
		r.server.Stop(t)
		r.server.Fail(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
		r.fails(t, "backup create db -q", begin)
		r.fails(t, "backup ls", "drover: ")
		r.server.Start(t)
		check(t)
	})
	r.valid(t)
}

// TestLostPackIsNamed: if a pack of a repository is deleted, a check names it. A verification names the backup, with
// its volume and time, and another volume is not concerned.
func TestLostPackIsNamed(t *testing.T) {
	long.Only(t) // restic repeats failed requests, with pauses
	r := startRemote(t, backupserver.REST(t))
	put(t, filepath.Join(r.root, "file"), treetest.Bytes(1, 8<<20))
	r.Must(t, "backup", "create", "db")
	packs := func() (all []string) {
		all, err := filepath.Glob(filepath.Join(r.server.Data, "drover", "data", "*", "*"))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	lost := packs()
	plug := r.Plug(t)
	if err := plug.Create("web", nil); err != nil {
		t.Fatal(err)
	}
	root, err := plug.Mount("web", "user")
	if err != nil {
		t.Fatal(err)
	}
	put(t, filepath.Join(root, "file"), treetest.Bytes(2, 8<<20))
	r.Must(t, "backup", "create", "web")
	var largest string
	var size int64
	for _, p := range lost {
		info, err := os.Stat(p)
		if err != nil {
			t.Fatal(err)
		}
		if info.Size() > size {
			largest, size = p, info.Size()
		}
	}
	if err := os.Remove(largest); err != nil {
		t.Fatal(err)
	}
	r.fails(t, "repository check offsite", "drover: repository ", "pack "+filepath.Base(largest)+" is missing")
	var list []map[string]any
	if err := json.Unmarshal([]byte(r.Must(t, "backup", "ls", "db", "-o", "json")), &list); err != nil || len(list) != 1 {
		t.Fatalf("the backups are %v, %v", list, err)
	}
	r.fails(t, "backup verify db", "drover: ", "backup "+fmt.Sprint(list[0]["id"])[:8], "of volume db, taken ")
	if got := r.Must(t, "backup", "verify", "web"); !strings.Contains(got, "of volume web") {
		t.Errorf("got %q", got)
	}
	if err := plug.Unmount("web", "user"); err != nil {
		t.Fatal(err)
	}
}

// TestScheduleCatchesUp: the server is away for hours, while several scheduled backups of a volume are due. status
// names the volume then. After the return, one backup makes up for all.
func TestScheduleCatchesUp(t *testing.T) {
	long.Only(t) // a failed backup is repeated after a minute
	r := startRemote(t, backupserver.S3(t))
	if err := r.Plug(t).Create("night@nightly", nil); err != nil {
		t.Fatal(err)
	}
	r.server.Fail(func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) })
	r.SetClock(t, 72*time.Hour)
	awaitLong(t, "status names the late backup", func() error {
		if res := r.Exec(t, "status"); res.Exit != 1 || !strings.Contains(res.Out, "backup") {
			return fmt.Errorf("exit %d: %s", res.Exit, res.Out)
		}
		return nil
	})
	r.server.Fail(nil)
	awaitLong(t, "the backup", func() error {
		if got := bytes.Fields([]byte(r.Exec(t, "backup", "ls", "night", "-q").Out)); len(got) != 1 {
			return fmt.Errorf("there are %d backups", len(got))
		}
		return nil
	})
	awaitLong(t, "status is quiet", func() error {
		if res := r.Exec(t, "status"); strings.Contains(res.Out, "backup") {
			return fmt.Errorf("exit %d: %s", res.Exit, res.Out)
		}
		return nil
	})
}
