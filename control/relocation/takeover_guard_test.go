package relocation_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/linux/mount"
)

// The guard of a host in the simulation is the real one, with its table and its rules. It has no background loop: it
// checks what is due when it is called, which happens at each tick.

// sentry is a host's guard, as its agent uses it.
type sentry struct {
	*takeovers
	of    *taker
	guard *guard.Guard
	id    uuid.UUID
}

func (w *takeovers) sentry(n *taker, run string) *sentry {
	w.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	g, err := guard.New(w.Ctx, guard.Options{Run: run, Hand: obedient{}, Clock: guardClock{w.Clock}, Log: log, Version: "simulated"})
	if err != nil {
		w.Fatalf("%v", err)
	}
	return &sentry{takeovers: w, of: n, guard: g, id: w.Dataset.ID}
}

// has returns the guard's entry of the volume.
func (s *sentry) has() (guard.Entry, bool) {
	for _, e := range s.guard.Status().Datasets {
		return e, e.State != guard.StateSuperseded
	}
	return guard.Entry{}, false
}

// feeds tells the guard until when the volume may be written to, if it still may: it registers the volume, or thaws
// it, since the host that feeds the guard holds the lease of that epoch.
func (s *sentry) feeds() {
	s.Helper()
	e, there := s.has()
	if there && e.Epoch != s.of.epoch {
		s.gives()
		there = false
	}
	if s.of.deadline <= s.now() {
		return
	}
	until := s.of.deadline + guardStart
	var err error
	if there {
		_, err = s.guard.Thaw(s.Ctx, s.id, e.Epoch, until)
	} else {
		_, err = s.guard.Register(s.Ctx, guard.Registration{
			Dataset: s.id, Volume: "db", Epoch: s.of.epoch, Paths: []string{"/mnt/db"}, Own: true, Policy: guard.PolicyKill, Deadline: until,
		})
	}
	if err != nil {
		s.Fatalf("%s: %v", s.of.name, err)
	}
}

// gives supersedes the volume that is open, because it has continued at another node.
func (s *sentry) gives() {
	s.Helper()
	if e, there := s.has(); there {
		if _, err := s.guard.Supersede(s.Ctx, s.id, e.Epoch); err != nil {
			s.Fatalf("%s: %v", s.of.name, err)
		}
	}
}

// open reports whether something can write to the volume: until the guard fences it, and for as long as a fence may
// take after that.
func (s *sentry) open() bool {
	s.Helper()
	e, there := s.has()
	if !there {
		return false
	}
	_, err := s.guard.Check(s.Ctx, s.id, e.Epoch) // what is due is fenced from here on
	if err != nil && !errors.Is(err, dataset.ErrStale) {
		s.Fatalf("%s: %v", s.of.name, err)
	}
	return err == nil || s.now()+guardStart <= e.Deadline+s.Timing.Session*3/10
}

// guardClock is the simulation's time. It starts some time after the boot.
type guardClock struct{ *controltest.Clock }

const guardStart = time.Minute

func (c guardClock) Boottime() time.Duration { return c.Steady() + guardStart }

func (guardClock) NewAlarm() (guard.Alarm, error) { return nil, errors.New("nobody waits") }

// obedient carries out every request at once.
type obedient struct{}

func (obedient) Freeze(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Stop(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Kill(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) KillHolders(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Condemn(context.Context, hand.Target, time.Duration) hand.Outcome {
	return hand.Outcome{Done: true}
}

func (obedient) Undo(context.Context, hand.Target) error { return nil }

func (obedient) Bind(context.Context, hand.Target) (mount.Filesystem, error) {
	return mount.Filesystem{Major: 7, Minor: 1, Root: "/"}, nil
}

func (obedient) Save(context.Context, uuid.UUID, json.RawMessage) error { return nil }

func (obedient) Load(context.Context) (map[uuid.UUID]json.RawMessage, error) {
	return map[uuid.UUID]json.RawMessage{}, nil
}
