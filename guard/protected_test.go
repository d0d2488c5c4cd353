package guard_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/guard"
)

// set changes the fake under its lock.
func (h *fakeHand) set(change func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	change()
}

// I1: no epoch can use a superseded dataset before its holders have ended, neither its own nor the next.
func TestI1SupersededUntilItsHoldersEnd(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	b.hand.set(func() { b.hand.fails[guard.ActKill] = true })
	if _, err := b.Supersede(t.Context(), r.Dataset, 3); !isKind(err, "in_use") {
		t.Errorf("given up: %v", err)
	}
	if _, err := b.Thaw(t.Context(), r.Dataset, 3, b.clock.Boottime()+time.Minute); !isKind(err, "stale") {
		t.Errorf("thawed: %v", err)
	}
	next := r
	next.Epoch, next.Deadline = 4, b.clock.Boottime()+time.Minute
	if _, err := b.Register(t.Context(), next); !isKind(err, "in_use") {
		t.Errorf("registered for the next epoch: %v", err)
	}
	b.hand.set(func() { b.hand.fails[guard.ActKill] = false })
	if _, err := b.Supersede(t.Context(), r.Dataset, 3); err != nil {
		t.Error(err)
	}
	if _, err := b.Thaw(t.Context(), r.Dataset, 3, b.clock.Boottime()+time.Minute); !isKind(err, "stale") {
		t.Errorf("thawed: %v", err)
	}
	if _, err := b.Register(t.Context(), next); err != nil {
		t.Error(err)
	}
}

// I1: the guard wakes at the first of several deadlines.
func TestI1FirstDeadline(t *testing.T) {
	b := newBench(t)
	var first time.Duration
	for _, ahead := range []time.Duration{5, 3, 1, 2, 4} {
		if r := b.registered(t, guard.PolicyKill, ahead*time.Minute); ahead == 1 {
			first = r.Deadline
		}
	}
	await(t, "its alarm is set to the first deadline", func() bool { return b.clock.next() == first }, func() string { return b.clock.next().String() })
}

// I1: a fence that somebody undid is restored, and that is reported.
func TestI1MendedFence(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	b.hand.set(func() { b.hand.anew = true })
	await(t, "a breach is reported", func() bool {
		b.clock.advance(time.Second, false)
		return b.entry(r.Dataset).Breaches > 0
	}, func() string { return "it is not" })
}

// I1: a fence that is no longer effective is not reported as one.
func TestI1BrokenFence(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	b.hand.set(func() {
		for _, act := range []guard.Act{guard.ActFreeze, guard.ActStop, guard.ActKill} {
			b.hand.fails[act] = true
		}
	})
	await(t, "it is fencing", func() bool {
		b.clock.advance(time.Second, false)
		return b.entry(r.Dataset).State == guard.StateFencing
	}, func() string { return string(b.entry(r.Dataset).State) })
}

// I1: a restarted guard continues to watch the datasets that its predecessor had fenced.
func TestI1FencedIsWatchedAfterARestart(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	b.stop()
	b.start(t)
	await(t, "it is looked at", func() bool { return b.clock.waiting() == 2 }, func() string { return string(b.entry(r.Dataset).State) })
}

// I1: the guard fences a dataset whose deadline passes while it looks at the mounts.
func TestI1DeadlineDuringACheck(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	b.hand.set(func() { b.hand.binding = func() { b.clock.advance(2*time.Minute, true) } })
	if _, err := b.Check(t.Context(), r.Dataset, 3); !isKind(err, "stale") {
		t.Errorf("checked: %v", err)
	}
}

// I1: the mount of a dataset stays known when the dataset is registered again.
func TestI1RegisteredAgainWhileMounted(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	want, err := b.Check(t.Context(), r.Dataset, 3)
	if err != nil {
		t.Fatal(err)
	}
	r.Epoch = 4
	if got, err := b.Register(t.Context(), r); err != nil || got.Filesystem != want.Filesystem {
		t.Errorf("%+v, want %+v; %v", got.Filesystem, want.Filesystem, err)
	}
}

// I1: a later deadline whose record is damaged is not used.
func TestI1DamagedDeadline(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	if err := b.feed(r, 3, 2*time.Minute); err != nil {
		t.Fatal(err)
	}
	b.stop()
	path := filepath.Join(b.run, r.Dataset.String()+".deadline")
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	binary.BigEndian.PutUint64(raw[8:], uint64(b.clock.Boottime()+time.Hour))
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	b.start(t)
	if e := b.entry(r.Dataset); e.Deadline != r.Deadline {
		t.Errorf("its deadline is %v, want %v", e.Deadline, r.Deadline)
	}
}

// A release that cannot be flushed to disk is an error.
func TestReleaseThatIsNotFlushed(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	b.hand.set(func() { b.hand.broken = errors.New("no space left") })
	if err := b.Release(t.Context(), r.Dataset, 3); err == nil {
		t.Error("it is released")
	}
}
