package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// An export succeeds if the archive lacks the sockets of the volume. One line reports the missing sockets, whatever
// their names are.
func TestExportSaysWhatItLacks(t *testing.T) {
	for name, c := range map[string]struct {
		lacks api.OmittedFiles
		want  string
	}{
		"nothing": {},
		"one": {api.OmittedFiles{Count: 1, First: []string{"mysql.sock"}}, "drover: 1 socket was left out of the " +
			"archive, because tar does not support sockets: mysql.sock\n"},
		"many": {api.OmittedFiles{Count: 5, First: []string{"a", "b\n\x1b[2J", "c"}},
			`drover: 5 sockets were left out of the archive, because tar does not support sockets: a, b\n\x1b[2J, c and 2 more
`},
	} {
		t.Run(name, func(t *testing.T) {
			con := newConsole(&fake{data: "tar", leftOut: c.lacks})
			code := con.run(t, "volume", "export", "db")
			if code != 0 || con.err.String() != c.want || !strings.HasPrefix(con.out.String(), "tar") {
				t.Errorf("exit %d, out %q, err %q; want %q", code, con.out.String(), con.err.String(), c.want)
			}
		})
	}
}

// TestExportToFile: the file has the archive when it is complete. A failed export leaves no file, and no file is
// replaced.
func TestExportToFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.tar")
	failed := newConsole(&fake{data: "tar", fail: map[string]error{"Export": dataset.Errorf(dataset.ErrOffline, "away")}})
	if code := failed.run(t, "volume", "export", "db", "-o", file); code != 1 {
		t.Errorf("exit %d, %s", code, failed.err.String())
	}
	if left, err := os.ReadDir(filepath.Dir(file)); err != nil || len(left) > 0 {
		t.Errorf("a failed export left %v, %v", left, err)
	}
	con := newConsole(&fake{data: "tar"})
	code := con.run(t, "volume", "export", "db", "--output", file)
	b, err := os.ReadFile(file)
	if want := "exported volume db to " + file + ": 3B\n"; code != 0 || err != nil || string(b) != "tar" || con.out.String() != want {
		t.Errorf("exit %d, out %q, err %q, file %q, %v", code, con.out.String(), con.err.String(), b, err)
	}
	again := newConsole(&fake{data: "other"})
	if code := again.run(t, "volume", "export", "db", "-o", file); code != 1 ||
		!strings.Contains(again.err.String(), "exists: a new export overwrites nothing (choose another name)") {
		t.Errorf("exit %d, %s", code, again.err.String())
	}
	if code := con.run(t, "volume", "export", "db", "-o", "-"); code != 0 || !strings.HasSuffix(con.out.String(), "tar") {
		t.Errorf("to standard output: exit %d, out %q", code, con.out.String())
	}
	if code := con.run(t, "volume", "export", "db", "-o", "db.tar.gz"); code != 2 ||
		!strings.Contains(con.err.String(), "drover volume export db | gzip > db.tar.gz") {
		t.Errorf("exit %d, %s", code, con.err.String())
	}
}

// TestImportFromArchive: the name of a tar archive of this host is enough, and the archive is sent as with --from -.
func TestImportFromArchive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db.tar")
	if err := os.WriteFile(file, []byte("tar"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := theWorld()
	con := newConsole(f)
	code := con.run(t, "volume", "import", "db@gold", "--from", file)
	if code != 0 || len(f.asked) != 1 || !strings.Contains(f.asked[0], `"db@gold"} "3 bytes"`) {
		t.Errorf("exit %d, requests %q, err %q", code, f.asked, con.err.String())
	}
	if code := con.run(t, "volume", "import", "db@gold", "--from", file, "--detach"); code != 2 {
		t.Errorf("a detached import of an archive: exit %d", code)
	}
}
