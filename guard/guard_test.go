package guard_test

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"pgregory.net/rapid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/run"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

func (b *fakeHost) feed(r guard.Registration, epoch uint64, ahead time.Duration) error {
	return b.Feed([]guard.Feed{{Dataset: r.Dataset, Epoch: epoch, Deadline: b.clock.Boottime() + ahead}})[r.Dataset]
}

// A feed after the deadline is too late, whether or not the guard has run since then: another node relies on the
// fence.
func TestFeedAfterTheDeadline(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, 10*time.Second)
	b.clock.advance(10*time.Second, true)
	if err := b.feed(r, 3, time.Minute); !isKind(err, "stale") {
		t.Errorf("it was fed: %v", err)
	}
	if e := b.until(t, r.Dataset, guard.StateFenced); e.Fence.By != guard.ActFreeze || e.Fence.Overrun != 0 {
		t.Errorf("%+v", e.Fence)
	}
}

// A deadline only grows. A feed for another epoch, another clock or an unknown dataset changes nothing.
func TestFeeds(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	for _, c := range []struct {
		epoch uint64
		ahead time.Duration
		code  string
		want  time.Duration
	}{
		{3, 2 * time.Minute, "", 2 * time.Minute},
		{3, time.Second, "", 2 * time.Minute},
		{2, 3 * time.Minute, "stale", 2 * time.Minute},
		{4, 3 * time.Minute, "stale", 2 * time.Minute},
		{3, guard.MaxAhead + 1, "invalid", 2 * time.Minute},
		{3, guard.MaxAhead, "", guard.MaxAhead},
	} {
		err := b.feed(r, c.epoch, c.ahead)
		if (err == nil) != (c.code == "") || err != nil && !isKind(err, c.code) {
			t.Errorf("%+v: %v", c, err)
		}
		if got := b.entry(r.Dataset).Deadline - b.clock.Boottime(); got != c.want {
			t.Errorf("%+v: it is %v ahead", c, got)
		}
	}
	r.Dataset = uuid.New()
	if err := b.feed(r, 3, time.Minute); !isKind(err, "not_found") {
		t.Errorf("%v", err)
	}
}

// After any sequence of feeds, registrations and sleeps, each armed dataset has a deadline in the future, and each
// fenced dataset stays fenced until it is thawed. Another guard that reads the same records has the same state.
func TestDeadlinesProperty(t *testing.T) {
	b := newBench(t)
	rapid.Check(t, func(rt *rapid.T) {
		r := b.registered(t, guard.PolicyKill, time.Minute)
		deadline, fenced := b.clock.Boottime()+time.Minute, false
		rt.Repeat(map[string]func(*rapid.T){
			"feed": func(rt *rapid.T) {
				ahead := time.Duration(rapid.IntRange(1, 100).Draw(rt, "ahead")) * time.Second
				err := b.feed(r, 3, ahead)
				if (err != nil) != fenced {
					rt.Fatalf("fed: %v, fenced: %t", err, fenced)
				}
				if !fenced {
					deadline = max(deadline, b.clock.Boottime()+ahead)
				}
			},
			"sleep": func(rt *rapid.T) {
				b.clock.advance(time.Duration(rapid.IntRange(1, 50).Draw(rt, "sleep"))*time.Second, rapid.Bool().Draw(rt, "quiet"))
				fenced = fenced || b.clock.Boottime() >= deadline
			},
			"register": func(rt *rapid.T) {
				again := r
				again.Deadline = b.clock.Boottime() + time.Second
				_, err := b.Register(t.Context(), again)
				if (err != nil) != fenced {
					rt.Fatalf("registered: %v, fenced: %t", err, fenced)
				}
				if !fenced {
					deadline = max(deadline, again.Deadline)
				}
			},
			"check": func(rt *rapid.T) {
				if _, err := b.Check(t.Context(), r.Dataset, 3); (err != nil) != fenced {
					rt.Fatalf("checked: %v, fenced: %t", err, fenced)
				}
			},
			"restart": func(*rapid.T) {
				b.stop()
				b.start(t)
				fenced = fenced || b.clock.Boottime() >= deadline
			},
			"thaw": func(rt *rapid.T) {
				next := b.clock.Boottime() + time.Minute
				_, err := b.Thaw(t.Context(), r.Dataset, 3, next)
				require.NoError(rt, err)
				if fenced {
					deadline = next
				}
				deadline, fenced = max(deadline, next), false
			},
			"": func(rt *rapid.T) {
				e := b.entry(r.Dataset)
				if !fenced && (e.State != guard.StateArmed || e.Deadline != deadline) {
					rt.Fatalf("%+v; want a deadline of %v", e, deadline)
				}
			},
		})
		_, err := b.Supersede(t.Context(), r.Dataset, 3)
		require.NoError(rt, err)
		require.NoError(rt, b.Dismiss(t.Context(), r.Dataset, 3))
	})
}

