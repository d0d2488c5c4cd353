package cli

import (
	"fmt"
	"io"
	"sync"

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
