package controltest

import (
	"context"
	"strings"
	"testing"

	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// Replicas are several services on one store. Only the test moves their clock. They have no background work.
type Replicas struct {
	*testing.T
	Store    store.Store
	Clock    *Clock
	Services []*control.Service
	Profiles *ProfileSet
}

// NewReplicas returns n services on a new store.
func NewReplicas(t *testing.T, n int) *Replicas {
	x := &Replicas{T: t, Clock: &Clock{Clock: fakes.NewClock(Start)}, Profiles: NewProfileSet()}
	dir := t.TempDir()
	st, err := bolt.Open(t.Context(), dir+"/store.db", bolt.Options{Clock: x.Clock})
	require.NoError(t, err)
	t.Cleanup(func() { st.Close() })
	x.Store = st
	for range n {
		s, _ := control.Assemble(control.Deps{
			Store: st, StoreName: "bolt", Clock: x.Clock, Version: "test", Shared: true,
			Profiles: func() control.Profiles { return x.Profiles },
			Failed:   func(what string, err error) { t.Errorf("%s: %v", what, err) },
		})
		t.Cleanup(s.Close)
		if _, err := s.Uptime.RunTime(record.NewTx(t.Context(), st)); err != nil { // as Housekeeper.Run begins
			t.Fatal(err)
		}
		x.Services = append(x.Services, s)
	}
	return x
}

// On returns the harness of one of the services. Its Spy is nil, so CheckInvariants, Dump and OpenOperations cannot be
// used unless the test sets Spy.
func (x *Replicas) On(s *control.Service) *Control {
	e := &Control{TB: x.T, Service: s, Ctx: context.Background(), Clock: x.Clock, ProfileSet: x.Profiles}
	e.Memory = e.Housekeeper.NewMemory()
	return e
}

// Save returns all entries of the store.
func (x *Replicas) Save() []store.Entry {
	x.Helper()
	list, err := x.Store.List(x.Context(), "", "", 0)
	require.NoError(x, err)
	return list
}

// RestoreStore restores the store to what Save returned. Indexes continue above all earlier ones, as in a Consul that
// was restored from a backup.
func (x *Replicas) RestoreStore(saved []store.Entry) {
	x.Helper()
	was := map[string]string{}
	for _, e := range saved {
		was[e.Key] = string(e.Value)
	}
	var writes []store.Write
	for _, e := range x.Save() {
		v, there := was[e.Key]
		delete(was, e.Key)
		switch {
		case strings.HasPrefix(e.Key, store.LivePrefix):
		case !there:
			writes = append(writes, store.Write{Key: e.Key, Delete: true})
		case v != string(e.Value):
			writes = append(writes, store.Write{Key: e.Key, Value: []byte(v)})
		}
	}
	for key, v := range was {
		writes = append(writes, store.Write{Key: key, Value: []byte(v)})
	}
	_, err := x.Store.Txn(x.Context(), nil, writes)
	require.NoError(x, err)
}

// Halted reports whether changes are suspended.
func (x *Replicas) Halted() bool {
	x.Helper()
	list, err := x.Store.List(x.Context(), record.HaltedKey, "", 0)
	require.NoError(x, err)
	return len(list) == 1
}

// EndSession ends the session of an agent.
func (x *Replicas) EndSession(a *Agent) {
	x.Helper()
	s := a.Service.Members.Session(a.ID)
	if s.Session == "" {
		_, err := a.Service.Members.Renew(x.Context(), a.ID, a.Incarnation)
		require.NoError(x, err)
		s = a.Service.Members.Session(a.ID)
	}
	require.NoError(x, x.Store.End(x.Context(), s.Session))
}

// Txns returns how many transactions the store has committed.
func (x *Replicas) Txns() uint64 {
	x.Helper()
	return x.Store.(*bolt.Store).Stats().Txns
}

// TakePart opens or renews the session of a service, so that the other services count it as alive.
func (x *Replicas) TakePart(s *control.Service) {
	x.Helper()
	require.NoError(x, s.Members.RenewReplicaSession(x.Context()))
}

// AwaitEnd waits until the store has ended the session of a key.
func (x *Replicas) AwaitEnd(key string) {
	x.Helper()
	for after := uint64(0); ; {
		if _, err := x.Store.Get(x.Context(), key); err != nil {
			return
		}
		var err error
		if after, err = x.Store.Watch(x.Context(), store.LivePrefix, after); err != nil {
			x.Fatal(err)
		}
	}
}
