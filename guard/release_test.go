package guard_test

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// overdue is a dataset at epoch 3 that is fenced because its deadline passed.
func (b *fakeHost) overdue(t *testing.T) guard.Registration {
	t.Helper()
	r := b.registered(t, guard.PolicyKill, time.Minute)
	b.clock.advance(2*time.Minute, false)
	b.until(t, r.Dataset, guard.StateFenced)
	return r
}

// I1: a dataset that is fenced at one epoch is not released for another epoch, earlier or later.
func TestI1LetGoOfAtItsEpochAlone(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	for _, epoch := range []uint64{2, 4} {
		if _, err := b.Thaw(t.Context(), r.Dataset, epoch, b.clock.Boottime()+time.Minute); !isKind(err, "stale") {
			t.Errorf("thawed for epoch %d: %v", epoch, err)
		}
		if _, err := b.Supersede(t.Context(), r.Dataset, epoch); !isKind(err, "stale") {
			t.Errorf("given up for epoch %d: %v", epoch, err)
		}
		if e := b.entry(r.Dataset); e.State != guard.StateFenced {
			t.Errorf("after epoch %d: %+v", epoch, e)
		}
	}
	armed := b.registered(t, guard.PolicyKill, time.Minute)
	for _, epoch := range []uint64{2, 4} {
		if err := b.Release(t.Context(), armed.Dataset, epoch); !isKind(err, "stale") || b.entry(armed.Dataset).State != guard.StateArmed {
			t.Errorf("released for epoch %d: %v, %+v", epoch, err, b.entry(armed.Dataset))
		}
	}
}

// I1: a dataset that is armed at one epoch is neither registered nor checked at an earlier one.
func TestI1EarlierEpochIsNotRegistered(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	r.Epoch = 2
	if _, err := b.Register(t.Context(), r); !isKind(err, "stale") || b.entry(r.Dataset).Epoch != 3 {
		t.Errorf("%v, %+v", err, b.entry(r.Dataset))
	}
	for _, epoch := range []uint64{2, 4} {
		if _, err := b.Check(t.Context(), r.Dataset, epoch); !isKind(err, "stale") {
			t.Errorf("checked for epoch %d: %v", epoch, err)
		}
	}
}

// I1: a fenced dataset is thawed only until a moment that is in the future, and near.
func TestI1ThawedUntilAMomentToCome(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	for ahead, code := range map[time.Duration]string{0: "stale", -time.Second: "stale", guard.MaxAhead + 1: "invalid"} {
		if _, err := b.Thaw(t.Context(), r.Dataset, 3, b.clock.Boottime()+ahead); !isKind(err, code) || b.entry(r.Dataset).State != guard.StateFenced {
			t.Errorf("%v ahead: %v, %+v", ahead, err, b.entry(r.Dataset))
		}
	}
}

// I1: a dataset whose deadline has passed is not released, even if the guard has not yet fenced it.
func TestI1OverdueIsNotReleased(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	b.clock.advance(2*time.Minute, true) // no alarm rings
	if err := b.Release(t.Context(), r.Dataset, 3); !isKind(err, "in_use") {
		t.Errorf("released: %v", err)
	}
	b.until(t, r.Dataset, guard.StateFenced)
}

// I1: a dataset that another request is changing is not released.
func TestI1ReleasedWhileItIsRegistered(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	disk := make(chan struct{})
	b.hand.mu.Lock()
	b.hand.hangs = disk
	b.hand.mu.Unlock()
	r.Epoch = 4
	done := make(chan error, 1)
	go func() { _, err := b.Register(t.Context(), r); done <- err }()
	await(t, "it is being registered", func() bool { return b.entry(r.Dataset).Epoch == 4 }, func() string { return "it is not" })
	if err := b.Release(t.Context(), r.Dataset, 4); !isKind(err, "conflict") {
		t.Errorf("released: %v", err)
	}
	if _, err := b.Register(t.Context(), r); !isKind(err, "conflict") {
		t.Errorf("registered a second time at once: %v", err)
	}
	close(disk)
	if err := <-done; err != nil || b.entry(r.Dataset).State != guard.StateArmed {
		t.Errorf("%v, %+v", err, b.entry(r.Dataset))
	}
}

// I1: a fence is checked and restored as long as its holders could not all be killed. Nothing else does that, because
// the agent may have ended.
func TestI1FenceIsCheckedUntilAllAreKilled(t *testing.T) {
	for name, overdue := range map[string]bool{"fenced": true, "armed": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := b.registered(t, guard.PolicyKill, time.Minute)
			if overdue {
				b.clock.advance(2*time.Minute, false)
				b.until(t, r.Dataset, guard.StateFenced)
			}
			b.hand.mu.Lock()
			b.hand.fails["condemn"] = true
			b.hand.mu.Unlock()
			if _, err := b.Supersede(t.Context(), r.Dataset, 3); !isKind(err, "in_use") {
				t.Errorf("given up: %v", err)
			}
			b.until(t, r.Dataset, guard.StateFenced)
			before := len(b.hand.acts())
			await(t, "the fence is checked", func() bool {
				b.clock.advance(time.Minute, false)
				return len(b.hand.acts()) > before
			}, func() string { return "it is not" })
			b.hand.mu.Lock()
			b.hand.fails["condemn"] = false
			b.hand.mu.Unlock()
			e, err := b.Supersede(t.Context(), r.Dataset, 3)
			if err != nil || e.State != guard.StateSuperseded {
				t.Errorf("%s, %v", e.State, err)
			}
			assert.NoErrorf(t, b.Release(t.Context(), r.Dataset, 3), "released")
		})
	}
}

