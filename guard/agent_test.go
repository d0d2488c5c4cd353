package guard

import (
	"context"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/socket"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// watched is a Hands that records for which agent it is to stop holders, and finds new holders each time.
type watched struct {
	Hands
	agents chan hand.Process
}

func (w watched) Stop(ctx context.Context, t hand.Target, _ time.Duration) hand.Outcome {
	select {
	case w.agents <- t.Agent:
	case <-ctx.Done():
	}
	return hand.Outcome{Done: true, Changed: true}
}

func (watched) Save(context.Context, uuid.UUID, json.RawMessage) error { return nil }

func (watched) Load(context.Context) (map[uuid.UUID]json.RawMessage, error) { return nil, nil }

// A restarted agent registers no fenced dataset, but the guard still knows it as the agent. Otherwise the guard would
// take the agent for a holder and stop it, and the agent could never report that the fence has ended.
func TestAgentOfAFenceIsTheOneOfNow(t *testing.T) {
	w := watched{agents: make(chan hand.Process)}
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, end := context.WithCancel(t.Context())
	g, err := New(ctx, Options{Run: t.TempDir(), Hand: w, Step: time.Millisecond, Recheck: time.Millisecond, Log: log})
	require.NoError(t, err)
	defer g.wg.Wait()
	defer end()
	first, second := hand.Process{PID: 1 << 30, Start: 1}, hand.Process{PID: 1 << 30, Start: 2}
	r := Registration{Dataset: uuid.New(), Volume: "db", Epoch: 1, Paths: []string{t.TempDir()}, Policy: PolicyFreeze, Deadline: g.Clock.Boottime() + MaxAhead/2, agent: first}
	_, err = g.Register(ctx, r)
	require.NoError(t, err)
	g.mu.Lock()
	g.ctx = ctx
	g.startFence(g.table[r.Dataset])
	g.mu.Unlock()
	if got := <-w.agents; got != first {
		t.Errorf("stopped for %+v", got)
	}
	g.setAgent(second)
	<-w.agents // may be from before
	if got := <-w.agents; got != second {
		t.Errorf("looked after for %+v", got)
	}
}

// A process that asks as the agent of this host is recognized as the agent; a person who asks is not.
func TestAgentMeetsTheGuard(t *testing.T) {
	dir := t.TempDir()
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, end := context.WithCancel(t.Context())
	g, err := New(ctx, Options{Run: dir, Hand: watched{}, Log: log})
	require.NoError(t, err)
	l, err := socket.Listen(ctx, filepath.Join(dir, "sock"), "root")
	require.NoError(t, err)
	done := make(chan error)
	go func() { done <- g.Run(ctx, l) }()
	defer func() {
		end()
		assert.NoError(t, <-done)
	}()
	for _, c := range []struct {
		make func(string) (*Client, error)
		pid  int
	}{{NewClient, 0}, {NewAgentClient, os.Getpid()}, {NewClient, os.Getpid()}} {
		client, err := c.make(filepath.Join(dir, "sock"))
		require.NoError(t, err)
		_, err = client.Status(ctx)
		require.NoError(t, err)
		if got := g.withPresentAgent(hand.Target{}).Agent.PID; got != c.pid {
			t.Errorf("the agent is %d, not %d", got, c.pid)
		}
	}
}
