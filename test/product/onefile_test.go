package product

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
)

// oneFile is docker-compose.yml of the repository on a machine with an engine.
type oneFile struct {
	*engine.Engine

	on    *lan.Machine
	top   string   // folder of the file
	files []string // flags with this file
}

// newOneFile makes an engine with the images that `make images` makes.
func newOneFile(t *testing.T) *oneFile {
	t.Helper()
	dir, err := os.MkdirTemp("", "drv-") //nolint:usetesting // the path of a socket has at most 107 bytes (unix(7))
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	plugins, disk, run := filepath.Join(dir, "plugins"), filepath.Join(dir, "disk"), filepath.Join(dir, "run")
	for _, d := range []string{plugins, disk, run} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	image := scratch.Image(t, "xfs", 64<<30)
	t.Cleanup(func() { wantFree(t, dir, image) })
	f := &oneFile{on: lan.New(t).Machine("alone", map[string]string{"/run/docker/plugins": plugins})}
	require.NoError(t, f.on.Do(func() error { return asHost(t, image, disk) }))
	t.Setenv("DROVER_ROOT", filepath.Join(disk, "root"))
	t.Setenv("DROVER_RUN", run)
	f.Engine = engine.Start(t, engine.Options{On: f.on})
	if f.top, err = filepath.Abs("../.."); err != nil {
		t.Fatal(err)
	}
	f.allowed(t)
	images := exec.CommandContext(t.Context(), filepath.Join(f.top, "scripts/images.sh"), host.Binary(t))
	images.Env = f.Env()
	if out, err := images.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return f
}

// asHost mounts a disk, and makes mounts shared, as an init does at boot.
func asHost(t *testing.T, image, at string) error {
	dev, err := loopdev.Attach(t.Context(), image, loopdev.Options{BlockSize: 4096})
	if err != nil {
		return err
	}
	defer dev.Close()
	if err := mount.Mount(at, mount.Spec{Source: dev.Path, FSType: "xfs"}); err != nil {
		return err
	}
	// Engines before 23.0 do not make bind mounts shared (BindOptions.CreateMountpoint, API 1.42).
	if err := os.Mkdir(filepath.Join(at, "root"), 0o755); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "")
}

// wantFree fails if a loop device still has a file of the test after everything else was removed.
func wantFree(t *testing.T, places ...string) {
	t.Helper()
	host.Await(t, "all loop devices are free", func() error {
		devices, err := loopdev.List()
		for _, d := range devices {
			for _, place := range places {
				if strings.HasPrefix(d.Backing, place) {
					return &os.PathError{Op: "attached to " + d.Path, Path: d.Backing, Err: unix.EBUSY}
				}
			}
		}
		return err
	})
}

// allowed writes a second file for Compose if root on this machine lacks some of the agent's permissions, as in some
// containers: the engine cannot grant them then. They are for growing ext4, which nothing here does.
func (f *oneFile) allowed(t *testing.T) {
	t.Helper()
	f.files = []string{"--file", filepath.Join(f.top, "docker-compose.yml")}
	has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, unix.CAP_SYS_RESOURCE, 0, 0, 0)
	require.NoError(t, err)
	if has == 1 {
		return
	}
	less := filepath.Join(t.TempDir(), "less.yaml")
	text := "services: {agent: {cap_add: !override [SYS_ADMIN, DAC_READ_SEARCH, LINUX_IMMUTABLE, SYS_PTRACE]}}\n"
	require.NoError(t, os.WriteFile(less, []byte(text), 0o600))
	f.files = append(f.files, "--file", less)
}

// compose runs docker compose with the file.
func (f *oneFile) compose(t *testing.T, args ...string) string {
	t.Helper()
	r := f.Compose(t, f.top, slices.Concat(f.files, args)...)
	if r.Exit != 0 {
		for _, service := range []string{"agent", "token", "control-1", "ca", "consul-1"} {
			t.Log(f.Docker(t, "logs", "--tail", "15", "drover-"+service+"-1"))
		}
		t.Fatal(r)
	}
	return r.Stdout
}

// long lists the permanent containers, with their start times.
func (f *oneFile) long(t *testing.T) string {
	t.Helper()
	ids := strings.Fields(f.compose(t, "ps", "--quiet"))
	if len(ids) != 6 {
		t.Errorf("%d containers run: %s", len(ids), f.compose(t, "ps"))
	}
	return f.Must(t, append([]string{"inspect", "--format", "{{.Name}} {{.State.Health.Status}} {{.State.StartedAt}}"}, ids...)...)
}

// TestClusterInOneFile: docker-compose.yml is healthy after one `up`, and another `up` changes nothing. Its agent
// serves the engine on which it runs. Containers outlive a `down`, and the next `up` finds everything as it was.
func TestClusterInOneFile(t *testing.T) {
	f := newOneFile(t)
	f.compose(t, "up", "--detach", "--wait")
	before := f.long(t)
	if n := strings.Count(before, " healthy "); n != 6 {
		t.Errorf("%d are healthy: %s", n, before)
	}
	f.compose(t, "up", "--detach", "--wait")
	if after := f.long(t); after != before {
		t.Errorf("the second up made of\n%s\nthis\n%s", before, after)
	}

	run := []string{"--volume-driver", "drover", "--volume", "db@gold:/data", image}
	f.Must(t, append(append([]string{"run", "--detach", "--name", "db", "--stop-signal", "KILL"}, run...), "sleep", "infinity")...)
	f.Must(t, "exec", "db", "sh", "-c", "echo kept > /data/x; sync")
	if size := f.Must(t, "exec", "db", "df", "--output=avail", "-BM", "/data"); !regexp.MustCompile(`\b20[45]\d\dM`).MatchString(size) {
		t.Errorf("the container's volume has not the size of gold: the engine does not see what the agent mounted: %s", size)
	}
	f.compose(t, "exec", "-T", "agent", "drover", "snapshot", "create", "db", "--name", "one")
	f.compose(t, "exec", "-T", "control-1", "drover", "node", "inspect", "alone")

	f.compose(t, "down")
	f.Must(t, "exec", "db", "sh", "-c", "echo more >> /data/x; sync")
	f.compose(t, "up", "--detach", "--wait")
	f.Must(t, "rm", "--force", "db")
	if out := f.Must(t, append(append([]string{"run", "--rm"}, run...), "cat", "/data/x")...); out != "kept\nmore" {
		t.Errorf("after down and up the volume has %q", out)
	}
	if out := f.compose(t, "exec", "-T", "control-2", "drover", "snapshot", "ls", "db"); !strings.Contains(out, "one") {
		t.Errorf("after down and up the snapshots are %s", out)
	}
	if out := f.compose(t, "exec", "-T", "control-2", "drover", "node", "ls", "-q"); len(strings.Fields(out)) != 1 {
		t.Errorf("after down and up the nodes are %s", out)
	}
	f.Must(t, "volume", "rm", "db@gold")
	f.compose(t, "down")
}
