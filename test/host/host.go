// Package host runs Drover for tests as a user would: the real binary, as `drover serve`, with a separate root,
// sockets, pools and driver name. Tests use it through the command line, the API and the plugin's socket. Packages
// test/chaos, cluster and volumes, and tests in other folders, call it. A [Host] owns its process, its folders and its
// mounts. It has no lock: one goroutine at a time may start and stop the process.
//
//	func TestMain(m *testing.M) { engine.Main(m) }
//
//	func TestA1(t *testing.T) {
//		h := host.Start(t, host.Options{Pool: "xfs"})
//		e := engine.Start(t, engine.Options{})
//		e.Must(t, "volume", "create", "-d", h.Driver, "db@gold")
//		h.Must(t, "volume", "ls")
//	}
//
// Start the host before the engine, so that the engine ends first. An engine that outlives its plugin waits for it.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
)

// Options describe how a host differs from the default.
type Options struct {
	// Pool is the filesystem of the root. Empty means xfs.
	//
	//   - xfs, btrfs: created for the test; it becomes the default pool
	//   - ext4: created for the test; the default pool is a preallocated image of half its size
	//   - dir: ext4 with one pool of backend dir
	//   - subvolumes: btrfs with full quotas and one pool of backend btrfs
	//   - image: a plain folder, so that the image takes half of the free space of the machine
	Pool string
	// Root is a folder that the test has created for the root. Pool is ignored then.
	Root string
	// Size is the size of the filesystem, whose file is sparse. 0 means 64 GiB, which is more than any shipped
	// profile promises.
	Size     int64
	Profiles string // text of profiles.yaml; empty: the built-in set
	Config   string // text of drover.yaml; empty: none
	Env      []string
	Flags    []string
	Driver   string // name of the volume driver; empty: one that no other test uses
	Name     string // of the node; empty: host-a
	// Process is the command that runs: serve, agent or control. Empty: serve.
	Process string
	// On is the machine on which the host runs; nil: this one. On a machine, the filesystem belongs to the
	// machine and has only the pool, which is called default. The folder of plugins must be the machine's own.
	On *lan.Machine
	// Activated passes the plugin's socket to each drover process, as systemd does. The socket stays while no
	// process runs.
	Activated bool
	// Down makes Start return before the process is started. The test then calls Up.
	Down bool
}

// Host is one Drover process with everything that belongs to it. Exec, Must and the client may be used
// concurrently; methods that start or stop the process may not.
type Host struct {
	Dir    string // for everything of this host; short, because of the paths of sockets
	Root   string
	Driver string
	Image  string // of the filesystem of Root; empty: none
	Env    []string
	// Killed is called if the process is killed while it starts. Then it is started again, as its systemd unit
	// would. If nil, the test fails.
	Killed func()

	opts         Options
	proc         *child.Process
	pluginSocket *os.File // the plugin's socket, with Options.Activated

	starts int // how often the process was started and answered
}

// upTime is how long drover may take until it answers.
const upTime = 60 * time.Second

// Start creates a host and waits until it answers. At the end of the test it is stopped, and its mounts and files
// are removed. If the test failed, the end of its log is printed.
func Start(t testing.TB, opts Options) *Host {
	t.Helper()
	dir, err := os.MkdirTemp("", "drv-") //nolint:usetesting // the path of a socket has at most 107 bytes (unix(7))
	require.NoError(t, err)
	h := &Host{Dir: dir, Driver: opts.Driver, opts: opts, Env: opts.Env}
	if h.Driver == "" {
		h.Driver = engine.DriverName()
	}
	t.Cleanup(func() {
		assert.NoErrorf(t, os.RemoveAll(dir), "clean up")
	})
	h.makeFilesystem(t)
	t.Cleanup(func() { h.cleanup(t) })
	builtIn := string(drover.Profiles)
	for name, text := range map[string]string{"profiles.yaml": cmp.Or(h.opts.Profiles, builtIn),
		"drover.yaml": h.opts.Config} {
		text = strings.ReplaceAll(text, "$DIR", dir)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	if opts.Activated {
		h.openPluginSocket(t)
	}
	if !opts.Down {
		h.Up(t)
	}
	return h
}

// openPluginSocket opens the plugin's socket, as systemd would.
func (h *Host) openPluginSocket(t testing.TB) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: h.Socket(), Net: "unix"})
	require.NoError(t, err)
	defer l.Close() // the duplicate keeps listening
	l.SetUnlinkOnClose(false)
	if h.pluginSocket, err = l.File(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.pluginSocket.Close() })
}

