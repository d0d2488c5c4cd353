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
)

// WeakGuard is what doctor says of guards of tests, whose folder lies on no tmpfs.
const WeakGuard = "is weaker than it should be"

// Guard is the guard of a host. One goroutine at a time stops and starts it.
type Guard struct {
	args   []string
	socket string
	log    string
	proc   *child.Process
	env    []string
	client *guard.Client
}

// newGuard makes the guard of a host, and starts it.
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

// Up starts it, with more in its environment, and returns when it answers.
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
	Await(t, "the guard answers", func() error {
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

// Kill9 kills it, and waits. Again: nothing.
func (g *Guard) Kill9(t testing.TB) {
	t.Helper()
	if err := g.proc.End(unix.SIGKILL, time.Minute); err != nil {
		t.Fatal(err)
	}
}

// Ended waits until it has ended by itself.
func (g *Guard) Ended(t testing.TB, within time.Duration) {
	t.Helper()
	if err := g.proc.Ended(within); err != nil {
		t.Fatal(err)
	}
}

// PID is that of its process.
func (g *Guard) PID() int { return g.proc.PID() }

// Status is what it says of itself and of what it watches over.
func (g *Guard) Status(ctx context.Context) (guard.Status, error) { return g.client.Status(ctx) }

// Log is what it has logged.
func (g *Guard) Log() string {
	b, _ := os.ReadFile(g.log)
	return string(b)
}

// stop has it end in order.
func (g *Guard) stop(t testing.TB) {
	if err := g.client.Close(); err != nil {
		t.Error(err)
	}
	if err := g.proc.End(unix.SIGTERM, 20*time.Second); err != nil {
		t.Error(err)
	} else if err := g.proc.Err(); err != nil {
		t.Errorf("the guard stopped with %v", err)
	}
	if t.Failed() {
		t.Log(fmt.Sprintf("the guard (%s) logged:\n", g.socket), g.Log())
	}
}