// I1: a superseded dataset is not thawed before all processes that could write to it were killed.
func TestI1NotThawedBeforeAllAreKilled(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	b.hand.mu.Lock()
	b.hand.fails["condemn"] = true
	b.hand.mu.Unlock()
	if _, err := b.Supersede(t.Context(), r.Dataset, 3); !isKind(err, "in_use") {
		t.Errorf("given up: %v", err)
	}
	if slices.Contains(b.hand.acts(), guard.ActThaw) {
		t.Errorf("thawed: %v", b.hand.acts())
	}
	if err := b.Release(t.Context(), r.Dataset, 3); !isKind(err, "in_use") {
		t.Errorf("released: %v", err)
	}
}

// I1: the fence of a dataset ends when the dataset is superseded. Otherwise it would stop and kill the users of the
// next epoch.
func TestI1SupersedeEndsTheFence(t *testing.T) {
	b := newBench(t)
	r := b.overdue(t)
	// The alarms of the guard and of the fence, which checks again.
	fencing := func() bool { return b.clock.waiting() == 2 }
	await(t, "the fence waits", fencing, func() string { return "it does not" })
	_, err := b.Supersede(t.Context(), r.Dataset, 3)
	require.NoError(t, err)
	if fencing() {
		t.Error("the fence continues")
	}
}

// I1: the deadline of a superseded epoch does not apply to the next epoch, also in a restarted guard.
func TestI1DeadlineIsOfItsEpoch(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	require.NoError(t, b.feed(r, 3, 2*time.Minute))
	_, err := b.Supersede(t.Context(), r.Dataset, 3)
	require.NoError(t, err)
	r.Epoch, r.Deadline = 4, b.clock.Boottime()+30*time.Second
	_, err = b.Register(t.Context(), r)
	require.NoError(t, err)
	b.stop()
	b.start(t)
	if e := b.entry(r.Dataset); e.Epoch != 4 || e.Deadline != r.Deadline {
		t.Errorf("epoch %d, its deadline is %v, want %v", e.Epoch, e.Deadline, r.Deadline)
	}
}

// I1: a dataset that is registered too late is fenced even if the guard cannot find out whether it is mounted.
func TestI1RegisteredLateWithoutALook(t *testing.T) {
	b := newBench(t)
	b.hand.mu.Lock()
	b.hand.blind = errors.New("no answer from the filesystem")
	b.hand.mu.Unlock()
	r := guard.Registration{
		Dataset: uuid.New(), Volume: "db", Epoch: 3, Paths: []string{"/mnt/db"}, Own: true, Policy: guard.PolicyKill, Deadline: b.clock.Boottime(),
	}
	if _, err := b.Register(t.Context(), r); !isKind(err, "stale") {
		t.Errorf("registered: %v", err)
	}
	b.until(t, r.Dataset, guard.StateFenced)
}

// I1: a deadline that passes while the holders are killed starts a fence. That fence ends before the dataset is
// thawed. Otherwise it would freeze the dataset again, and stop the users of the next epoch.
func TestI1DeadlinePassesDuringSupersede(t *testing.T) {
	for name, killed := range map[string]bool{"holders are killed": true, "a holder is left": false} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			r := b.registered(t, guard.PolicyKill, time.Minute)
			b.hand.mu.Lock()
			b.hand.fails["condemn"] = !killed
			b.hand.mu.Unlock()
			b.hand.condemning = func() {
				b.clock.advance(2*time.Minute, false)
				b.until(t, r.Dataset, guard.StateFenced)
				// The alarms of the guard and of the fence, which checks again.
				fencing := func() bool { return b.clock.waiting() == 2 }
				await(t, "the fence waits", fencing, func() string { return "it does not" })
			}
			e, err := b.Supersede(t.Context(), r.Dataset, 3)
			if !killed {
				if !isKind(err, "in_use") || e.State != guard.StateFenced {
					t.Errorf("it is %s: %v", e.State, err)
				}
				return
			}
			if err != nil || e.State != guard.StateSuperseded {
				t.Fatalf("it is %s: %v", e.State, err)
			}
			if b.clock.waiting() > 1 { // one is the guard's alarm
				t.Error("the fence continues")
			}
			if e := b.entry(r.Dataset); e.State != guard.StateSuperseded {
				t.Errorf("it is %s", e.State)
			}
		})
	}
}

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
	_, err := b.Supersede(t.Context(), r.Dataset, 3)
	assert.NoError(t, err)
	if _, err := b.Thaw(t.Context(), r.Dataset, 3, b.clock.Boottime()+time.Minute); !isKind(err, "stale") {
		t.Errorf("thawed: %v", err)
	}
	_, err = b.Register(t.Context(), next)
	assert.NoError(t, err)
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
	require.NoError(t, err)
	r.Epoch = 4
	if got, err := b.Register(t.Context(), r); err != nil || got.Filesystem != want.Filesystem {
		t.Errorf("%+v, want %+v; %v", got.Filesystem, want.Filesystem, err)
	}
}

// I1: a later deadline whose record is damaged is not used.
func TestI1DamagedDeadline(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	require.NoError(t, b.feed(r, 3, 2*time.Minute))
	b.stop()
	path := filepath.Join(b.run, r.Dataset.String()+".deadline")
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	binary.BigEndian.PutUint64(raw[8:], uint64(b.clock.Boottime()+time.Hour))
	require.NoError(t, os.WriteFile(path, raw, 0o600))
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