// HasWaitingConnection reports whether a connection waits at the socket that Options.Activated keeps.
func (h *Host) HasWaitingConnection() bool {
	fds := []unix.PollFd{{Fd: int32(h.pluginSocket.Fd()), Events: unix.POLLIN}}
	n, err := unix.Poll(fds, 0)
	return err == nil && n == 1
}

// makeFilesystem creates the filesystem of the root.
func (h *Host) makeFilesystem(t testing.TB) {
	t.Helper()
	size := h.opts.Size
	if size == 0 {
		size = 64 << 30
	}
	if h.Root = h.opts.Root; h.Root != "" {
		return
	}
	h.Root = filepath.Join(h.Dir, "root")
	switch fs := h.opts.Pool; fs {
	case "", "xfs", "btrfs", "ext4", "dir", "subvolumes":
		fs = cmp.Or(map[string]string{"": "xfs", "dir": "ext4", "subvolumes": "btrfs"}[fs], fs)
		h.Image = scratch.Image(t, fs, size)
		if h.opts.On != nil {
			h.mountOn(t, fs)
			return
		}
		h.Root = filepath.Join(scratch.MountImage(t, fs, h.Image), "root")
		if h.opts.Pool == "subvolumes" {
			scratch.Quota(t, filepath.Dir(h.Root), "full")
			h.opts.Config += "pools: [{name: default, backend: btrfs, path: " + h.Root + "/pool}]\n"
		}
		if h.opts.Pool == "dir" && h.opts.Config == "" {
			h.opts.Config = "pools: [{name: default, backend: dir, path: " + h.Root + "/pool}]\n"
		}
	case "image":
	default:
		t.Fatalf("unknown kind of pool %q", fs)
	}
}

// mountOn mounts the image on the machine, for a pool. The root is not in the image. Otherwise datasets would be
// mounted below the filesystem of their pool. If the machine ended without unmounting, a dataset and that filesystem
// would keep each other in use (seen on Linux 6.18).
func (h *Host) mountOn(t testing.TB, fs string) {
	t.Helper()
	at := filepath.Join(h.Dir, "disk")
	err := os.Mkdir(at, 0o700)
	if err == nil {
		err = h.opts.On.Do(func() error {
			dev, err := loopdev.Attach(t.Context(), h.Image, loopdev.Options{BlockSize: 4096})
			if err != nil {
				return err
			}
			defer dev.Close()
			return mount.Mount(at, mount.Spec{Source: dev.Path, FSType: fs})
		})
	}
	require.NoError(t, err)
	backend := "loop"
	if h.opts.Pool == "dir" {
		backend = "dir"
	}
	h.opts.Config += fmt.Sprintf("pools: [{name: default, backend: %s, path: %s}]\n", backend,
		filepath.Join(at, "pool"))
}

// Binary builds drover with the step hooks, once for this process, and returns its path. DROVER_TEST_BINARY names
// another program to use.
func Binary(t testing.TB) string {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	return path
}

var build = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("DROVER_TEST_BINARY"); path != "" {
		return path, nil
	}
	dir, err := engine.Volatile()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(dir, "drover")
	cmd := exec.Command("go", "build", "-tags", "steps", "-ldflags", "-X main.version=test", "-o", bin,
		"github.com/droverhq/drover/cmd/drover")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build drover: %w\n%s", err, out)
	}
	return bin, nil
})

