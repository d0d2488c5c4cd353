// Package podman tests Drover with the real Podman: what docs/podman.md says, and what must hold whatever Podman
// does. Podman's storage, locks and runtime files belong to the test only.
package podman

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) {
	if volume := os.Getenv("PODMAN_TEST_LEAVES"); volume != "" {
		os.Exit(mountAndEnd(volume))
	}
	engine.Main(m)
}

// image is the image of containers for which any image will do.
const image = "localhost/box"

// driver is the name that the page uses.
const driver = "drover"

// world is one Drover and a Podman that uses it.
type world struct {
	h    *host.Host
	plug *host.Plug
	dir  string // of Podman
	env  []string
}

// begin starts Drover, and sets up a Podman for the test, configured as the page says.
func begin(t *testing.T) *world {
	t.Helper()
	real, err := exec.LookPath("podman")
	if err != nil {
		t.Fatalf("%v: scripts/deps.sh test installs it", err)
	}
	// Podman's locks have one name for the whole machine. The mount namespace belongs to the test only.
	require.NoError(t, unix.Mount("tmpfs", "/dev/shm", "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=1777"))
	t.Cleanup(func() {
		assert.NoError(t, unix.Unmount("/dev/shm", 0))
	})
	w := &world{h: host.Start(t, host.Options{Driver: driver})}
	w.plug, w.dir = w.h.Plug(t), filepath.Join(w.h.Dir, "podman")
	bin := filepath.Join(w.dir, "bin")
	// A host without systemd and with cgroup v1 needs the first two flags. They do no harm on other hosts.
	script := fmt.Sprintf("#!/bin/sh\nexec %s --cgroup-manager=cgroupfs --events-backend=file --storage-driver=vfs"+
		" --root=%[2]s/store --runroot=%[2]s/run --tmpdir=%[2]s/tmp \"$@\"\n", real, w.dir)
	w.write(t, filepath.Join(bin, "podman"), script, 0o755)
	conf := filepath.Join(w.dir, "containers.conf")
	w.write(t, conf, configuration(t)+"\n[containers]\nnetns = \"none\"\n", 0o644)
	w.env = append(os.Environ(), "PATH="+bin+":"+filepath.Dir(host.Binary(t))+":"+os.Getenv("PATH"),
		"CONTAINERS_CONF="+conf, "HOME="+w.dir, "DROVER_API="+w.h.API(), "KUBE="+w.dir)
	t.Cleanup(func() { w.end(t) })
	w.write(t, filepath.Join(w.dir, "box.tar"), box(t), 0o644)
	w.podman(t, "import", "--quiet", "--change", `CMD ["sleep","infinity"]`, "--change", "ENV PATH=/bin",
		filepath.Join(w.dir, "box.tar"), image)
	return w
}

func (w *world) write(t testing.TB, path, text string, mode os.FileMode) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
	require.NoError(t, os.WriteFile(path, []byte(text), mode))
}

// box is the root filesystem of an image: a shell, three programs, and the libraries of this machine that they need.
func box(t testing.TB) string {
	t.Helper()
	files := map[string]string{}
	for _, name := range []string{"sh", "cat", "ls", "sleep"} {
		path, err := exec.LookPath(name)
		require.NoError(t, err)
		files["/bin/"+name] = path
		libraries, err := exec.Command("ldd", path).Output()
		require.NoErrorf(t, err, "ldd %s", path)
		for _, lib := range regexp.MustCompile(`/\S+`).FindAllString(string(libraries), -1) {
			files[lib] = lib
		}
	}
	var out bytes.Buffer
	archive := tar.NewWriter(&out)
	for name, path := range files {
		content, err := os.ReadFile(path)
		if err == nil {
			err = archive.WriteHeader(&tar.Header{Name: name[1:], Mode: 0o755, Size: int64(len(content))})
		}
		if err == nil {
			_, err = archive.Write(content)
		}
		require.NoError(t, err)
	}
	require.NoError(t, archive.Close())
	return out.String()
}

// result is the output of a command, and its exit status.
type result struct {
	line, out, err string
	exit           int
}

