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

// Meter shows progress. Any goroutine may call Update. After Close, Update does nothing. Close removes the bar and
// waits until it is no longer drawn. Close is idempotent.
type Meter interface {
	Update(p dataset.Progress)
	Close()
}

// Discard shows nothing.
type Discard struct{}

// Update does nothing.
func (Discard) Update(dataset.Progress) {}

// Close does nothing.
func (Discard) Close() {}

// Lines prints a line for every new step, and one for every tenth of a step whose total is known. Make it with
// NewLines. It is safe for concurrent use.
type Lines struct {
	mu     sync.Mutex
	w      io.Writer
	label  string
	step   string
	tenth  int64
	closed bool
}

// NewLines returns a meter that prints to w, each line beginning with label.
func NewLines(w io.Writer, label string) *Lines { return &Lines{w: w, label: label} }

// Update prints a line for a new step or tenth.
func (l *Lines) Update(p dataset.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed || p.Step == "" {
		return
	}
	tenth := int64(0)
	if p.Total > 0 {
		tenth = min(10, int64(10*float64(p.Done)/float64(p.Total)))
	}
	if p.Step == l.step && tenth <= l.tenth {
		return
	}
	l.step, l.tenth = p.Step, tenth
	line := l.label + ": " + p.Step
	if p.Total > 0 {
		line += fmt.Sprintf(" %d%% (%s of %s)", 10*tenth, dataset.Size(p.Done).Human(), dataset.Size(p.Total).Human())
	}
	// A failed write of the progress must not end the work.
	_, _ = fmt.Fprintln(l.w, Clean(line))
}

// Close makes later calls of Update print nothing.
func (l *Lines) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
}

// Reader reads from R and reports to the meter how many bytes were read. Read calls must not overlap.
type Reader struct {
	R     io.Reader
	Meter Meter
	At    dataset.Progress
}

// Read reads from R.
func (r *Reader) Read(b []byte) (int, error) {
	n, err := r.R.Read(b)
	r.At.Done += int64(n)
	r.Meter.Update(r.At)
	return n, err
}

// Writer writes to W and reports to the meter how many bytes were written. Write calls must not overlap.
type Writer struct {
	W     io.Writer
	Meter Meter
	At    dataset.Progress
}

// Write writes to W.
func (w *Writer) Write(b []byte) (int, error) {
	n, err := w.W.Write(b)
	w.At.Done += int64(n)
	w.Meter.Update(w.At)
	return n, err
}

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

// ProgressGroup shows the progress of several pieces of work that run at the same time: as a bar for each of them on a
// terminal, otherwise as lines. Make it with NewGroup. Its methods are safe for concurrent use.
type ProgressGroup struct {
	mu    sync.Mutex
	w     io.Writer
	drawn bool // w is a terminal, on which bars are drawn
	pool  *mpb.Progress
}

// NewGroup returns a group that shows progress on w. If drawn is set, w must be a terminal.
func NewGroup(w io.Writer, drawn bool) *ProgressGroup { return &ProgressGroup{w: w, drawn: drawn} }

// Drawn reports whether the group draws bars. Until Close returns, other output on the same terminal would mix with
// them.
func (g *ProgressGroup) Drawn() bool { return g.drawn }

// Meter returns the meter of one piece of work. The caller must close it before it closes the group.
func (g *ProgressGroup) Meter(label string) Meter {
	if g.drawn {
		return &Bar{w: g.w, label: label, group: g}
	}
	return NewLines(g, label)
}

// Write writes a line to the output of the group. Lines of different meters do not mix.
func (g *ProgressGroup) Write(b []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.w.Write(b)
}

// Exclusively calls f while no meter of the group writes a line.
func (g *ProgressGroup) Exclusively(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// bars returns the container in which the bars of the group are drawn. The first call makes it.
func (g *ProgressGroup) bars() *mpb.Progress {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pool == nil {
		g.pool = mpb.New(mpb.WithOutput(g.w))
	}
	return g.pool
}

// Close removes the bars. All meters must be closed. Close is idempotent.
func (g *ProgressGroup) Close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.pool != nil {
		g.pool.Wait()
		g.pool = nil
	}
}
