package restic

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/test/require"
)

// phase is a time in which a process can read with a constant speed.
type phase struct {
	lasts time.Duration
	speed int64 // bytes a second
}

// reader is a process that reads as fast as its phases let it while it runs.
type reader struct {
	phases  []phase
	stopped bool
	start   time.Time
	at      time.Time // until then, read is known
	read    float64
	past    []moment
	stop    time.Time     // the start of the current stop
	longest time.Duration // the longest stop
	err     error         // of bytesRead
	done    bool
}

// moment is how much was read at a time.
type moment struct {
	at   time.Duration
	read float64
}

func newReader(phases ...phase) *reader {
	return &reader{phases: phases, start: time.Now(), at: time.Now()}
}

// advance reads until the present.
func (r *reader) advance() {
	from := r.start
	for i, ph := range r.phases {
		to := from.Add(ph.lasts)
		if i == len(r.phases)-1 || to.After(time.Now()) {
			to = time.Now()
		}
		if to.After(r.at) {
			if !r.stopped {
				r.read += float64(ph.speed) * to.Sub(r.at).Seconds()
			}
			r.at = to
			r.past = append(r.past, moment{to.Sub(r.start), r.read})
		}
		from = from.Add(ph.lasts)
	}
}

func (r *reader) bytesRead() (int64, error) {
	r.advance()
	return int64(r.read), r.err
}

func (r *reader) Signal(sig os.Signal) error {
	r.advance()
	switch {
	case r.done:
		return os.ErrProcessDone
	case sig == syscall.SIGSTOP && !r.stopped:
		r.stopped, r.stop = true, time.Now()
	case sig == syscall.SIGCONT && r.stopped:
		r.stopped, r.longest = false, max(r.longest, time.Since(r.stop))
	}
	return nil
}

// pacedFor lets a pacer run for a time. It returns why the process was not limited, if it was not.
func pacedFor(r *reader, rate int64, lasts time.Duration) (reasons []error) {
	ctx, cancel := context.WithTimeout(context.Background(), lasts)
	defer cancel()
	p := &pacer{rate: rate, process: r, unlimited: func(err error) { reasons = append(reasons, err) }}
	p.run(ctx)
	r.advance()
	return reasons
}

const mib = 1 << 20

func TestPacer(t *testing.T) {
	for name, c := range map[string]struct {
		rate     int64
		phases   []phase
		lasts    time.Duration
		min, max float64 // MiB that are read
	}{
		"slower than the limit":       {64 * mib, []phase{{time.Hour, 20 * mib}}, 10 * time.Second, 200, 200},
		"a burst within a second":     {64 * mib, []phase{{100 * time.Millisecond, 600 * mib}, {time.Hour, 0}}, time.Second, 60, 60},
		"faster than the limit":       {64 * mib, []phase{{time.Hour, 220 * mib}}, 10 * time.Second, 690, 720},
		"much faster than the limit":  {4 * mib, []phase{{time.Hour, 500 * mib}}, 60 * time.Second, 240, 270},
		"at most one second is saved": {64 * mib, []phase{{time.Hour, 0}, {time.Hour, 220 * mib}}, time.Hour + 9*time.Second, 630, 660},
		"an allowance below one tick": {16 * mib, []phase{{time.Hour, 1000 * mib}}, 20 * time.Second, 320, 390},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				r := newReader(c.phases...)
				if got := pacedFor(r, c.rate, c.lasts); got != nil {
					t.Errorf("not limited because of %v", got)
				}
				if got := r.read / mib; got < c.min-0.01 || got > c.max+0.01 {
					t.Errorf("read %.2f MiB, want %v to %v", got, c.min, c.max)
				}
				if r.stopped || r.longest > maxStop {
					t.Errorf("stopped: %v, longest stop %s", r.stopped, r.longest)
				}
			})
		})
	}
}

// A process keeps to its allowance in every interval, loses nothing of it, and is never stopped for long.
func TestPacerKeepsTheLimit(outer *testing.T) {
	rapid.Check(outer, func(t *rapid.T) {
		rate := rapid.Int64Range(4*mib, 200*mib).Draw(t, "rate")
		fastest := int64(float64(rate) * maxStop.Seconds() / paceSlice.Seconds())
		slowest := rapid.SampledFrom([]int64{0, rate}).Draw(t, "slowest")
		phases := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) phase {
			return phase{
				time.Duration(rapid.IntRange(1, 3000).Draw(t, "ms")) * time.Millisecond,
				rapid.Int64Range(slowest, min(fastest, 2000*mib)).Draw(t, "speed"),
			}
		}), 1, 8).Draw(t, "phases")
		lasts := time.Duration(rapid.IntRange(1, 15000).Draw(t, "lasts")) * time.Millisecond

		var r *reader
		var reasons []error
		synctest.Test(outer, func(*testing.T) {
			r = newReader(phases...)
			reasons = pacedFor(r, rate, lasts)
		})
		if reasons != nil {
			t.Fatalf("not limited because of %v", reasons)
		}
		if r.stopped || r.longest > maxStop {
			t.Fatalf("stopped: %v, longest stop %s", r.stopped, r.longest)
		}
		var tick float64
		for _, ph := range phases {
			tick = max(tick, float64(ph.speed)*paceTick.Seconds())
		}
		for i, from := range r.past {
			for _, to := range r.past[i:] {
				allowed := float64(rate)*((to.at-from.at).Seconds()+1) + tick
				if got := to.read - from.read; got > allowed+1 {
					t.Fatalf("%.0f bytes from %s to %s, allowed are %.0f", got, from.at, to.at, allowed)
				}
			}
		}
		if least := float64(rate) * lasts.Seconds() * 0.98; slowest == rate && r.read < least-tick {
			t.Fatalf("only %.0f bytes in %s, want %.0f", r.read, lasts, least)
		}
	})
}

