package lease

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

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
