package client

import (
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/endpoint"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// some returns a client of several servers on unix sockets, which it asks in their order. A test can replace the
// handler of each server.
func some(t *testing.T, n int) (*Client, []*replica) {
	t.Helper()
	var list []*replica
	var endpoints []string
	for range n {
		r := &replica{t: t, path: filepath.Join(t.TempDir(), "d.sock")}
		r.up()
		t.Cleanup(r.down)
		list, endpoints = append(list, r), append(endpoints, "unix://"+r.path)
	}
	c, err := New(strings.Join(endpoints, ","))
	require.NoError(t, err)
	t.Cleanup(c.Close)
	c.conn.patience = time.Minute
	c.conn.servers = nil
	for _, e := range endpoints { // in the order of the test
		s, transport, err := dial(e, nil)
		require.NoError(t, err)
		t.Cleanup(transport.CloseIdleConnections)
		c.conn.servers = append(c.conn.servers, s)
	}
	return c, list
}

// replica is one server of a test.
type replica struct {
	t       *testing.T
	path    string
	asked   atomic.Int32
	answer  atomic.Pointer[http.HandlerFunc] // nil: an empty list
	server  *http.Server
	serving sync.WaitGroup
}

func (r *replica) up() {
	l, err := net.Listen("unix", r.path)
	require.NoError(r.t, err)
	r.server = server.New(http.HandlerFunc(r.serve))
	s := r.server
	r.serving.Go(func() { _ = s.Serve(l) }) // Serve always returns an error
}

func (r *replica) serve(w http.ResponseWriter, req *http.Request) {
	r.asked.Add(1)
	if f := r.answer.Load(); f != nil {
		(*f)(w, req)
		return
	}
	_, _ = w.Write([]byte(`{"items":[]}`))
}

func (r *replica) down() {
	if r.server != nil {
		r.server.Close()
		r.serving.Wait()
		r.server = nil
	}
}

func (r *replica) answers(f http.HandlerFunc) { r.answer.Store(&f) }

func unavailable(w http.ResponseWriter, _ *http.Request) {
	wire.ProblemOf(dataset.Errorf(dataset.ErrUnavailable, "the store does not answer: no leader")).Write(w)
}

func broken(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }

// A client keeps using the server that answers. It asks the next one if that server is unreachable, breaks the
// connection, sends half an answer, or reports that it is unavailable.
func TestClientGoesOn(t *testing.T) {
	for name, fail := range map[string]func(*replica){
		"gone":        (*replica).down,
		"breaks off":  func(r *replica) { r.answers(broken) },
		"unavailable": func(r *replica) { r.answers(unavailable) },
		"cut short": func(r *replica) {
			r.answers(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Length", "100")
				_, _ = w.Write([]byte("{"))
				panic(http.ErrAbortHandler)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			c, list := some(t, 3)
			for range 3 {
				_, err := c.Pools(soon(t))
				require.NoError(t, err)
			}
			fail(list[0])
			list[0].asked.Store(0)
			for range 3 {
				_, err := c.Pools(soon(t))
				assert.NoError(t, err)
			}
			// net/http itself repeats a request if a connection that was used before breaks.
			if a, b, d := list[0].asked.Load(), list[1].asked.Load(), list[2].asked.Load(); a > 2 || b != 3 || d != 0 {
				t.Errorf("asked %d, %d, %d times", a, b, d)
			}
		})
	}
}

// If the answer to a removal is lost and the repetition does not find the object, the first attempt may have removed it.
// A removal that was sent once fails as the server says.
func TestRemovalWithLostAnswer(t *testing.T) {
	for name, remove := range map[string]func(*Client) error{
		"node": func(c *Client) error {
			_, err := c.RemoveNode(soon(t), "web1", api.NodeRemoval{})
			return err
		},
		"label": func(c *Client) error {
			_, err := c.LabelNode(soon(t), uuid.New(), dataset.LabelChange{Remove: []string{"rack"}})
			return err
		},
	} {
		for _, servers := range []int{1, 2} {
			for _, kind := range []*dataset.Kind{dataset.ErrNotFound, dataset.ErrInvalid, dataset.ErrInUse} {
				refuse := func(w http.ResponseWriter, _ *http.Request) { wire.ProblemOf(kind).Write(w) }
				c, list := some(t, servers)
				for _, r := range list {
					r.answers(refuse)
				}
				if err := remove(c); dataset.KindOf(err) != kind {
					t.Errorf("%s, %d servers, sent once: %v, want %v", name, servers, err, kind)
				}
				var lost atomic.Bool
				list[0].answers(func(w http.ResponseWriter, r *http.Request) {
					if lost.CompareAndSwap(false, true) {
						broken(w, r)
					}
					refuse(w, r)
				})
				want := kind
				if kind != dataset.ErrInUse {
					want = dataset.ErrUnavailable
				}
				if err := remove(c); dataset.KindOf(err) != want {
					t.Errorf("%s, %d servers, sent again: %v, want %v", name, servers, err, want)
				}
			}
		}
	}
}

// If a server has decided, no other is asked. A request that is not idempotent and may have been carried out is
// sent only once.
func TestClientDoesNotGoOn(t *testing.T) {
	once := newCall(endpoint.CreatePool.Endpoint, endpoint.With[api.NewPool]{})
	for name, tc := range map[string]struct {
		answer http.HandlerFunc
		call   call
		want   *dataset.Kind
		second int32
	}{
		"refused":         {func(w http.ResponseWriter, _ *http.Request) { wire.ProblemOf(dataset.ErrNotFound).Write(w) }, newCall(endpoint.ListPools.Endpoint, api.Page{}), dataset.ErrNotFound, 0},
		"stale":           {func(w http.ResponseWriter, _ *http.Request) { wire.ProblemOf(dataset.ErrStale).Write(w) }, newCall(endpoint.Commit.Endpoint, about(uuid.New(), api.Report{})), dataset.ErrStale, 0},
		"once broken":     {broken, once, dataset.ErrUnavailable, 0},
		"once away":       {unavailable, once, dataset.ErrUnavailable, 0},
		"again broken":    {broken, newCall(endpoint.Commit.Endpoint, about(uuid.New(), api.Report{})), nil, 1},
		"afterwards once": {nil, once, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			c, list := some(t, 2)
			if tc.answer != nil {
				list[0].answers(tc.answer)
			}
			err := c.conn.send(soon(t), tc.call)
			if dataset.KindOf(err) != tc.want || list[0].asked.Load() != 1 || list[1].asked.Load() != tc.second {
				t.Errorf("%v, asked %d and %d times", err, list[0].asked.Load(), list[1].asked.Load())
			}
			// The client leaves a server that failed in any case, for the next request.
			if away := tc.want == dataset.ErrUnavailable; away {
				if err := c.conn.send(soon(t), tc.call); err != nil || list[1].asked.Load() != 1 {
					t.Errorf("the next: %v", err)
				}
			}
		})
	}
	t.Run("once gone", func(t *testing.T) {
		c, list := some(t, 2)
		list[0].down()
		if err := c.conn.send(soon(t), once); err != nil || list[1].asked.Load() != 1 {
			t.Errorf("nothing was sent, and the next server was not asked: %v", err)
		}
	})
}

