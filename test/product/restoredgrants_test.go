package product_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/tree/treetest"
)

// TestRemovedGrantAfterStoreRestored: the store of a single host is restored from a backup of before the removal of a
// grant, and nothing else was changed in between. No token is accepted until the store is rebuilt. The rebuild says which
// grants it removes, or keeps them.
func TestRemovedGrantAfterStoreRestored(t *testing.T) {
	o := startOthers(t)
	o.grant(t, "ann", "--push")
	o.grant(t, "bob", "--push")
	put(t, filepath.Join(o.root, "data"), treetest.Bytes(7, 1<<20))
	o.client.Must(t, "push", "db", "ann")
	backup := filepath.Join(o.server.Dir, "backup.db")
	restore := func() {
		t.Helper()
		o.server.Stop(t)
		old, err := os.ReadFile(backup)
		if err == nil {
			err = os.WriteFile(filepath.Join(o.server.Root, "store.db"), old, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		o.server.Up(t)
	}
	refused := func(remote, want string) {
		t.Helper()
		res := o.client.Exec(t, "remote", "ls", remote)
		if res.Exit != 1 || !strings.Contains(res.Err, want) {
			t.Errorf("remote %s: exit %d, %q, want %q", remote, res.Exit, res.Err, want)
		}
	}
	o.server.Must(t, "store", "backup", backup)
	o.server.Must(t, "remote", "grant", "rm", "ann", "--yes")

	restore()
	refused("ann", "503 Service Unavailable")
	if r := o.server.Exec(t, "doctor"); r.Exit == 0 || !strings.Contains(r.Out, "drover store rebuild") {
		t.Errorf("doctor: exit %d\n%s", r.Exit, r.Out)
	}
	if r := o.server.Exec(t, "remote", "grant", "ls"); r.Exit != 1 || !strings.Contains(r.Err, "drover store rebuild") {
		t.Errorf("remote grant ls: exit %d, %q", r.Exit, r.Err)
	}
	if out := o.server.Must(t, "store", "rebuild", "--dry-run"); !strings.Contains(out, "the backup: ann, bob (--keep-grants keeps them)") {
		t.Errorf("the dry run says %q", out)
	}
	if out := o.server.Must(t, "store", "rebuild"); !strings.Contains(out, "removed grants for other clusters") || !strings.Contains(out, ": ann, bob (create them again") {
		t.Errorf("the rebuild says %q", out)
	}
	if out := o.server.Must(t, "remote", "grant", "ls", "-q"); out != "" {
		t.Errorf("the grants are %q", out)
	}
	time.Sleep(4 * time.Second) // the server reads the grants every 3 seconds
	refused("ann", "it does not accept the token")
	o.server.Restart(t)
	refused("ann", "it does not accept the token")
	if r := o.server.Exec(t, "doctor"); strings.Contains(r.Out, "drover store rebuild") {
		t.Errorf("doctor after the rebuild:\n%s", r.Out)
	}

	restore()
	if out := o.server.Must(t, "store", "rebuild", "--keep-grants"); strings.Contains(out, "grants") {
		t.Errorf("the rebuild says %q", out)
	}
	time.Sleep(4 * time.Second) // the server reads the grants every 3 seconds
	o.client.Must(t, "remote", "ls", "bob")
}
