package cluster

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/test/child"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/require"
)

// WeakGuard is part of the line of doctor about guards in tests, whose folder is not on a tmpfs.
const WeakGuard = "has reduced protection"

// Guard is the guard of a host. Only one goroutine at a time may stop and start it.
type Guard struct {
	args   []string
	socket string
	log    string
	proc   *child.Process
	env    []string
	client *guard.Client
}

// newGuard creates the guard of a host and starts it.
func (c *Cluster) newGuard(t testing.TB, h *Host) *Guard {
	t.Helper()
	run := filepath.Join(h.Dir, "run")
	g := &Guard{
		args: h.On.Command(host.Binary(t), "guard", "--root", h.Root, "--run", run, "--watchdog", "/dev/null/none",
			"--step", cmp.Or(c.opts.Step, time.Second).String()),
		socket: guard.SocketPath(run), log: filepath.Join(h.Dir, "guard.log"),
		env: append([]string{"GOMAXPROCS=4"}, c.opts.Env...),
	}
	var err error
	if g.client, err = guard.NewClient(g.socket); err != nil {
		t.Fatal(err)
	}
	g.Up(t)
	return g
}

// Up starts the guard, with additional environment variables, and returns when it answers.
func (g *Guard) Up(t testing.TB, env ...string) {
	t.Helper()
	var err error
	if g.proc, err = child.Start(child.Spec{
		Args: g.args,
		Log:  g.log,
		Env:  append(g.env[:len(g.env):len(g.env)], env...),
	}); err != nil {
		t.Fatal(err)
	}
	host.Await(t, "the guard answers", func() error {
		if !g.proc.Running() {
			out, _ := os.ReadFile(g.log)
			t.Fatalf("the guard ended: %v\n%s", g.proc.Err(), out)
		}
		conn, err := net.Dial("unix", g.socket)
		if err != nil {
			return err
		}
		return conn.Close()
	})
}

// Kill9 kills the guard and waits for its end. Idempotent.
func (g *Guard) Kill9(t testing.TB) {
	t.Helper()
	require.NoError(t, g.proc.End(unix.SIGKILL, time.Minute))
}

// PID returns the PID of the guard's process.
func (g *Guard) PID() int { return g.proc.PID() }

// Status returns what the guard reports about itself and about what it watches.
func (g *Guard) Status(ctx context.Context) (guard.Status, error) { return g.client.Status(ctx) }

// Log returns what the guard has logged.
func (g *Guard) Log() string {
	b, _ := os.ReadFile(g.log)
	return string(b)
}

// stop asks the guard to end, and waits.
func (g *Guard) stop(t testing.TB) {
	if err := g.proc.End(unix.SIGTERM, 20*time.Second); err != nil {
		t.Error(err)
	} else if err := g.proc.Err(); err != nil {
		t.Errorf("the guard stopped with %v", err)
	}
	if t.Failed() {
		t.Log(fmt.Sprintf("the guard (%s) logged:\n", g.socket), g.Log())
	}
}
