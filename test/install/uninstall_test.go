package install

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

const drover = "/usr/local/bin/drover"

// serve starts the installed drover as the unit does, or with other flags, and waits until it answers.
func serve(t *testing.T, flags ...string) (stop func()) {
	t.Helper()
	var log strings.Builder
	cmd := exec.Command(drover, append([]string{"serve"}, flags...)...)
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		_ = cmd.Process.Signal(unix.SIGTERM)
		if err := <-done; err != nil {
			t.Errorf("drover serve ended with %v\n%s", err, log.String())
		}
	}
	t.Cleanup(stop)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range tick.C {
		if _, exit := run(t, nil, drover, "volume", "ls", "-q"); exit == 0 {
			return stop
		}
		select {
		case err := <-done:
			stopped = true
			t.Fatalf("drover serve ended while it started: %v\n%s", err, log.String())
		default:
		}
	}
	return stop
}

// refused runs uninstall, which must refuse with the given words and leave everything as it is.
func refused(t *testing.T, words string) {
	t.Helper()
	before := tree(t, "/usr/local")
	out, exit := run(t, nil, script("uninstall.sh"))
	if exit == 0 || !strings.Contains(out, words) {
		t.Errorf("uninstall: exit %d, want a refusal with %q\n%s", exit, words, out)
	}
	if after := tree(t, "/usr/local"); !slices.Equal(before, after) {
		gone := slices.DeleteFunc(before, func(name string) bool { return slices.Contains(after, name) })
		t.Errorf("uninstall refused, and yet %v are gone", gone[:min(len(gone), 10)])
	}
}

// Nothing that a user could miss is removed: no volume, none in the trash, and none that is unknown because drover is
// not running to list it.
func TestUninstallIsRefusedWhileThereIsData(t *testing.T) {
	privateFolders(t)
	must(t, nil, script("install.sh"))
	stop := serve(t)
	must(t, nil, drover, "volume", "create", "db")
	must(t, nil, drover, "volume", "create", "old")
	must(t, nil, drover, "volume", "rm", "old")
	refused(t, "1 in 'drover volume ls' and 1 in 'drover trash ls', so nothing was removed: remove them, or say --keep-data")
	must(t, nil, drover, "volume", "rm", "db")
	refused(t, "0 in 'drover volume ls' and 2 in 'drover trash ls'")
	if out, exit := run(t, nil, "make", "-C", top, "--no-print-directory", "uninstall"); exit == 0 || !strings.Contains(out, "say KEEP_DATA=1") || strings.Contains(out, "--keep-data") {
		t.Errorf("make uninstall: exit %d, want the exit status that make gets\n%s", exit, out)
	}
	stop()
	refused(t, "cannot ask drover")
}

// TestUninstallSaysWhatRemains: each thing that stays is named with what removes it.
func TestUninstallSaysWhatRemains(t *testing.T) {
	privateFolders(t)
	must(t, nil, script("install.sh"))
	write(t, "/etc/drover/drover.yaml", "pools:\n  - {name: big, backend: dir, path: /srv/big}\n")
	out := must(t, nil, script("uninstall.sh"), "--keep-data")
	for _, want := range []string{
		"left: /var/lib/drover, data and state;", "run the uninstall without --keep-data",
		"left: the pool at /srv/big: 'drover pool adopt /srv/big'", "left: /etc/drover, the configuration: rm -r /etc/drover",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is missing in\n%s", want, out)
		}
	}
	// Without their keys, the encrypted volumes in the pools that stay are lost.
	must(t, nil, script("install.sh"))
	write(t, "/etc/drover/keys/gold", "secret")
	out = must(t, nil, script("uninstall.sh"), "--keep-data")
	if strings.Contains(out, "rm -r") || !strings.Contains(out, "/etc/drover/keys/gold: copy the keys in it before you remove it") {
		t.Errorf("uninstall says:\n%s", out)
	}
}

// What another drover reports is about other data: the demonstration tells its users to set DROVER_API.
func TestUninstallAsksNoOther(t *testing.T) {
	privateFolders(t)
	must(t, nil, script("install.sh"))
	serve(t)
	must(t, nil, drover, "volume", "create", "db")
	other := t.TempDir()
	write(t, other+"/drover.yaml", "pools: [{name: other, backend: dir, path: "+other+"/pool}]\n")
	t.Setenv("DROVER_API", "unix://"+other+"/run/drover.sock")
	serve(t, "--config", other+"/drover.yaml", "--root", other+"/root", "--run", other+"/run", "--plugin-dir", other+"/plugins")
	refused(t, "'drover volume ls'")
}

// The sockets of a drover with another root stay: its containers need them.
func TestUninstallLeavesSocketsOfAnotherRoot(t *testing.T) {
	privateFolders(t)
	must(t, nil, script("install.sh"))
	other := t.TempDir()
	write(t, other+"/drover.yaml", "pools: [{name: other, backend: dir, path: "+other+"/pool}]\n")
	serve(t, "--config", other+"/drover.yaml", "--root", other+"/root")
	for _, args := range [][]string{nil, {"--keep-data"}} {
		out, exit := run(t, nil, script("uninstall.sh"), args...)
		if exit == 0 || !strings.Contains(out, "serves another root with the sockets of this installation") {
			t.Errorf("uninstall %v: exit %d\n%s", args, exit, out)
		}
	}
	must(t, nil, drover, "volume", "ls")
}

