package docs

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/test/require"
)

// mariadbFakes has shell scripts that take the place of the programs of MariaDB. The variable MODE makes one of
// them fail.
var mariadbFakes = map[string]string{
	"mariadbd": `for o; do case $o in --socket=*) socket=${o#*=} ;; --log-error=*) log=${o#*=} ;; esac; done
echo "$(id -u) $socket" >"$NOTES/server"
case $MODE in
dies) echo first >"$log"; echo "no space for recovery" >>"$log"; exit 1 ;;
esac
(sleep 1.2; echo >"$socket") &
exec sleep 60`,
	"mariadb-admin": `for o; do case $o in --socket=*) test -s "${o#*=}" || exit 1 ;; esac; done`,
	"mariadb-check": `for o; do case $o in --socket=*) test -s "${o#*=}" || exit 1 ;; esac; done
case $MODE in damaged) echo "t1 is corrupt" ;; killed) kill -9 $$ ;; esac`,
}

// The check program in docs/backups.md opens the volume with the user of the image's files. The volume cannot lead it to
// another server, because the socket is not in the volume. It ends with its server, with the last line of the log.
// MariaDB itself is not needed: other programs take its place.
func TestMariaDBCheckProgram(t *testing.T) {
	must := func(err error) {
		t.Helper()
		require.NoError(t, err)
	}
	dir := t.TempDir()
	bin, notes, volume := filepath.Join(dir, "bin"), filepath.Join(dir, "notes"), filepath.Join(dir, "volume")
	for _, d := range []string{bin, notes, volume} {
		must(os.Mkdir(d, 0o755))
	}
	must(os.Chmod(filepath.Dir(dir), 0o755)) // user 999 must reach the programs
	must(errors.Join(os.Chown(notes, 999, 999), os.Chown(volume, 999, 999)))
	must(os.WriteFile(filepath.Join(dir, "host.sock"), []byte("of the host's own server"), 0o644))
	must(os.Symlink(filepath.Join(dir, "host.sock"), filepath.Join(volume, "check.sock")))
	for name, script := range mariadbFakes {
		must(os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script+"\n"), 0o755))
	}
	page, err := os.ReadFile(filepath.Join(top, "docs/backups.md"))
	must(err)
	_, script, _ := strings.Cut(string(page), "```sh\n#!/bin/sh\nset -e\nfor program in setpriv mariadbd")
	script, _, _ = strings.Cut(script, "```")
	check := filepath.Join(dir, "check")
	must(os.WriteFile(check, []byte("#!/bin/sh\nset -e\nfor program in setpriv mariadbd"+script), 0o755))
	for _, c := range []struct {
		mode   string
		status int
		last   string
	}{
		{"good", 0, ""}, {"dies", 1, "no space for recovery"}, {"damaged", 1, "t1 is corrupt"}, {"killed", 137, ""},
		{"absent", 127, ""},
	} {
		path := bin + ":" + os.Getenv("PATH")
		if c.mode == "absent" { // also on a host that has MariaDB
			setpriv, err := exec.LookPath("setpriv")
			must(err)
			must(errors.Join(os.Remove(filepath.Join(bin, "mariadb-admin")), os.Symlink(setpriv, filepath.Join(bin, "setpriv"))))
			path = bin
		}
		cmd := exec.CommandContext(t.Context(), "unshare", "--fork", "--kill-child=KILL", "--pid", "--mount-proc", "--net", "--", check, volume)
		cmd.Env = append(os.Environ(), "PATH="+path, "MODE="+c.mode, "NOTES="+notes, "TMPDIR="+dir)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		_ = cmd.Run()
		lines := strings.Split(strings.TrimSpace(stderr.String()), "\n")
		if got := cmd.ProcessState.ExitCode(); got != c.status || c.last != "" && lines[len(lines)-1] != c.last {
			t.Errorf("%s: got status %d, %q", c.mode, got, stderr.String())
		}
		if c.mode == "absent" {
			break
		}
		server, err := os.ReadFile(filepath.Join(notes, "server"))
		must(err)
		user, socket, _ := strings.Cut(strings.TrimSpace(string(server)), " ")
		if user != "999" || socket == "" || strings.HasPrefix(socket, volume) {
			t.Errorf("%s: the server runs as user %s with socket %q", c.mode, user, socket)
		}
		if left, err := filepath.Glob(filepath.Join(dir, "tmp.*")); err != nil || len(left) > 0 {
			t.Errorf("%s: %v is left: %v", c.mode, left, err)
		}
	}
}
