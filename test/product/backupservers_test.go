package product_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

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
	r.Plug(t).Within(t, "copy", func(copied string) {
		if found := differences(t, r.root, copied); len(found) > 0 {
			t.Errorf("the restored files differ: %v", found)
		}
	})
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