// A lost store lists no volumes, although their data exists.
func TestUninstallKeepsWhatTheStoreLost(t *testing.T) {
	privateFolders(t)
	must(t, nil, script("install.sh"))
	stop := serve(t)
	const unknown = "/var/lib/drover/pools/default/datasets/1fbb2c3c-7488-4792-9d38-36593fcb9e1e"
	must(t, nil, "mkdir", unknown)
	refused(t, unknown)
	must(t, nil, "rmdir", unknown)
	// Another drover answers at the usual path, for another root.
	stop()
	other := t.TempDir()
	write(t, other+"/drover.yaml", "pools: [{name: other, backend: dir, path: "+other+"/pool}]\n")
	serve(t, "--config", other+"/drover.yaml", "--root", other+"/root")
	refused(t, "none serves it")
}

// Without volumes everything is removed: files, sockets, state, and the pool with its mounts and loop devices.
func TestUninstallLeavesNothing(t *testing.T) {
	privateFolders(t)
	before := tree(t, "/usr/local")
	elsewhere := belowRoot(t) // loop devices of /var/lib/drover in another mount namespace
	must(t, nil, script("install.sh"))
	serve(t)
	must(t, nil, drover, "volume", "create", "db")
	must(t, nil, drover, "volume", "rm", "db")
	must(t, nil, drover, "trash", "purge", "--all", "--yes")
	leaveMounts(t)
	must(t, nil, script("uninstall.sh"))
	host.Await(t, "nothing is left, also of tests that run in other mount namespaces", func() error {
		left := slices.DeleteFunc(belowRoot(t), func(name string) bool { return slices.Contains(elsewhere, name) })
		if len(left) > 0 {
			return fmt.Errorf("still there: %v", left)
		}
		return nil
	})
	if after := tree(t, "/usr/local"); !slices.Equal(before, after) {
		t.Errorf("/usr/local had %v and has %v", before, after)
	}
	for _, socket := range []string{"/run/drover/drover.sock", "/run/docker/plugins/drover.sock"} {
		if _, err := os.Stat(socket); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", socket, err)
		}
	}
}

// belowRoot lists what is below drover's root: mounts, files of loop devices, and names.
func belowRoot(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, out := range []string{
		must(t, nil, "findmnt", "--raw", "--noheadings", "--output", "TARGET"),
		must(t, nil, "losetup", "--raw", "--noheadings", "--output", "BACK-FILE"),
		must(t, nil, "find", "/var/lib/drover", "-mindepth", "1"),
	} {
		for _, name := range strings.Fields(out) {
			if strings.HasPrefix(name, "/var/lib/drover/") && !strings.HasSuffix(name, "/lost+found") {
				all = append(all, name)
			}
		}
	}
	return all
}

// leaveMounts leaves what a crash can leave: a filesystem in an image file within another one, each mounted, on loop
// devices that stay after an unmount, and the immutable folder on which a volume was mounted.
func leaveMounts(t *testing.T) {
	t.Helper()
	for _, l := range []struct{ image, size, target string }{
		{"/var/lib/drover/outer.img", "64M", "/var/lib/drover/mnt/outer"},
		{"/var/lib/drover/mnt/outer/inner.img", "16M", "/var/lib/drover/mnt/inner"},
	} {
		must(t, nil, "truncate", "--size="+l.size, l.image)
		must(t, nil, "mkfs.ext4", "-q", l.image)
		must(t, nil, "mkdir", "-p", l.target)
		device := strings.TrimSpace(must(t, nil, "losetup", "--find", "--show", l.image))
		must(t, nil, "chattr", "+i", l.target)
		must(t, nil, "mount", device, l.target)
	}
}

// With --keep-data the program is removed and the data stays. The next installation finds the data.
func TestUninstallKeepsData(t *testing.T) {
	privateFolders(t)
	must(t, nil, script("install.sh"))
	serve(t)
	source := t.TempDir()
	write(t, source+"/note", "kept")
	must(t, nil, drover, "volume", "import", "db", "--from", source)
	must(t, nil, script("uninstall.sh"), "--keep-data")
	if _, err := os.Stat(drover); !os.IsNotExist(err) {
		t.Errorf("%s is still there: %v", drover, err)
	}
	must(t, nil, script("install.sh"))
	serve(t)
	archive := filepath.Join(t.TempDir(), "db.tar")
	must(t, nil, "sh", "-c", drover+" volume export db >"+archive)
	if got := must(t, nil, "tar", "--extract", "--to-stdout", "--wildcards", "--file", archive, "*note"); got != "kept" {
		t.Errorf("the volume holds %q, want kept", got)
	}
}