// Each rung is used when the previous one did not help, as far as the policy says. Then the ladder starts again from
// the top.
func TestLadder(t *testing.T) {
	for policy, want := range map[guard.Policy][]guard.Act{
		guard.PolicyFreeze:   {guard.ActFreeze, guard.ActStop},
		guard.PolicyKill:     {guard.ActFreeze, guard.ActStop, guard.ActKill},
		guard.PolicyWatchdog: {guard.ActFreeze, guard.ActStop, guard.ActKill},
	} {
		t.Run(string(policy), func(t *testing.T) {
			b := newBench(t)
			b.hand.fails = map[guard.Act]bool{guard.ActFreeze: true, guard.ActStop: true, guard.ActKill: true}
			r := b.registered(t, policy, time.Second)
			if policy == guard.PolicyWatchdog {
				await(t, "the watchdog is fed", func() bool { return b.dog.feeds() > 0 }, func() string { return "" })
			}
			bound := time.Duration(len(want)) * time.Second
			if policy == guard.PolicyWatchdog {
				bound += b.dog.Timeout()
			}
			if e := b.entry(r.Dataset); e.Bound != bound {
				t.Errorf("it is bound to %v, want %v", e.Bound, bound)
			}
			b.clock.advance(time.Second, false)
			await(t, "the ladder was climbed", func() bool {
				e := b.entry(r.Dataset)
				return len(b.hand.acts()) >= len(want) && (policy != guard.PolicyWatchdog || e.Steps[len(e.Steps)-1].Act == guard.ActReboot)
			}, func() string { return "" })
			fed := b.dog.feeds()
			await(t, "it was climbed again", func() bool {
				b.clock.advance(time.Second, false)
				return len(b.hand.acts()) >= 2*len(want)
			}, func() string { return "" })
			if got := b.hand.acts()[:2*len(want)]; !slices.Equal(got, append(slices.Clone(want), want...)) {
				t.Errorf("it did %v", got)
			}
			if e := b.entry(r.Dataset); e.State != guard.StateFencing || e.Fence != nil {
				t.Errorf("%+v", e)
			}
			if b.dog.feeds() != fed {
				t.Error("the watchdog was fed after that")
			}
			b.stop()
			if policy == guard.PolicyWatchdog && b.dog.disarmed {
				t.Error("the watchdog was disarmed")
			}
		})
	}
}

// The watchdog is fed while a dataset requires it, and disarmed once none does.
func TestWatchdog(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyWatchdog, 30*time.Minute)
	for range 5 {
		fed := b.dog.feeds()
		b.clock.advance(2*time.Second, false)
		await(t, "it is fed", func() bool { return b.dog.feeds() > fed }, func() string { return "" })
	}
	if err := b.Dismiss(t.Context(), r.Dataset, 3); !errors.Is(err, dataset.ErrConflict) || b.dog.closed {
		t.Errorf("an armed dataset was dismissed by a process that is not its agent: %v", err)
	}
	require.NoError(t, b.Release(t.Context(), r.Dataset, 3))
	if !b.dog.closed || !b.dog.disarmed {
		t.Error("it is armed still")
	}
}

