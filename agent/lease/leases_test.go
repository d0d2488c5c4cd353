package lease

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A recalled dataset may be changed but not opened, a relinquished one neither, also after a restart. At a later
// epoch both are allowed.
func TestTableRefusesRecalledAndRelinquishedDatasets(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	defer func() {
		assert.NoError(t, st.Close())
	}()
	table := New(&host.Host{DB: host.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Epoch: 3, Move: uuid.New()}
	expect := func(when string, table *Leases, mayChange, mayOpen bool) {
		t.Helper()
		for name, c := range map[string]struct {
			err  error
			want bool
		}{"MayChange": {table.MayChange(d, "resize"), mayChange}, "MayOpen": {table.MayOpen(d, "mount"), mayOpen}} {
			if (c.err == nil) != c.want || c.err != nil && !errors.Is(c.err, dataset.ErrInUse) {
				t.Errorf("%s: %s returned %v, allowed must be %t", when, name, c.err, c.want)
			}
		}
	}
	expect("held", table, true, true)

	recalled := api.IndexedDataset{Dataset: d}
	recalled.Lease = &dataset.Lease{State: dataset.LeaseRecalled, WantedBy: uuid.New(), Epoch: d.Epoch}
	if !table.Apply(recalled) {
		t.Error("Apply of a recall does not report that control waits for an answer")
	}
	expect("recalled", table, true, false)
	table.EndRecall(d.ID)
	expect("recall ended", table, true, true)

	require.NoError(t, table.Relinquish(t.Context(), d.ID, Relinquished{Epoch: d.Epoch, Move: d.Move}))
	expect("relinquished", table, false, false)
	again := New(&host.Host{DB: host.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
	require.NoError(t, again.Load(t.Context()))
	expect("relinquished, after a restart", again, false, false)
	d.Epoch++
	expect("at a later epoch", again, true, true)
	d.Epoch--
	require.NoError(t, errors.Join(again.Drop(t.Context(), d.ID), again.Drop(t.Context(), d.ID)))
	expect("dropped", again, true, true)
}

// Control's answer to what was relinquished may arrive after the move has ended and its record was removed. It does not
// bring the record back.
func TestToldAfterTheMoveEnded(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	defer func() {
		assert.NoError(t, st.Close())
	}()
	id, r := uuid.New(), Relinquished{Epoch: 3, Move: uuid.New()}
	for name, c := range map[string]struct {
		dropped bool
		now     Relinquished
		told    bool
	}{
		"the move continues":    {false, r, true},
		"the move has ended":    {true, Relinquished{}, false},
		"another move has come": {false, Relinquished{Epoch: 4, Move: uuid.New()}, false},
	} {
		table := New(&host.Host{DB: host.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
		require.NoError(t, table.Relinquish(t.Context(), id, r))
		if c.dropped {
			err = table.Drop(t.Context(), id)
		} else {
			err = table.Relinquish(t.Context(), id, c.now)
		}
		require.NoError(t, errors.Join(err, table.SetReported(t.Context(), id, r)))
		again := New(&host.Host{DB: host.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil)
		require.NoError(t, again.Load(t.Context()))
		for where, table := range map[string]*Leases{"in memory": table, "on disk": again} {
			got, there := table.Relinquished(id)
			if there == c.dropped || got.Reported != c.told || got.Move != c.now.Move {
				t.Errorf("%s, %s: the record is there: %t, %+v", name, where, there, got)
			}
		}
	}
}

// I1: an epoch counts as relinquished only once the disk has it. Otherwise control gives it to another node, and this
// node opens it again after a restart.
func TestI1EpochIsNotRelinquishedIfTheDiskRefuses(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	if err := st.Close(); err != nil { // each write fails from now on
		t.Fatal(err)
	}
	table, id := New(&host.Host{DB: host.OpenDB(st), Clock: clock.System{}}, nil, nil, nil, nil), uuid.New()
	if err := table.Relinquish(t.Context(), id, Relinquished{Epoch: 3, Move: uuid.New()}); err == nil {
		t.Error("an epoch that is not on disk was relinquished")
	}
	if r, relinquished := table.Relinquished(id); relinquished {
		t.Errorf("the table has %+v, which is not on disk", r)
	}
}

// I1: no epoch is opened while a promise about it is valid, nor before it is known how long a promise is valid.
func TestI1SwearAfterPromises(t *testing.T) {
	var now time.Duration
	k := NewKeeper(steady(func() time.Duration { return now }))
	one, other, holder := uuid.New(), uuid.New(), uuid.New()
	grant := func(of uuid.UUID, span time.Duration, want int) {
		t.Helper()
		a := k.Grant(holder, Request{Epochs: []Epoch{{of, 3}}}, span, func(Epoch) string { return "" })
		if len(a.Granted) != want {
			t.Errorf("granted %v, refused %v", a.Granted, a.Refused)
		}
	}
	swear := func(of uuid.UUID, span time.Duration, by uuid.UUID, want time.Duration) {
		t.Helper()
		if got, wait := k.BlockPromises(Epoch{of, 3}, span); got != by || wait != want {
			t.Errorf("sworn at %d: it waits %d for %s, want %d for %s", now, wait, got, want, by)
		}
	}
	grant(one, 100, 0) // control has not registered it
	k.SetReady()
	grant(one, 0, 0) // it is not known how long a promise is valid
	swear(one, 0, uuid.Nil, time.Second)
	now = 200
	swear(other, 300, uuid.Nil, 100) // a promise of the previous process may still be valid
	grant(one, 100, 1)
	grant(one, 10, 1) // a shorter promise withdraws nothing
	now = 250
	grant(other, 100, 1) // neither does a promise about another dataset
	swear(one, 100, holder, 50)
	now = 300
	swear(one, 100, uuid.Nil, 0)
	grant(one, 100, 0)
	if a := k.Grant(holder, Request{Epochs: []Epoch{{one, 4}}}, 100, func(Epoch) string { return "" }); len(a.Granted) != 1 {
		t.Errorf("of a later epoch than the one that was opened: %v", a.Refused)
	}
}

// steady is a clock that calls a function.
type steady func() time.Duration

func (f steady) Steady() time.Duration { return f() }

// later is a guard that has fenced a dataset at a later epoch than the agent knows.
type later struct {
	Guard
	entry  guard.Entry
	thawed atomic.Bool
}

func (g *later) Status(context.Context) (guard.Status, error) {
	return guard.Status{Datasets: []guard.Entry{g.entry}}, nil
}

func (g *later) Thaw(context.Context, uuid.UUID, uint64, time.Duration) (guard.Entry, error) {
	g.thawed.Store(true)
	return g.entry, nil
}

// An agent confirms only the epoch that it knows: it does not thaw a dataset that the guard has fenced at a later
// epoch. Without a guard, a lease does not become bounded in time.
func TestI1LaterFenceIsNotThawed(t *testing.T) {
	d := dataset.Dataset{ID: uuid.New(), Volume: "db", Epoch: 2}
	for epoch, thawed := range map[uint64]bool{1: true, 2: true, 3: false} {
		g := &later{entry: guard.Entry{Epoch: epoch, State: guard.StateFenced}}
		g.entry.Dataset = d.ID
		h := &host.Host{Clock: clock.System{}, Log: quiet()}
		err := New(h, nil, g, nil, nil).Registrar.Continue(t.Context(), d, time.Hour)
		if errors.Is(err, dataset.ErrStale) == thawed || g.thawed.Load() != thawed {
			t.Errorf("fenced at epoch %d: thawed %t, %v", epoch, g.thawed.Load(), err)
		}
		_, err = New(h, nil, nil, nil, nil).Registrar.Adopt(t.Context(), d)
		require.ErrorIsf(t, err, dataset.ErrUnsupported, "on a host without a guard")
	}
}

// A promise counts only for the node that answers. If another node answers at the address, according to its
// certificate or to its answer, the expected node has promised nothing.
func TestI1AnswersOfOthers(t *testing.T) {
	now := clock.System{}.Now()
	ca, err := pki.Create(t.TempDir(), now)
	require.NoError(t, err)
	member := func(id uuid.UUID) *pki.Credentials {
		p, err := ca.Issue(pki.Identity{Cluster: ca.Cluster(), Kind: pki.Node, Node: id, Name: "host"}, now)
		require.NoError(t, err)
		return pki.NewCredentials(p, clock.System{}, nil)
	}
	wanted, other := uuid.New(), uuid.New()
	for name, c := range map[string]struct {
		cert, says uuid.UUID
		status     int
		want       bool
	}{
		"the node itself":                      {wanted, wanted, http.StatusOK, true},
		"the node itself, without its name":    {wanted, uuid.Nil, http.StatusOK, false},
		"another node":                         {other, other, http.StatusOK, false},
		"another one that says it is that one": {other, wanted, http.StatusOK, false},
		"another one that wants nothing of it": {other, uuid.Nil, http.StatusForbidden, false},
		"one that says it is another":          {wanted, other, http.StatusOK, false},
		"without a certificate":                {uuid.Nil, wanted, http.StatusOK, true},
		"another one without":                  {uuid.Nil, other, http.StatusOK, false},
		"somebody":                             {uuid.Nil, uuid.Nil, http.StatusOK, false},
	} {
		s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			if c.status != http.StatusOK {
				_ = json.NewEncoder(w).Encode(dataset.ProblemOf(dataset.Errorf(dataset.ErrForbidden, "no")))
				return
			}
			_ = json.NewEncoder(w).Encode(Answer{Node: c.says, Duration: dataset.Duration(time.Second)})
		}))
		var rt http.RoundTripper = plain{}
		if c.cert != uuid.Nil {
			s.Listener = tls.NewListener(s.Listener, member(c.cert).Server(pki.Node))
			rt = &http.Transport{TLSClientConfig: member(uuid.New()).Client(pki.Node), DisableKeepAlives: true}
		}
		s.Start()
		address := s.Listener.Addr().String()
		got, err := Ask(t.Context(), rt, address, wanted, Request{})
		if (err == nil) != c.want || err != nil && (!errors.Is(err, dataset.ErrOffline) || got.Duration != 0) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
		s.Close()
	}
}

// plain is a connection without certificates.
type plain struct{}

func (plain) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.URL.Scheme = "http"
	return http.DefaultTransport.RoundTrip(r)
}
