package record

import (
	"time"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

// Seen returns the mark as last read.
func (u *Uptime) Seen() RunMark {
	_, m, _, _ := u.mark.last(u.Ledger.Clock.Steady())
	return m
}

// Restart forgets the mark, as a restart of the service does.
func (u *Uptime) Restart() {
	u.mark.mu.Lock()
	defer u.mark.mu.Unlock()
	u.mark.known, u.mark.entry, u.mark.mark, u.mark.before, u.mark.since = false, store.Entry{}, RunMark{}, 0, 0
	u.mark.begun, u.mark.unseen = false, 0
}

// Mistake makes the counter remember an older mark with a higher count.
func (u *Uptime) Mistake(more time.Duration) {
	u.mark.mu.Lock()
	defer u.mark.mu.Unlock()
	u.mark.mark.RunTime += dataset.Duration(more)
	u.mark.entry.Index--
}