// A registration that fails leaves the watchdog closed, unless another dataset needs it: if the guard ended, an open
// watchdog would reboot the host.
func TestWatchdogAfterFailedRegistration(t *testing.T) {
	b := newBench(t)
	r := guard.Registration{
		Dataset: uuid.New(), Volume: "db", Epoch: 1, Paths: []string{"/mnt/db"}, Policy: guard.PolicyWatchdog,
		Deadline: b.clock.Boottime() + time.Minute,
	}
	breakDisk := func(err error) {
		b.hand.mu.Lock()
		defer b.hand.mu.Unlock()
		b.hand.broken = err
	}
	breakDisk(errors.New("no space left"))
	if _, err := b.Register(t.Context(), r); err == nil || !b.dog.closed || !b.dog.disarmed {
		t.Errorf("closed %t, disarmed %t: %v", b.dog.closed, b.dog.disarmed, err)
	}
	breakDisk(nil)
	b.dog.closed, b.dog.disarmed = false, false
	b.registered(t, guard.PolicyWatchdog, time.Minute)
	breakDisk(errors.New("no space left"))
	if _, err := b.Register(t.Context(), r); err == nil || b.dog.closed {
		t.Errorf("with another dataset: closed %t: %v", b.dog.closed, err)
	}
}

// Check does not read an entry while another request changes it: its error names the volume that it was called for.
func TestCheckDuringRegistration(t *testing.T) {
	b := newBench(t)
	r := b.registered(t, guard.PolicyKill, time.Minute)
	b.hand.blind = errors.New("the mounts cannot be read")
	b.hand.binding = func() {
		ended, cancel := context.WithCancel(t.Context())
		cancel() // the hand does not answer during a Bind
		renamed := r
		renamed.Volume = "renamed"
		_, _ = b.Register(ended, renamed)
	}
	if _, err := b.Check(t.Context(), r.Dataset, r.Epoch); err == nil || !strings.HasPrefix(err.Error(), "check volume db: ") {
		t.Errorf("%v", err)
	}
	b.hand.mu.Lock()
	b.hand.binding = nil
	b.hand.mu.Unlock()
}

// A dataset whose record cannot be flushed is not registered. A disk that hangs delays no fence.
func TestDisk(t *testing.T) {
	b := newBench(t)
	b.hand.broken = errors.New("no space left")
	r := guard.Registration{Dataset: uuid.New(), Volume: "db", Epoch: 1, Paths: []string{"/mnt/db"}, Policy: guard.PolicyKill, Deadline: b.clock.Boottime() + time.Second}
	if _, err := b.Register(t.Context(), r); err == nil || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("%v", err)
	}
	if got := b.Status().Datasets; len(got) > 0 {
		t.Errorf("%+v", got)
	}
	b.hand.mu.Lock()
	b.hand.broken = nil
	b.hand.mu.Unlock()
	r = b.registered(t, guard.PolicyKill, time.Second)
	hangs := make(chan struct{})
	b.hand.mu.Lock()
	b.hand.hangs = hangs
	b.hand.mu.Unlock()
	b.clock.advance(time.Second, false)
	b.until(t, r.Dataset, guard.StateFenced)
	close(hangs)
}

// A guard finds the flushed records if the other folder is gone. Records of another boot fence nothing. A damaged
// record is reported.
func TestRecords(t *testing.T) {
	b := newBench(t)
	kept, old, damaged := b.registered(t, guard.PolicyKill, time.Minute), b.registered(t, guard.PolicyKill, time.Minute), b.registered(t, guard.PolicyKill, time.Minute)
	b.stop()
	for _, r := range []guard.Registration{kept, old, damaged} {
		require.NoError(t, os.Remove(filepath.Join(b.run, r.Dataset.String()+".json")))
	}
	b.hand.records[old.Dataset] = json.RawMessage(strings.ReplaceAll(string(b.hand.records[old.Dataset]), `"boot":"`, `"boot":"of another-`))
	b.hand.records[damaged.Dataset] = json.RawMessage("null")
	b.start(t)
	if e := b.entry(kept.Dataset); e.State != guard.StateArmed || e.Deadline != kept.Deadline {
		t.Errorf("%+v", e)
	}
	if e := b.entry(old.Dataset); e.State != guard.StateRebooted {
		t.Errorf("%+v", e)
	}
	if s := b.Status(); len(s.Datasets) != 2 || len(s.Missing) != 1 || !strings.Contains(s.Missing[0], damaged.Dataset.String()) {
		t.Errorf("%+v", s)
	}
	if _, err := b.Register(t.Context(), old); err != nil {
		t.Errorf("registered again after a boot: %v", err)
	}
}