// If the server of a long poll becomes unreachable, the client asks another one. If a server does not answer, as
// when its process is suspended, the client leaves it after the patience.
func TestLongPollsMove(t *testing.T) {
	for name, end := range map[string]func(c *Client, r *replica){
		"gone":   func(_ *Client, r *replica) { r.server.Close() },
		"silent": func(*Client, *replica) {},
	} {
		t.Run(name, func(t *testing.T) {
			c, list := some(t, 2)
			c.conn.patience = time.Second // how long the other server has to answer
			entered := make(chan struct{})
			list[0].answers(func(_ http.ResponseWriter, req *http.Request) { close(entered); <-req.Context().Done() })
			wait := 10 * time.Minute
			if name == "silent" {
				wait = 0
			}
			got := make(chan error, 1)
			go func() {
				_, err := c.Sync(soon(t), uuid.New(), 1, wait)
				got <- err
			}()
			<-entered
			end(c, list[0])
			if err := <-got; err != nil || list[1].asked.Load() != 1 {
				t.Errorf("%v, the other was asked %d times", err, list[1].asked.Load())
			}
		})
	}
}

// If no server can be reached, the error has the reason for each. If one of them answers with an error, that is
// the error. Each is asked once.
func TestAllServersAway(t *testing.T) {
	c, list := some(t, 3)
	for _, r := range list {
		r.down()
	}
	_, err := c.Pools(soon(t))
	if dataset.KindOf(err) != dataset.ErrUnavailable || !strings.HasPrefix(err.Error(), "cannot reach drover at any of 3 addresses: ") || strings.Count(err.Error(), "no such file") != 3 {
		t.Error(err)
	}
	list[1].up()
	list[1].answers(unavailable)
	if _, err = c.Pools(soon(t)); dataset.KindOf(err) != dataset.ErrUnavailable || err.Error() != "the store does not answer: no leader" || list[1].asked.Load() != 1 {
		t.Error(err, list[1].asked.Load())
	}
}

