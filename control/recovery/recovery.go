// Package recovery corrects a store that was restored from an older backup, and rebuilds a lost store.
//
// Recover asks all agents for their datasets, compares them with the store, and corrects the differences once an
// operator has confirmed them. Rebuild restores the records of the datasets that a node found in its pools. The pure
// functions in evidence.go make the decision about each dataset.
//
// The reports for a recovery in progress are kept in memory, under the mutex of reportCollection. All other state is in
// the store, and transactions protect it. While the store is halted, package control plans nothing, and records no
// results of operations except those of purges. A rule about which report is right belongs in evidence.go. What is
// written to the store belongs in correct.go, and what happens to found datasets in rebuild.go. An epoch that a single
// host relinquished is replaced in relinquished.go.
package recovery

import (
	"context"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// Recovery corrects a store that was restored from an older backup, and rebuilds one that was lost. It uses the reports
// of agents and the datasets that they find in their pools. Safe for concurrent use.
type Recovery struct {
	Ledger     *record.Ledger
	Reports    *reports.Latest
	members    *membership.Members
	vetted     *reports.Profiles
	quit       <-chan struct{} // closed when the service stops
	finish     func(*record.Tx, dataset.Operation) error
	collection reportCollection
}

// NewRecovery returns a Recovery. No recovery is in progress.
// finish records the end of an operation. quit is closed when the service stops.
func NewRecovery(m *membership.Members, v *reports.Profiles, quit <-chan struct{},
	finish func(*record.Tx, dataset.Operation) error) *Recovery {
	return &Recovery{Ledger: m.Ledger, Reports: m.Reports, members: m, vetted: v, quit: quit, finish: finish}
}

// Expire drops the reports for a recovery that was not confirmed in time.
func (rc *Recovery) Expire() { rc.collection.expire(rc.Ledger.Clock.Steady()) }

// Collecting returns the recovery for which this service collects reports, and how many nodes have reported. It
// returns uuid.Nil if there is none.
func (rc *Recovery) Collecting() (id uuid.UUID, reports int) {
	of, byNode, _ := rc.collection.current()
	return of, len(byNode)
}

// Halted returns the reason why changes are suspended: the store is inconsistent. It returns "" if changes are
// possible.
func (rc *Recovery) Halted(ctx context.Context) (why string, err error) {
	var h record.Halt
	there, err := record.NewTx(ctx, rc.Ledger.Store).Peek(record.HaltedKey, &h)
	if err != nil || !there {
		return "", err
	}
	return h.Err().Error(), nil
}
