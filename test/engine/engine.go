// Package engine starts Docker engines for tests. They run the installed dockerd, each with a separate data root, and
// with separate sockets and cgroups, so that they do not touch the machine's engine. Packages test/host, test/cluster
// and test/volumes, and tests in other folders, call it. An [Engine] owns its process and its folder. It has no lock:
// one goroutine at a time may start and stop it.
//
//	func TestMain(m *testing.M) { engine.Main(m) }
//
//	func TestA1(t *testing.T) {
//		e := engine.Start(t, engine.Options{})
//		e.Must(t, "run", "-d", "--name", "db", "-v", "db:/var/lib/mysql", "drover-mariadb")
//		engine.MariaDB().Await(t, e, "db")
//	}
//
// A new engine has the images of scripts/image.sh, under the names drover-mariadb, drover-postgres and drover-redis.
// Unless Options.Ports is set, a container has only the loopback interface.
//
// The engine finds plugins in /run/docker/plugins (see Main). Start a plugin before the engine. The clean-up runs in
// reverse order, and an engine that outlives its plugin waits 15 s for it at each call.
package engine

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/lan"
	"github.com/droverhq/drover/test/require"
)

// Options describe how an engine differs from the default.
type Options struct {
	Ports       bool // a bridge, so that containers have addresses and -p works; otherwise none
	LiveRestore bool // containers outlive the engine
	// On is the machine on which the engine runs; nil: this one. On a machine, containers have no network.
	On *lan.Machine
}

// An Engine is one dockerd with everything that belongs to it. Only Docker, Must and Compose may be used
// concurrently, while the engine is up.
type Engine struct {
	Host string // for DOCKER_HOST
	Dir  string // for everything of this engine; removed at the end of the test

	opts     Options
	id       string // part of the names of its cgroup and its bridge
	dataRoot string
	proc     *child.Process
	client   *http.Client
}

// startTimeout is how long an engine may take until it answers. It takes 0.3 s on an idle machine, and much
// longer after kill -9 under load.
const startTimeout = 90 * time.Second

// Start starts an engine and waits until it answers. The engine, its containers, mounts, cgroups and files are
// removed at the end of the test, whatever state they are in. If the test has failed, the end of the engine's log
// is printed.
func Start(t testing.TB, opts Options) *Engine {
	t.Helper()
	if !scratch.Isolated() {
		t.Fatal("engine.Start needs func TestMain(m *testing.M) { engine.Main(m) } in this package")
	}
	e, err := newEngine(t, opts)
	require.NoError(t, err)
	require.NoError(t, e.seedImages(t))
	e.Up(t)
	return e
}

// newEngine returns an engine that is not started and has no images.
func newEngine(t testing.TB, opts Options) (*Engine, error) {
	t.Helper()
	// The path of a socket has at most 107 bytes (unix(7)), and t.TempDir contains the name of the test.
	dir, err := os.MkdirTemp("", "drover-engine-") //nolint:usetesting // see above
	if err != nil {
		return nil, err
	}
	socket := filepath.Join(dir, "docker.sock")
	e := &Engine{
		Host: "unix://" + socket, Dir: dir, dataRoot: filepath.Join(dir, "data"),
		opts: opts, id: randomID(), client: unixClient(socket),
	}
	t.Cleanup(func() { e.cleanup(t) })
	if opts.Ports {
		if err := e.makeBridge(); err != nil {
			return nil, err
		}
	}
	// An empty file, so that dockerd does not read /etc/docker/daemon.json.
	return e, os.WriteFile(filepath.Join(dir, "daemon.json"), []byte("{}\n"), 0o600)
}

// randomID returns 8 hexadecimal digits, which is short enough for the name of a network interface.
func randomID() string {
	var b [4]byte
	_, _ = rand.Read(b[:]) // never fails, see crypto/rand.Read
	return hex.EncodeToString(b[:])
}

// DriverName returns a name for a volume driver that no other test uses.
func DriverName() string {
	return "drover-" + randomID()
}

func unixClient(socket string) *http.Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}
	return &http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
}