// API returns the address for --api and DROVER_API.
func (h *Host) API() string {
	name := "drover.sock"
	if h.opts.Process == "control" {
		name = "control.sock"
	}
	return "unix://" + filepath.Join(h.Dir, "run", name)
}

// Socket returns the path of the plugin's socket.
func (h *Host) Socket() string {
	if h.opts.On != nil {
		return h.opts.On.Path(filepath.Join("/run/docker/plugins", h.Driver+".sock"))
	}
	return filepath.Join("/run/docker/plugins", h.Driver+".sock")
}

// Up starts drover and waits until it answers.
func (h *Host) Up(t testing.TB, env ...string) {
	t.Helper()
	h.starts = strings.Count(h.Log(), "drover is ready") + 1 // counted first: the new process may be ready at once
	require.NoError(t, h.start(t, env))
	ctx, cancel := context.WithTimeout(context.Background(), upTime)
	defer cancel()
	for {
		if h.answers(ctx, t) {
			return
		}
		select {
		case <-h.proc.Done():
			if h.Killed != nil && h.proc.Err() != nil {
				h.Killed()
				h.Up(t, env...)
				return
			}
			t.Fatalf("drover ended: %v\n%s", h.proc.Err(), h.LogTail(30))
		case <-ctx.Done():
			t.Fatalf("drover did not answer within %s\n%s", upTime, h.LogTail(30))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// answers reports whether drover serves. An agent is not asked, since it forwards most requests to control, which
// may be unreachable.
func (h *Host) answers(ctx context.Context, t testing.TB) bool {
	if h.opts.Process == "agent" {
		return strings.Count(h.Log(), "drover is ready") == h.starts
	}
	c := h.Client(t)
	defer c.Close()
	_, err := c.Version(ctx)
	return err == nil
}

// command returns the command line of the process.
func (h *Host) command(t testing.TB) []string {
	process := cmp.Or(h.opts.Process, "serve")
	args := []string{
		Binary(t), process, "--root", h.Root, "--run", filepath.Join(h.Dir, "run"),
		"--config", filepath.Join(h.Dir, "drover.yaml"), "--node-name", cmp.Or(h.opts.Name, "host-a"),
	}
	if process != "agent" {
		args = append(args, "--profiles", filepath.Join(h.Dir, "profiles.yaml"))
	}
	if process != "control" {
		args = append(args, "--driver", h.Driver)
	}
	return append(args, h.opts.Flags...)
}

// start starts drover without waiting for it.
func (h *Host) start(t testing.TB, env []string) error {
	spec := child.Spec{
		Args: h.command(t), Log: h.logFile(), Env: slices.Concat([]string{"DROVER_CLOCK=" + h.clock()}, h.Env, env),
	}
	if h.pluginSocket != nil {
		// The process must know its own PID: sd_listen_fds(3).
		spec.Args = append([]string{"sh", "-c", `LISTEN_PID=$$ exec "$@"`, "sh"}, spec.Args...)
		spec.Keep = []*os.File{h.pluginSocket}
		spec.Env = append(spec.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=plugin")
	}
	if h.opts.On != nil {
		spec.Args = h.opts.On.Command(spec.Args...)
	}
	var err error
	h.proc, err = child.Start(spec)
	return err
}

// Ended waits until the process has ended by itself.
func (h *Host) Ended(t testing.TB, within time.Duration) {
	t.Helper()
	if err := h.proc.Ended(within); err != nil {
		t.Fatalf("%v\n%s", err, h.LogTail(30))
	}
}

// Running reports whether the process is running.
func (h *Host) Running() bool { return h.proc.Running() }

// PID returns the PID of the process.
func (h *Host) PID() int { return h.proc.PID() }

// Stop asks the process to stop, and waits.
func (h *Host) Stop(t testing.TB) {
	t.Helper()
	h.end(t, unix.SIGTERM)
	if err := h.proc.Err(); err != nil {
		t.Fatalf("drover stopped with %v\n%s", err, h.LogTail(30))
	}
}

// Kill9 kills the process and waits.
func (h *Host) Kill9(t testing.TB) {
	t.Helper()
	h.end(t, unix.SIGKILL)
}

// Pause suspends the process, and returns when it is suspended. A suspended process must be resumed before it can
// stop.
func (h *Host) Pause(t testing.TB) {
	t.Helper()
	require.NoError(t, h.proc.Pause())
}

// Resume resumes the process. Idempotent.
func (h *Host) Resume(t testing.TB) {
	t.Helper()
	require.NoError(t, h.proc.Signal(unix.SIGCONT))
}

func (h *Host) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	require.NoError(t, h.proc.Signal(sig))
	h.Ended(t, 40*time.Second)
}

// Restart kills the process and starts it again.
func (h *Host) Restart(t testing.TB) {
	t.Helper()
	h.Kill9(t)
	h.Up(t)
}

// cleanup ends the processes, and unmounts what is mounted. The test fails if drover does not end as it should, or
// leaves a device.
func (h *Host) cleanup(t testing.TB) {
	t.Helper()
	if h.proc.Running() {
		if err := h.proc.End(unix.SIGTERM, 40*time.Second); err != nil {
			t.Error(err)
			_ = h.proc.End(unix.SIGKILL, time.Minute)
		} else if err := h.proc.Err(); err != nil {
			t.Errorf("drover stopped with %v", err)
		}
	}
	if t.Failed() {
		t.Logf("end of drover's log:\n%s", h.LogTail(60))
	}
	assert.NoErrorf(t, h.Unmount(), "clean up")
	h.unprotectMountPoints()
	assert.NoErrorf(t, h.devices(), "clean up")
	_ = os.Remove(h.Socket())
}

// devices returns an error while a loop device uses a file of this host.
func (h *Host) devices() (err error) {
	for range 50 { // a device disappears after its last user
		list, lerr := loopdev.List()
		if lerr != nil {
			return lerr
		}
		err = nil
		for _, d := range list {
			if strings.HasPrefix(d.Backing, h.Root+"/") || h.opts.On != nil && d.Backing == h.Image {
				err = fmt.Errorf("%s still has %s", d.Path, d.Backing)
			}
		}
		if err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// Unmount unmounts everything below the root, as a reboot would. If the host runs on a machine (Options.On), it also
// unmounts the pool.
func (h *Host) Unmount() error {
	if h.opts.On == nil {
		return unmountBelow(h.Root)
	}
	return h.opts.On.Do(func() error { return unmountBelow(h.Dir) })
}

func unmountBelow(dir string) error {
	table, err := mount.Table()
	if err != nil {
		return err
	}
	var errs []error
	under := table.Under(dir)
	for _, m := range under {
		scratch.Thaw(m.Mountpoint) // the mounts below are stored on it
	}
	for i := len(under) - 1; i >= 0; i-- {
		if p := under[i].Mountpoint; strings.HasPrefix(p, dir+"/") {
			errs = append(errs, unmountHard(p))
		}
	}
	return errors.Join(errs...)
}

// unprotectMountPoints clears the immutable flag that drover sets on empty mount points, so that they can be removed.
func (h *Host) unprotectMountPoints() {
	dirs, _ := filepath.Glob(filepath.Join(h.Root, "mnt", "*"))
	for _, d := range dirs {
		f, err := os.Open(d)
		if err != nil {
			continue
		}
		_ = fsctl.SetImmutable(f, false)
		f.Close()
	}
}

// unmountHard waits while ending containers still use the mount, then detaches it.
func unmountHard(path string) error {
	for range 50 {
		err := unix.Unmount(path, 0)
		if err == nil || errors.Is(err, unix.EINVAL) {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return unix.Unmount(path, unix.MNT_DETACH)
}
