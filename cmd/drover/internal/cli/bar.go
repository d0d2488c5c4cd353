package cli

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"

	"github.com/droverhq/drover/dataset"
)

// Bar draws one bar on a terminal. It starts at the first Update, so that work that ends at once draws nothing. Make it
// with NewBar.
type Bar struct {
	mu     sync.Mutex
	w      io.Writer
	label  string
	group  *ProgressGroup // the group that the bar belongs to; nil: it is drawn alone
	pool   *mpb.Progress
	bar    *mpb.Bar
	closed bool
	text   atomic.Pointer[string] // not guarded by mu: Update holds mu while it waits for the drawing goroutine
}

// NewBar returns a meter that draws on w, which is a terminal.
func NewBar(w io.Writer, label string) *Bar { return &Bar{w: w, label: label} }

// Update moves the bar.
func (b *Bar) Update(p dataset.Progress) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed {
		return
	}
	text := Clean(b.label)
	if p.Step != "" {
		text = Clean(b.label + ": " + p.Step)
	}
	b.text.Store(&text)
	if b.pool == nil {
		b.start()
	}
	b.bar.SetTotal(p.Total, false)
	b.bar.SetCurrent(p.Done)
}

// start makes the bar with a total of 0. A bar that starts with a total would count as complete at the end of its first
// step, and never change again.
func (b *Bar) start() {
	known, unknown := mpb.BarStyle().Build(), mpb.SpinnerStyle().PositionLeft().Build()
	filler := mpb.BarFillerFunc(func(w io.Writer, s decor.Statistics) error {
		if s.Total > 0 {
			return known.Fill(w, s)
		}
		return unknown.Fill(w, s)
	})
	if b.group != nil {
		b.pool = b.group.bars()
	} else {
		b.pool = mpb.New(mpb.WithOutput(b.w))
	}
	b.bar = b.pool.MustAdd(0, filler,
		mpb.PrependDecorators(decor.Any(func(decor.Statistics) string { return *b.text.Load() })),
		mpb.AppendDecorators(decor.Any(amounts)))
}

func amounts(s decor.Statistics) string {
	done, total := dataset.Size(s.Current), dataset.Size(s.Total)
	switch {
	case total > 0:
		return fmt.Sprintf("%3.0f%% (%s of %s)", 100*float64(done)/float64(total), done.Human(), total.Human())
	case done > 0:
		return done.Human()
	}
	return ""
}

// Close removes the bar, because the next output of the command is the outcome.
func (b *Bar) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed = true; b.pool == nil {
		return
	}
	b.bar.Abort(true)
	if b.group == nil {
		b.pool.Wait()
	}
	b.pool = nil
}
