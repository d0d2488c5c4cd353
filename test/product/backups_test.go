package product_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/internal/tree/treetest"
	"github.com/droverhq/drover/test/host"
)

// TestBackups: volumes in use are backed up to the only repository. A second backup adds only what has changed. A
// backup that cannot reach the repository fails with the reason, and leaves nothing.
func TestBackups(t *testing.T) {
	h := host.Start(t, host.Options{Size: 4 << 30, Profiles: "default: plain\nprofiles:\n  plain: {}\n"})
	at, secret := filepath.Join(h.Dir, "repository"), filepath.Join(h.Dir, "password")
	writePassword(t, secret, "correct horse battery staple")
	wantError(t, h.Exec(t, "backup", "create", "db"), `drover: no such volume: "db" (drover volume ls lists the volumes)`)
	plug := h.Plug(t)
	roots := map[string]string{}
	for _, name := range []string{"db", "web"} {
		if err := plug.Create(name, nil); err != nil {
			t.Fatal(err)
		}
		root, err := plug.Mount(name, "user")
		if err != nil {
			t.Fatal(err)
		}
		roots[name] = root
	}
	wantError(t, h.Exec(t, "backup", "create", "db"),
		"drover: backup of volume db: no repository is recorded (drover repository add)")
	h.Must(t, "repository", "add", "offsite", at, "--password", "file:"+secret)
	const size = 8 << 20
	large := treetest.Bytes(1, size)
	put(t, filepath.Join(roots["db"], "large"), large)
	put(t, filepath.Join(roots["web"], "large"), treetest.Bytes(2, 1<<20))
	line := `backed up volume (db|web) to offsite: [0-9a-f]{8} \([0-9.]+[KM]iB added\)`
	if got := h.Must(t, "backup", "create", "db", "web"); !regexp.MustCompile("^" + line + "\n" + line + "$").MatchString(got) {
		t.Errorf("got %q", got)
	}
	put(t, filepath.Join(roots["db"], "small"), []byte("second"))
	op := h.Must(t, "backup", "create", "db", "--to", "offsite", "--detach")
	h.Must(t, "operation", "watch", op)
	var done []dataset.Operation
	if err := json.Unmarshal([]byte("["+h.Must(t, "operation", "inspect", op, "-o", "json")+"]"), &done); err != nil {
		t.Fatal(err)
	}
	if done[0].State != dataset.OpDone || done[0].BytesAdded > size/8 || len(done[0].Backup) != 64 {
		t.Errorf("the second backup is %+v", done[0])
	}
	r, err := restic.New(t.Context(), &run.System{}, restic.Options{
		URL: at, Password: dataset.PasswordSource{File: secret}, CacheDir: filepath.Join(h.Dir, "cache"),
	})
	if err != nil {
		t.Fatal(err)
	}
	into := t.TempDir()
	if err := r.Restore(t.Context(), done[0].Backup, into); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string][]byte{"large": large, "small": []byte("second")} {
		if got, err := os.ReadFile(filepath.Join(into, "data", name)); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s of the backup has %d bytes, %v, want %d", name, len(got), err, len(want))
		}
	}
	rename(t, at, at+".away")
	wantError(t, h.Exec(t, "backup", "create", "db", "-q"), "drover: backup of volume db to offsite: repository "+at+
		": there is no repository (mount its disk, or add the repository with the right URL under another name)")
	rename(t, at+".away", at)
	if err := plug.Unmount("web", "user"); err != nil {
		t.Fatal(err)
	}
	if err := plug.Unmount("db", "user"); err != nil {
		t.Fatal(err)
	}
	if left, err := filepath.Glob(filepath.Join(h.Root, "backups", "*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	h.Clean(t)
}

func put(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}