// A process that cannot be observed runs without a limit, and this is reported once.
func TestPacerThatCannotObserve(t *testing.T) {
	for _, fails := range []time.Duration{0, 2100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			r := newReader(phase{time.Hour, 220 * mib})
			broken := errors.New("permission denied by a test")
			time.AfterFunc(fails, func() { r.err = broken })
			time.Sleep(time.Nanosecond)
			if got := pacedFor(r, 16*mib, time.Minute); len(got) != 1 || !errors.Is(got[0], broken) {
				t.Errorf("not limited because of %v", got)
			}
			if r.stopped || time.Since(r.start) > 5*time.Second {
				t.Errorf("stopped: %v, after %s", r.stopped, time.Since(r.start))
			}
		})
	}
}

// The end of a process is no failure.
func TestPacerOfAnEndedProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newReader(phase{time.Hour, 220 * mib})
		r.err, r.done = syscall.ESRCH, true
		if got := pacedFor(r, 16*mib, time.Minute); got != nil {
			t.Errorf("not limited because of %v", got)
		}
	})
}

// The figures are those of restic 0.14.0, for a file of 67 MB and a repository in a folder.
func TestVolumeBytes(t *testing.T) {
	for name, c := range map[string]struct{ read, written, min, max int64 }{
		"new data that cannot be compressed": {201353022, 134243424, 67000000, 68000000},
		"new data, half of the size":         {144689871, 76452502, 67000000, 69000000},
		"nothing new":                        {67119071, 777, 67000000, 68000000},
		"a temporary file is being written":  {67108864, 67108864, 22000000, 23000000},
	} {
		if got := volumeBytes(c.read, c.written); got < c.min || got > c.max {
			t.Errorf("%s: got %d, want %d to %d", name, got, c.min, c.max)
		}
	}
}

// The kernel counts what a process reads. The file can be read again while the process runs.
func TestObserved(t *testing.T) {
	f, err := os.Open("/proc/self/io")
	require.NoError(t, err)
	defer f.Close()
	o := &observed{io: f}
	before, err := o.bytesRead()
	require.NoError(t, err)
	zero, err := os.Open("/dev/zero")
	require.NoError(t, err)
	defer zero.Close()
	if _, err := io.ReadFull(zero, make([]byte, 64*mib)); err != nil {
		t.Fatal(err)
	}
	if after, err := o.bytesRead(); err != nil || after-before < 60*mib {
		t.Errorf("read %d bytes more, %v, want %d", after-before, err, 64*mib)
	}
}

// A run is ended after ten minutes without progress, and at most half a minute later. Little noise is no progress.
func TestStallWatch(t *testing.T) {
	const never = time.Duration(0)
	for name, c := range map[string]struct {
		work func(since time.Duration) (bytes int64, cpu time.Duration)
		ends time.Duration // the earliest
	}{
		"nothing": {func(time.Duration) (int64, time.Duration) { return 0, 0 }, 10 * time.Minute},
		"progress for an hour": {func(since time.Duration) (int64, time.Duration) {
			return int64(min(since, time.Hour)), 0
		}, 70 * time.Minute},
		"bytes":          {func(since time.Duration) (int64, time.Duration) { return stallBytes * int64(since/(9*time.Minute)), 0 }, never},
		"CPU time":       {func(since time.Duration) (int64, time.Duration) { return 0, since / 500 }, never},
		"few bytes":      {func(since time.Duration) (int64, time.Duration) { return int64(since / time.Second), 0 }, 10 * time.Minute},
		"hardly the CPU": {func(since time.Duration) (int64, time.Duration) { return 0, since / 1000 }, 10 * time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
				defer cancel()
				began, ended := time.Now(), never
				stallWatch{stallLimit, func() (int64, time.Duration, error) {
					bytes, cpu := c.work(time.Since(began))
					return bytes, cpu, nil
				}, func() { ended = time.Since(began) }}.run(ctx)
				if ended < c.ends || ended > c.ends+time.Minute/2 {
					t.Errorf("ended after %s, want %s", ended, c.ends)
				}
			})
		})
	}
}

// A run that cannot be observed is not ended.
func TestUnobservedRunIsNotEnded(t *testing.T) {
	failing := func() (int64, time.Duration, error) { return 0, 0, errors.New("no such process") }
	stallWatch{stallLimit, failing, func() { t.Error("ended") }}.run(t.Context())
}