// I1: a record that a later guard wrote does not make this guard forget the dataset. It is reported, and fenced by the
// keys that can be read: at its deadline, or at once if the deadline cannot be read.
func TestI1B16RecordsOfALaterFormat(t *testing.T) {
	b := newBench(t)
	known, changed := b.registered(t, guard.PolicyKill, time.Minute), b.registered(t, guard.PolicyKill, time.Minute)
	b.stop()
	later := func(id uuid.UUID, old, now string) {
		t.Helper()
		path := filepath.Join(b.run, id.String()+".json")
		raw, err := os.ReadFile(path)
		require.NoError(t, err)
		text := strings.Replace(string(raw), `"format":1,`, `"format":2,"new":{},`, 1)
		if text = strings.Replace(text, old, now, 1); !strings.Contains(text, `"format":2`) || !strings.Contains(text, now) {
			t.Fatalf("the record is %s", text)
		}
		b.hand.records[id] = json.RawMessage(text)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	later(known.Dataset, `"volume":"db"`, `"volume":{"name":"db"}`)
	later(changed.Dataset, `"deadline":`, `"until":`)
	b.start(t)
	b.until(t, changed.Dataset, guard.StateFenced)
	if e := b.entry(known.Dataset); e.State != guard.StateArmed || e.Deadline != known.Deadline || e.Epoch != known.Epoch {
		t.Errorf("the entry is %+v, want one that is armed until %v", e, known.Deadline)
	}
	missing := strings.Join(b.Status().Missing, "\n")
	for _, r := range []guard.Registration{known, changed} {
		if !strings.Contains(missing, r.Dataset.String()) || !strings.Contains(missing, "format 2") {
			t.Errorf("the guard reports %q, want format 2 of dataset %s", missing, r.Dataset)
		}
	}
	b.clock.advance(time.Minute, false)
	b.until(t, known.Dataset, guard.StateFenced)
}

func TestBadRegistrations(t *testing.T) {
	b := newBench(t)
	b.hand.bare = true
	good := guard.Registration{Dataset: uuid.New(), Volume: "db", Epoch: 1, Paths: []string{"/mnt/db"}, Policy: guard.PolicyKill, Deadline: b.clock.Boottime() + time.Minute}
	for name, harm := range map[string]func(*guard.Registration){
		"no dataset":     func(r *guard.Registration) { r.Dataset = uuid.Nil },
		"policy":         func(r *guard.Registration) { r.Policy = "pray" },
		"no path":        func(r *guard.Registration) { r.Paths = nil },
		"many paths":     func(r *guard.Registration) { r.Paths = slices.Repeat(r.Paths, 9) },
		"relative path":  func(r *guard.Registration) { r.Paths = []string{"mnt/db"} },
		"climbing path":  func(r *guard.Registration) { r.Paths = []string{"/mnt/../db"} },
		"root":           func(r *guard.Registration) { r.Paths = []string{"/"} },
		"line":           func(r *guard.Registration) { r.Paths = []string{"/mnt/d\nb"} },
		"far ahead":      func(r *guard.Registration) { r.Deadline += guard.MaxAhead },
		"name of a page": func(r *guard.Registration) { r.Volume = strings.Repeat("x", 4096) },
	} {
		t.Run(name, func(t *testing.T) {
			r := good
			harm(&r)
			if _, err := b.Register(t.Context(), r); !isKind(err, "invalid") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
		})
	}
	late := good
	late.Deadline = b.clock.Boottime()
	if _, err := b.Register(t.Context(), late); !isKind(err, "stale") {
		t.Errorf("%v", err)
	}
	if got := b.Status().Datasets; len(got) > 0 {
		t.Errorf("%+v", got)
	}
}

func TestExecFence(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	script := filepath.Join(t.TempDir(), "fence")
	require.NoError(t, os.WriteFile(script, []byte("#!/bin/sh\necho \"$@\" > "+out+"\n[ \"$2\" = b ] || { echo 'no such outlet' >&2; exit 1; }\n"), 0o700))
	f := guard.ExecFence{Args: []string{script, "off"}}
	node := uuid.New()
	var r run.System
	require.NoError(t, f.Fence(t.Context(), &r, "b", node))
	if got, _ := os.ReadFile(out); string(got) != "off b "+node.String()+"\n" {
		t.Errorf("%q", got)
	}
	f.Args[1] = "--password=hush" // The reason of a failure must not show it to every reader.
	if err := f.Fence(t.Context(), &r, "c", node); err == nil || !strings.Contains(err.Error(), script+`": exit status 1: no such outlet`) || strings.Contains(err.Error(), "hush") {
		t.Errorf("%v", err)
	}
	for _, bad := range []guard.ExecFence{{}, {Args: []string{"fence"}}, {Args: f.Args, Timeout: time.Hour}} {
		if err := bad.Fence(t.Context(), &r, "b", node); !isKind(err, "invalid") {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if err := f.Fence(t.Context(), &r, "-rf", node); !isKind(err, "invalid") {
		t.Errorf("%v", err)
	}
}

// If a program prints its own arguments when it fails, they are removed from any part of its output, and the rest
// stays.
func TestExecFenceHidesItsArguments(t *testing.T) {
	node := uuid.New()
	for said, test := range map[string]struct {
		args []string
		want string
	}{
		"no such outlet as off":                   {[]string{"outlet", "--user=off", "7"}, "no such … as …"},
		"usage: fence --password=hush 7, not 17":  {[]string{"--password=hush", "7"}, "usage: fence … …, not 17"},
		"bad password hush; hush hush":            {[]string{"--password=hush"}, "bad password …; … …"},
		"401 for https://root:pw12@bmc (pw12)":    {[]string{"https://root:pw12@bmc"}, "401 for … (…)"},
		"sh: -x: 'curl' '-u' 'root:hush' c: gone": {[]string{"-c", "curl -u root:hush \"$1\""}, "sh: -x: '…' '-u' '…:…' c: gone"},
		"abcdefgh":     {[]string{"abcdef", "cdefgh"}, "…"}, // they overlap
		"aaaaaaa":      {[]string{"aaaa", "", "--x="}, "…"}, // also with itself
		"eins\nhush\n": {[]string{"eins\nhush"}, "…"},       // on two lines
		"geheimniß ß":  {[]string{"geheimniß", "ß"}, "… …"}, // more bytes than letters
	} {
		r := fakes.Run(func(_ context.Context, c run.Command) (run.Result, error) {
			return run.Result{}, &run.Error{Cmd: c.Name, Args: c.Args, ExitCode: 1, Stderr: said, Err: errors.New("exit status 1")}
		})
		err := guard.ExecFence{Args: append([]string{"/sbin/fence"}, test.args...)}.Fence(t.Context(), r, "c", node)
		if want := `fence node c: run "/sbin/fence": exit status 1: ` + test.want; err == nil || err.Error() != want {
			t.Errorf("%q with %q: %v, want %s", said, test.args, err, want)
		}
	}
}

// A mounted dataset that is registered with a deadline that has passed is fenced by means of its mount. If it is not
// mounted yet the registration is refused, and nothing is recorded.
func TestRegisteredLate(t *testing.T) {
	b := newBench(t)
	r := guard.Registration{
		Dataset: uuid.New(), Volume: "db", Epoch: 3, Paths: []string{"/mnt/db"}, Own: true, Policy: guard.PolicyKill, Deadline: b.clock.Boottime(),
	}
	if _, err := b.Register(t.Context(), r); !isKind(err, "stale") {
		t.Errorf("%v", err)
	}
	if e := b.until(t, r.Dataset, guard.StateFenced); e.Fence.By != guard.ActFreeze || e.Filesystem.Root != "/" {
		t.Errorf("%+v", e)
	}
	r.Dataset = uuid.New()
	b.hand.mu.Lock()
	b.hand.bare = true
	b.hand.mu.Unlock()
	if _, err := b.Register(t.Context(), r); !isKind(err, "stale") || len(b.Status().Datasets) != 1 {
		t.Errorf("%v, %+v", err, b.Status().Datasets)
	}
}

// A host with so many processes that a rung cannot examine them in time has longer rungs, and the guard reports that
// before it accepts a dataset.
func TestBoundGrowsWithProcesses(t *testing.T) {
	b := newBench(t)
	for processes, want := range map[int64]time.Duration{200: time.Second, 1_250: time.Second, 20_000: 8500 * time.Millisecond} {
		b.processes.Store(processes)
		r := guard.Registration{Dataset: uuid.New(), Volume: "db", Epoch: 1, Paths: []string{"/mnt/db"}, Policy: guard.PolicyFreeze, Deadline: b.clock.Boottime() + time.Minute}
		if e, err := b.Register(t.Context(), r); err != nil || e.Bound != want {
			t.Errorf("%d processes: bound %v, %v; want %v", processes, e.Bound, err, want)
		}
	}
}