func (e *Engine) flags() []string {
	flags := []string{
		"--config-file", filepath.Join(e.Dir, "daemon.json"),
		"--data-root", e.dataRoot,
		"--exec-root", filepath.Join(e.Dir, "exec"),
		"--pidfile", filepath.Join(e.Dir, "docker.pid"),
		"--host", e.Host,
		// This works with and without systemd, on cgroup v1 and v2.
		"--exec-opt", "native.cgroupdriver=cgroupfs",
		"--cgroup-parent", "/" + e.cgroup(),
		// The firewall and the routing of the machine stay unchanged. docker-proxy publishes ports, and needs no
		// rules.
		"--iptables=false", "--ip-masq=false", "--ip-forward=false",
	}
	if e.opts.Ports {
		flags = append(flags, "--bridge", e.bridge())
	} else {
		flags = append(flags, "--bridge", "none")
	}
	if e.opts.LiveRestore {
		flags = append(flags, "--live-restore")
	}
	return flags
}

// Launch starts the engine if it is not running, without waiting until it answers.
func (e *Engine) Launch(t testing.TB) {
	t.Helper()
	if e.Running() {
		return
	}
	binary, err := dockerd()
	require.NoError(t, err)
	args := append([]string{binary}, e.flags()...)
	if e.opts.On != nil {
		args = e.opts.On.Command(args...)
	}
	e.proc, err = child.Start(child.Spec{
		Args: args, Log: filepath.Join(e.Dir, "dockerd.log"),
		Env: []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin"},
	})
	require.NoError(t, err)
}

// Up starts the engine if it is not running, and waits until it answers.
func (e *Engine) Up(t testing.TB) {
	t.Helper()
	e.Launch(t)
	require.NoError(t, e.awaitAnswer(t.Context()))
}

// dockerd returns the path of the engine's program: DROVER_TEST_DOCKERD, or the installed one. Debian installs it
// in /usr/sbin, which is not in every PATH.
func dockerd() (string, error) {
	if path := os.Getenv("DROVER_TEST_DOCKERD"); path != "" {
		return path, nil
	}
	if path, err := exec.LookPath("dockerd"); err == nil {
		return path, nil
	}
	path, err := exec.LookPath("/usr/sbin/dockerd")
	if err != nil {
		return "", fmt.Errorf("no dockerd on this machine, scripts/deps.sh test installs one: %w", err)
	}
	return path, nil
}

// awaitAnswer asks until the engine answers. There is no event to wait for: dockerd notifies only systemd when it
// listens.
func (e *Engine) awaitAnswer(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if e.ping(ctx) {
			return nil
		}
		select {
		case <-e.proc.Done():
			return fmt.Errorf("dockerd ended while it started: %w\n%s", e.proc.Err(), e.logTail(30))
		case <-ctx.Done():
			return fmt.Errorf("dockerd does not answer: %w\n%s", ctx.Err(), e.logTail(30))
		case <-tick.C:
		}
	}
}

func (e *Engine) ping(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://docker/_ping", nil)
	if err != nil {
		return false
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return false
	}
	_ = resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// Running reports whether dockerd runs.
func (e *Engine) Running() bool {
	return e.proc.Running()
}

// Stop ends the engine as a shutdown does, with SIGTERM, and waits for it.
func (e *Engine) Stop(t testing.TB) {
	t.Helper()
	e.end(t, unix.SIGTERM)
}

// Kill9 kills dockerd and its containerd, and waits for both. containerd would end a moment after dockerd, which
// sets its parent-death signal. A dockerd that starts before the old containerd has ended would wait for it in
// vain. Containers continue to run.
func (e *Engine) Kill9(t testing.TB) {
	t.Helper()
	containerd := e.containerd()
	e.end(t, unix.SIGKILL)
	require.NoError(t, kill(containerd...))
}

func (e *Engine) end(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if !e.Running() {
		return
	}
	require.NoError(t, e.proc.Signal(sig))
	<-e.proc.Done()
}

// Restart stops the engine and starts it again.
func (e *Engine) Restart(t testing.TB) {
	t.Helper()
	e.Stop(t)
	e.Up(t)
}

// PID returns the process ID of dockerd, or 0 if it does not run.
func (e *Engine) PID() int {
	if !e.Running() {
		return 0
	}
	return e.proc.PID()
}

// Log returns what dockerd has written so far, over all its starts.
func (e *Engine) Log() string {
	data, err := os.ReadFile(filepath.Join(e.Dir, "dockerd.log"))
	if err != nil {
		return ""
	}
	return string(data)
}

// logTail returns the last lines of the log, without those of the gRPC library about each connection.
func (e *Engine) logTail(lines int) string {
	all := slices.DeleteFunc(strings.Split(strings.TrimSpace(e.Log()), "\n"), func(line string) bool {
		return strings.HasSuffix(line, " module=grpc")
	})
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
