package agenttest

import (
	"context"
	"encoding/json"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// Guard is a guard in the process of the test, with its socket.
type Guard struct {
	T         *testing.T
	Run, Root string
	Step      time.Duration
	*guard.Client

	stop func()
}

// NewGuard starts a guard whose escalation steps take this time. It ends with the test.
func NewGuard(t *testing.T, step time.Duration) *Guard {
	t.Helper()
	dir, err := os.MkdirTemp("", "drv-") //nolint:usetesting // the path of a socket has at most 107 bytes (unix(7))
	require.NoError(t, err)
	w := &Guard{T: t, Run: dir, Root: t.TempDir(), Step: step}
	if w.Client, err = guard.NewClient(guard.SocketPath(w.Run)); err != nil {
		t.Fatal(err)
	}
	w.Start()
	t.Cleanup(func() {
		w.Stop()
		assert.NoError(t, os.RemoveAll(dir))
	})
	return w
}

// Start starts the guard. It continues the work of the guard that was stopped.
func (w *Guard) Start() {
	w.T.Helper()
	ctx, cancel := context.WithCancel(context.Background()) // not that of the test: the guard stops after the agents
	l, err := socket.Listen(ctx, guard.SocketPath(w.Run), "root")
	require.NoError(w.T, err)
	tool := hand.New(hand.Options{
		Run: w.Run, Root: w.Root, Spare: []int{os.Getpid(), os.Getppid()}, Clock: clock.System{},
	})
	g, err := guard.New(ctx, guard.Options{
		Run: w.Run, Hand: localTool{tool}, Step: w.Step, Recheck: w.Step, RetryPause: w.Step / 4,
		Log: verboseLog("guard"),
	})
	require.NoError(w.T, err)
	var wg sync.WaitGroup
	wg.Go(func() {
		assert.NoError(w.T, g.Run(ctx, l))
		tool.Wait()
		_ = l.Close()
	})
	w.stop = func() { cancel(); wg.Wait() }
}

// Stop stops the guard as a kill would: nobody fences until the next Start.
func (w *Guard) Stop() {
	if w.stop != nil {
		w.stop()
		w.stop = nil
	}
}

// Entry returns the guard's entry of a dataset. It works while the test ends.
func (w *Guard) Entry(id uuid.UUID) (guard.Entry, bool) {
	w.T.Helper()
	st, err := w.Status(context.WithoutCancel(w.T.Context()))
	require.NoError(w.T, err)
	for _, e := range st.Datasets {
		if e.Dataset == id {
			return e, true
		}
	}
	return guard.Entry{}, false
}

// localTool is the tool of a guard that has no separate process.
type localTool struct{ *hand.Tool }

func (g localTool) Freeze(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	return within(ctx, budget, t, g.Tool.Freeze)
}

func (g localTool) Stop(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	return within(ctx, budget, t, g.Tool.Stop)
}

func (g localTool) Kill(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	return within(ctx, budget, t, g.Tool.Kill)
}

func (g localTool) KillHolders(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	return within(ctx, budget, t, g.Tool.KillHolders)
}

func (g localTool) Condemn(ctx context.Context, t hand.Target, budget time.Duration) hand.Outcome {
	return within(ctx, budget, t, g.Tool.Condemn)
}

// within calls a step of a fence with a time limit.
func within(
	ctx context.Context, budget time.Duration, t hand.Target, step func(context.Context, hand.Target) hand.Outcome,
) hand.Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget)
	defer cancel()
	return step(ctx, t)
}

func (g localTool) Bind(_ context.Context, t hand.Target) (mount.Filesystem, error) {
	return g.Tool.Bind(t)
}

func (g localTool) Save(_ context.Context, id uuid.UUID, record json.RawMessage) error {
	return g.Tool.Save(id, record)
}

func (g localTool) Load(context.Context) (map[uuid.UUID]json.RawMessage, error) {
	list, err := g.Tool.Load()
	out := map[uuid.UUID]json.RawMessage{}
	for id, b := range list {
		out[id] = b
	}
	return out, err
}