func (r result) String() string {
	return fmt.Sprintf("%s: exit %d\n%s%s", r.line, r.exit, r.out, r.err)
}

// commandTime limits one command, because Podman waits for its locks forever.
const commandTime = 2 * time.Minute

// sh runs a command line.
func (w *world) sh(t testing.TB, line string) result {
	t.Helper()
	return w.run(t, "sh", "-c", line)
}

// try runs podman.
func (w *world) try(t testing.TB, args ...string) result {
	t.Helper()
	return w.run(t, filepath.Join(w.dir, "bin", "podman"), args...)
}

func (w *world) run(t testing.TB, name string, args ...string) result {
	t.Helper()
	// Files, not pipes: processes that outlive the command, such as conmon, keep them open.
	out, errs := w.temp(t), w.temp(t)
	defer out.Close()
	defer errs.Close()
	cmd := exec.Command(name, args...)
	cmd.Env, cmd.Dir, cmd.Stdout, cmd.Stderr = w.env, w.dir, out, errs
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a shell ends together with its command
	require.NoError(t, cmd.Start())
	late := time.AfterFunc(commandTime, func() { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) })
	defer late.Stop()
	_ = cmd.Wait()
	return result{
		line: filepath.Base(name) + " " + strings.Join(args, " "), exit: cmd.ProcessState.ExitCode(),
		out: text(t, out), err: text(t, errs),
	}
}

func (w *world) temp(t testing.TB) *os.File {
	t.Helper()
	f, err := os.CreateTemp(w.dir, "said-")
	if err == nil {
		err = os.Remove(f.Name())
	}
	require.NoError(t, err)
	return f
}

func text(t testing.TB, f *os.File) string {
	t.Helper()
	_, err := f.Seek(0, io.SeekStart)
	require.NoError(t, err)
	all, err := io.ReadAll(f)
	require.NoError(t, err)
	return string(all)
}

// podman runs a podman command that must succeed, and returns its output.
func (w *world) podman(t testing.TB, args ...string) string {
	t.Helper()
	r := w.try(t, args...)
	if r.exit != 0 {
		t.Fatal(r)
	}
	return strings.TrimSpace(r.out)
}

// refused runs a podman command that must fail with a text.
func (w *world) refused(t testing.TB, want string, args ...string) {
	t.Helper()
	if r := w.try(t, args...); r.exit <= 0 || !strings.Contains(r.err, want) {
		t.Errorf("want an exit status and %q: %v", want, r)
	}
}

// volumes returns the names of the volumes that Podman lists.
func (w *world) volumes(t testing.TB) []string {
	t.Helper()
	names := strings.Fields(w.podman(t, "volume", "ls", "--quiet"))
	slices.Sort(names)
	return names
}

// wantUses fails unless a volume is used by this number of mount IDs, and is mounted if there are any.
func (w *world) wantUses(t testing.TB, volume string, want int) {
	t.Helper()
	a, err := w.plug.Get(volume)
	require.NoError(t, err)
	mounts, _ := a.Volume.Status["mounts"].([]any)
	table, err := mount.Table()
	require.NoError(t, err)
	if mounted := table.At(a.Volume.Mountpoint) != nil; len(mounts) != want || mounted != (want > 0) {
		t.Errorf("volume %s has uses %v and is mounted: %t; want %d uses", volume, mounts, mounted, want)
	}
}

// end removes what Podman made. Only empty folders are left of its cgroups.
func (w *world) end(t testing.TB) {
	t.Helper()
	for _, what := range []string{"pod rm", "rm"} {
		if r := w.try(t, append(strings.Fields(what), "--all", "--force", "--time", "0")...); r.exit != 0 {
			t.Error(r)
		}
	}
	groups, err := filepath.Glob("/sys/fs/cgroup/*/libpod_parent")
	assert.NoError(t, err)
	for _, top := range append(groups, "/sys/fs/cgroup/libpod_parent") {
		var dirs []string
		_ = filepath.WalkDir(top, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			// Another Podman of this machine may have containers in it.
			if err := os.Remove(dir); err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, fs.ErrNotExist) {
				t.Error(err)
			}
		}
	}
}
