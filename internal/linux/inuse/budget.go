package inuse

import (
	"errors"
	"fmt"
	"sync/atomic"

	"github.com/droverhq/drover/internal/linux/mount"
)

// Work is counted in units. A unit is the examination of one descriptor, which takes some 3 µs.
const (
	ThreadWork      = 4   // units for a thread that shares everything with another one
	mappingsPerWork = 3   // lines of a memory map that are one unit
	bytesPerWork    = 128 // bytes of a mount table that are one unit
)

// Reasons why an examination with a Budget ends.
var (
	// ErrTooMuch is returned if a process needs more work than the Budget allows for one examination.
	ErrTooMuch = errors.New("it has very many descriptors, mappings, threads or mounts")
	// ErrBudget is returned if the budget is used up and a process needs more work than its fair share.
	ErrBudget = errors.New("all processes together have very many descriptors, mappings, threads or mounts")
)

// errTables is returned for a process whose mount tables would need too much memory.
var errTables = fmt.Errorf("the mount tables of its threads have more than %d MiB in all", mount.MaxTable>>20)

// Budget limits the work of several examinations. It limits work and not time, because on a busy host an examination
// can take long although it needs little work. Safe for concurrent use.
type Budget struct {
	each, fair int
	left       atomic.Int64
}

// NewBudget returns a budget. total is the number of units of work for all examinations together, and each is the
// maximum for one examination. Once total is used up, an examination fails when its work exceeds fair.
func NewBudget(total, each, fair int) *Budget {
	b := &Budget{each: each, fair: fair}
	b.left.Store(int64(total))
	return b
}

// spend takes units of work from the budget. work is their number. done is the number of units that the examination has
// used so far, including work. It fails with ErrTooMuch or ErrBudget.
func (b *Budget) spend(done, work int) error {
	remaining := b.left.Add(-int64(work))
	switch {
	case done > b.each:
		return ErrTooMuch
	case remaining < 0 && done > b.fair:
		return ErrBudget
	}
	return nil
}

// endChunk is called after each chunk of work. It fails with ErrOutOfTime if the examination must stop,
// and with the error of Budget.spend.
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

// endTableChunk is called after each part of a mount table. It fails with errTables if the tables of the process have
// more than mount.MaxTable bytes: the findings keep the tables in memory. Otherwise it returns the result of endChunk.
func (x *Examination) endTableChunk(bytes int) error {
	if x.tables += bytes; x.tables > mount.MaxTable {
		return errTables
	}
	return x.endChunk(bytes / bytesPerWork)
}
