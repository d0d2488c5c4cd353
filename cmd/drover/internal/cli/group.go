package cli

import (
	"io"
	"sync"

	"github.com/vbauerster/mpb/v8"
)

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
