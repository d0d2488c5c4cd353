package agent

import (
	"context"
	"encoding/json"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/socket"
)

// warden is a guard in this process that a test starts and kills, with its socket.
type warden struct {
	t         *testing.T
	run, root string
	step      time.Duration
	*guard.Client

	stop func()
}

// newWarden starts one whose rungs have so long; it ends with the test.
func newWarden(t *testing.T, step time.Duration) *warden {
	t.Helper()
	dir, err := os.MkdirTemp("", "drv-") //nolint:usetesting // the path of a socket has at most 107 bytes (unix(7))
	if err != nil {
		t.Fatal(err)
	}
	w := &warden{t: t, run: dir, root: t.TempDir(), step: step}
	if w.Client, err = guard.NewClient(guard.SocketPath(w.run)); err != nil {
		t.Fatal(err)
	}
	w.up()
	t.Cleanup(func() {
		w.down()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return w
}

// up starts the guard, which goes on where the one before it was.
func (w *warden) up() {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background()) // beyond the test's own, whose end it sees
	l, err := socket.Listen(ctx, guard.SocketPath(w.run), "root")
	if err != nil {
		w.t.Fatal(err)
	}
	tool := hand.New(hand.Options{
		Run: w.run, Root: w.root, Spare: []int{os.Getpid(), os.Getppid()}, Clock: clock.System{},
	})
	g, err := guard.New(ctx, guard.Options{Run: w.run, Hand: grip{tool}, Step: w.step, Recheck: w.step, Again: w.step / 4, Log: quiet("guard")})
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := g.Run(ctx, l); err != nil {
			w.t.Error(err)
		}
		tool.Wait()
		_ = l.Close()
	})
	w.stop = func() { cancel(); wg.Wait() }
}

// down ends it, as a kill would: nobody fences until it is up again.
func (w *warden) down() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// entry is what the guard has of a dataset. It may be asked as the test ends.
func (w *warden) entry(id uuid.UUID) (guard.Entry, bool) {
	w.t.Helper()
	st, err := w.Status(context.WithoutCancel(w.t.Context()))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range st.Datasets {
		if e.Dataset == id {
			return e, true
		}
	}
	return guard.Entry{}, false
}

// grip is the hand of a guard without a process of its own.
type grip struct{ *hand.Tool }

func (g grip) Freeze(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return g.Tool.Freeze(ctx, t)
}

func (g grip) Stop(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return g.Tool.Stop(ctx, t)
}

func (g grip) Kill(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return g.Tool.Kill(ctx, t)
}

func (g grip) KillHolders(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return g.Tool.KillHolders(ctx, t)
}

func (g grip) Condemn(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return g.Tool.Condemn(ctx, t)
}

func (g grip) Bind(_ context.Context, t hand.Target) (mount.Filesystem, error) {
	return g.Tool.Bind(t)
}

func (g grip) Save(_ context.Context, id uuid.UUID, record json.RawMessage) error {
	return g.Tool.Save(id, record)
}

func (g grip) Load(context.Context) (map[uuid.UUID]json.RawMessage, error) {
	list, err := g.Tool.Load()
	out := map[uuid.UUID]json.RawMessage{}
	for id, b := range list {
		out[id] = b
	}
	return out, err
}

// An agent sees whether its guard answers, and doctor says it with what would help.
func TestGuardIsSeen(t *testing.T) {
	t.Parallel()
	w := newWarden(t, time.Second)
	f := &flock{T: t}
	f.serve()
	f.a = f.host("host-a", "dir")
	f.a.cfg.Guard = w
	t.Cleanup(f.close)
	f.a.up()
	doctor := func(level, text string) {
		t.Helper()
		list, err := f.a.Doctor(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range list {
			if l.Subject == "guard" && l.Level == level && strings.Contains(l.Text+l.Mend, text) {
				return
			}
		}
		t.Errorf("doctor says nothing %s of the guard with %q: %+v", level, text, list)
	}
	guarded := f.a.registrar.IsAnswering
	await(t, guarded)
	doctor(findings.OK, "watches over 0 datasets")
	w.down()
	await(t, func() bool { return !guarded() })
	doctor(findings.Info, lease.StartGuard)
	w.up()
	await(t, guarded)
}
