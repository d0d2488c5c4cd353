// Package recovery corrects a store that was restored from an older backup, or rebuilds one that was lost.
//
// Recover asks all agents for their datasets, compares them with the store, and corrects the differences once a person
// has confirmed them. Rebuild restores the records of datasets that a node found in its pools. The pure functions in
// account.go decide what becomes of each dataset. Package control embeds Recovery in its Service, so the API calls
// Recover, Rebuild and Hold directly; package agentsync reads the state of a recovery with For.
//
// The reports for a recovery in progress are kept in memory under a mutex (gathering); everything else is in the store.
// While the store is halted, only a recovery changes it.
package recovery

import (
	"context"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/reports"
	"github.com/droverhq/drover/dataset"
)

// RecoveryDeps is what a Recovery needs.
type RecoveryDeps struct {
	Ledger  *ledger.Ledger
	Reports *reports.Latest
	// Shared says that other services may work on the same store.
	Shared bool
	// Session is how long the store takes a silent agent for alive.
	Session time.Duration
	// Quit is closed when the service stops.
	Quit <-chan struct{}
	// Living returns the agents that are alive.
	Living func(*record.Tx) (map[uuid.UUID]record.Alive, error)
	// WithKnownSettings returns a profile that was found beside data, with the fields that only profiles.yaml may set.
	WithKnownSettings func(found, recorded dataset.Profile) dataset.Profile
	// PutInTrash writes the entry of a dataset in the trash.
	PutInTrash func(*record.Tx, uuid.UUID, dataset.Trash) error
	// Finish records the end of an operation.
	Finish func(*record.Tx, dataset.Operation) error
}

// Recovery brings a store up to date that was restored from an older backup, or lost, from what agents report and find
// in their pools. Safe for concurrent use.
type Recovery struct {
	RecoveryDeps
	gathering gathering
}

// NewRecovery returns a Recovery that was not requested yet.
func NewRecovery(d RecoveryDeps) *Recovery { return &Recovery{RecoveryDeps: d} }

// Expire drops the reports for a recovery that was not confirmed in time.
func (rc *Recovery) Expire() { rc.gathering.expire(rc.Ledger.Clock.Steady()) }

// Gathered returns the recovery that reports are gathered for, uuid.Nil if none is, and how many nodes have reported.
func (rc *Recovery) Gathered() (id uuid.UUID, reports int) {
	of, told, _ := rc.gathering.current()
	return of, len(told)
}

// Halted returns why changes are suspended, because the store is inconsistent; "" if they are not.
func (rc *Recovery) Halted(ctx context.Context) (why string, err error) {
	var h record.Halt
	there, err := record.NewTx(ctx, rc.Ledger.Store).Peek(record.HaltedKey, &h)
	if err != nil || !there {
		return "", err
	}
	return h.Err().Error(), nil
}
