package inuse

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/droverhq/drover/internal/mount"
)

// Work is counted in units. A unit is the examination of one descriptor, some 3 µs.
const (
	ThreadWork      = 4   // of a thread that shares everything with another one
	mappingsPerWork = 3   // lines of a memory map
	bytesPerWork    = 128 // of a mount table
)

// Reasons why an examination with a Budget ends.
var (
	// ErrTooMuch is returned for a process that is more work than one process may be.
	ErrTooMuch = errors.New("it has very many descriptors, mappings, threads or mounts")
	// ErrBudget is returned for a process that is more than its fair share of a budget that is used up.
	ErrBudget = errors.New("all processes together have very many descriptors, mappings, threads or mounts")
)

// errTables is returned for a process whose mount tables would need too much memory.
var errTables = fmt.Errorf("the mount tables of its threads have more than %d MiB in all", mount.MaxTable>>20)

// Budget limits the work of several examinations. It limits work and not time: otherwise a busy host would
// make examinations fail that are no more work than others. Safe for concurrent use.
type Budget struct {
	each, fair int
	left       atomic.Int64
}

// NewBudget returns a budget for all examinations together. Each of them may do at most each units of work.
// Once the budget is used up, it may do fair units.
func NewBudget(all, each, fair int) *Budget {
	b := &Budget{each: each, fair: fair}
	b.left.Store(int64(all))
	return b
}

// spend takes work from the budget for an examination that has done so much in all.
func (b *Budget) spend(done, work int) error {
	left := b.left.Add(-int64(work))
	switch {
	case done > b.each:
		return ErrTooMuch
	case left < 0 && done > b.fair:
		return ErrBudget
	}
	return nil
}

// endChunk is called after each chunk of work. It fails if the examination must stop.
func (x *Examination) endChunk(work int) error {
	x.progress.Add(1)
	if x.Pace != nil {
		x.Pace()
	}
	if x.stop.Load() {
		return ErrOutOfTime
	}
	if x.done += work; x.Budget != nil {
		return x.Budget.spend(x.done, work)
	}
	return nil
}

// endTableChunk is called after each part of a mount table. The findings keep the tables, so this also limits
// the memory that one process can take.
func (x *Examination) endTableChunk(bytes int) error {
	if x.tables += bytes; x.tables > mount.MaxTable {
		return errTables
	}
	return x.endChunk(bytes / bytesPerWork)
}
