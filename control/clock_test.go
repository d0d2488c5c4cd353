package control

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// save is all that lies in the store; putBack makes it so again. Indexes go on above all
// that were given out, as they do in a Consul that was put back.
func (x *shared) save() []store.Entry {
	x.Helper()
	list, err := x.st.List(x.Context(), "", "", 0)
	if err != nil {
		x.Fatal(err)
	}
	return list
}

func (x *shared) putBack(saved []store.Entry) {
	x.Helper()
	was := map[string]string{}
	for _, e := range saved {
		was[e.Key] = string(e.Value)
	}
	var writes []store.Write
	for _, e := range x.save() {
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
	if _, err := x.st.Txn(x.Context(), nil, writes); err != nil {
		x.Fatal(err)
	}
}

func (x *shared) halted() bool {
	x.Helper()
	list, err := x.st.List(x.Context(), record.HaltedKey, "", 0)
	if err != nil {
		x.Fatal(err)
	}
	return len(list) == 1
}

// Each way in which a store that went back is seen, alone: by the service that made the
// change which is missing, by another that had heard of it, with nobody to say it.
func TestServicesSeeTheStoreGoBack(t *testing.T) {
	for name, sees := range map[string]func(x *shared, n *agent) error{
		"its own change is missing": func(x *shared, n *agent) error {
			_, err := x.list[0].Submit(x.Context(), create("late"))
			return err
		},
		"it had heard of it": func(x *shared, n *agent) error {
			var h ledger.Hearing
			if err := x.list[1].Ledger.HearNow(x.Context(), &h); err != nil {
				return err
			}
			_, err := x.list[1].Submit(x.Context(), create("late"))
			return err
		},
		"an agent asks for all": func(x *shared, n *agent) error {
			if _, err := x.list[1].Sync(x.Context(), n.id, 0, 0); err != nil {
				return err
			}
			_, err := x.list[1].Submit(x.Context(), create("late"))
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			x := newShared(t, 2)
			n := x.env(x.list[0]).agent("n1")
			n.create("before")
			saved := x.save()
			n.create("since")
			var h ledger.Hearing
			if err := x.list[1].Ledger.HearNow(t.Context(), &h); err != nil {
				t.Fatal(err)
			}
			x.putBack(saved)
			refused(t, sees(x, n), dataset.ErrConflict, "not to be believed", "went back", "drover store recover")
			if !x.halted() {
				t.Error("nobody else is told")
			}
			// It is on record: one that was started since, which saw nothing go back, heeds it.
			later, _ := Assemble(x.list[0].Deps)
			t.Cleanup(later.Close)
			_, err := later.Submit(t.Context(), create("later"))
			refused(t, err, dataset.ErrConflict, "not to be believed")
			if got, err := later.Sync(t.Context(), n.id, 0, 0); err != nil || !strings.Contains(got.Halted, "went back") {
				t.Errorf("an agent that saw nothing is not told: %+v, %v", got, err)
			}
			// That nodes believe the store ends nothing: they may lack nothing of their own.
			n.Service = later
			n.distrust("it is older")
			n.distrust("")
			if !x.halted() {
				t.Error("the word of a node ended what a service saw")
			}
		})
	}
}

// The clock never goes back by itself: not when lanes are dropped, nor one that is a
// living service's by mistake; and what changes a home or a lease moves it.
func TestClockGrows(t *testing.T) {
	x := newShared(t, 3)
	s, keeper := x.list[0], x.list[1]
	n := x.env(s).agent("n1")
	last := uint64(0)
	grows := func(what string, by bool) {
		t.Helper()
		_, clock, err := keeper.Ledger.ReadLanes(t.Context(), nil)
		if err != nil || clock < last || by && clock == last {
			t.Fatalf("%s: the clock is %d after %d, %v", what, clock, last, err)
		}
		last = clock
	}
	grows("register", true)
	n.create("db@fleeting")
	grows("create", true)
	if _, err := keeper.Ledger.Update(t.Context(), func(t *record.Tx) error { t.Delete(record.LeaseKey(uuid.New())); return nil }); err != nil {
		t.Fatal(err)
	}
	grows("a lease that nobody waits for", true)
	n.purge(n.delete("db"))
	grows("purge", true)

	h := keeper.Housekeeper.NewMemory()
	for range 2 { // nobody stands, so all lanes are taken for those of the dead
		if err := keeper.Housekeeper.ForgetServices(t.Context(), h); err != nil {
			t.Fatal(err)
		}
		grows("lanes are dropped", false)
	}
	if list, err := x.st.List(t.Context(), record.RevPrefix, "", 0); err != nil || len(list) != 1 || list[0].Key != record.DroppedKey {
		t.Fatalf("lanes that are left: %v, %v", list, err)
	}
	// Their service lives after all: it goes on in another lane.
	n.create("again")
	grows("create after that", true)
	if x.halted() {
		t.Error("a lane that was dropped is taken for a store that went back")
	}
}
