package move_test

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// cutOff is a control that gets no messages from a node, once that is set.
type cutOff struct {
	api.Service
	node uuid.UUID
	away *atomic.Bool
}

func (c cutOff) NodeList(ctx context.Context, filter string) ([]api.Node, error) {
	list, err := c.Service.NodeList(ctx, filter)
	for i := range list {
		list[i].Live = list[i].ID != c.node || !c.away.Load()
	}
	return list, err
}

// blackHole is a connection to other nodes on which everything is lost: a request ends when a connection attempt
// would have timed out.
type blackHole struct {
	patience time.Duration
	asked    *atomic.Int64
}

func (h blackHole) RoundTrip(r *http.Request) (*http.Response, error) {
	h.asked.Add(1)
	select {
	case <-time.After(h.patience):
		return nil, errors.New("i/o timeout")
	case <-r.Context().Done():
		return nil, context.Cause(r.Context())
	}
}

// A mount of a volume whose home is cut off ends with an error that says what to do: at once if control says that the
// home is unreachable, as soon as control says so, and after a bounded time if control never does. The number of
// requests to the home shows that the mount does not wait longer.
func TestI8MountWhileHomeIsCutOff(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.NewVolume("db", nil)
	var away atomic.Bool
	var asked atomic.Int64
	f.B.Stop()
	f.B.Config.Control = cutOff{f.B.Config.Control, f.A.Node(), &away}
	f.B.Config.PeerHTTP = blackHole{4 * f.B.Config.Timing.Retry, &asked} // a real connection attempt ends after 5 s
	f.B.Start()
	mount := func(atMost int64) {
		t.Helper()
		asked.Store(0)
		_, err := f.B.Mount(t.Context(), "db", "id")
		if !errors.Is(err, dataset.ErrOffline) || errors.Is(err, dataset.ErrPending) {
			t.Fatal(err)
		}
		for _, says := range []string{"volume db is on node host-a, which is unreachable", "drover volume move db host-b --force --fenced host-a"} {
			if !strings.Contains(err.Error(), says) {
				t.Errorf("%v: does not say %s", err, says)
			}
		}
		if n := asked.Load(); n > atMost {
			t.Errorf("the home was asked %d times, want %d at most", n, atMost)
		}
	}
	mount(move.UnreachableTries/4 + 1) // each takes four retries, and the wait after it takes one more
	away.Store(true)
	mount(1)
}