// When the caller's time is over, the error is that of the caller's context, and the client leaves the server.
func TestCallersTime(t *testing.T) {
	c, list := some(t, 2)
	list[0].answers(func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() })
	ctx, cancel := context.WithTimeout(soon(t), time.Millisecond)
	defer cancel()
	if _, err := c.Pools(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
	if _, err := c.Pools(soon(t)); err != nil || list[1].asked.Load() != 1 {
		t.Errorf("%v, the other was asked %d times", err, list[1].asked.Load())
	}
}

// Clients use the servers in random order. A client for a single server stays with it.
func TestSpreadAndPerServer(t *testing.T) {
	first := map[string]int{}
	for range 200 {
		c, err := New("http://a:1, http://b:1,http://c:1")
		require.NoError(t, err)
		first[c.Endpoint()]++
	}
	if len(first) != 3 {
		t.Errorf("200 clients ask these servers first: %v", first)
	}
	c, list := some(t, 2)
	list[0].down()
	apart := c.PerServer()
	if _, err := apart[0].Pools(soon(t)); dataset.KindOf(err) != dataset.ErrUnavailable {
		t.Error(err)
	}
	if _, err := apart[1].Pools(soon(t)); err != nil || len(apart) != 2 || list[1].asked.Load() != 1 {
		t.Error(err)
	}
	if _, err := New("http://a,ftp://b"); dataset.KindOf(err) != dataset.ErrInvalid {
		t.Error(err)
	}
}

// If a server may have received a report without answering, the report to the next server says so. Otherwise it
// does not.
func TestCommitSaysThatItIsSentAgain(t *testing.T) {
	for name, fail := range map[string]func(*replica){
		"breaks off": func(r *replica) { r.answers(broken) },
		"gone":       (*replica).down,
	} {
		t.Run(name, func(t *testing.T) {
			c, list := some(t, 2)
			fail(list[0])
			got := make(chan api.Report, 1)
			list[1].answers(func(w http.ResponseWriter, req *http.Request) {
				var r api.Report
				assert.NoError(t, json.NewDecoder(req.Body).Decode(&r))
				got <- r
				_, _ = w.Write([]byte("{}"))
			})
			op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpCreate}
			_, err := c.Commit(soon(t), uuid.New(), api.Report{Operation: op})
			require.NoError(t, err)
			if r := <-got; r.Retry != (name == "breaks off") || r.Operation.ID != op.ID {
				t.Errorf("it has got %+v", r)
			}
			if n := list[0].asked.Load(); n > 2 {
				t.Errorf("the first was asked %d times, want at most twice", n)
			}
		})
	}
}
