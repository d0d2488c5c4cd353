package host

import (
	"sync/atomic"

	"github.com/droverhq/drover/dataset"
)

// Trust records whether control's store is consistent with this node's knowledge. A store that was lost or restored
// from an older backup does not know datasets that exist, so nothing may be destroyed because of it.
// controlsync.Follower calls Set when an answer of control shows that the store is inconsistent, and
// controlsync.Identity at a start and in SetCluster. Its methods are safe for concurrent use.
type Trust struct {
	why    atomic.Value // string
	remedy string
}

// NewTrust returns a Trust that trusts the store. remedy is the command that brings an inconsistent store up to
// date.
func NewTrust(remedy string) *Trust { return &Trust{remedy: remedy} }

// Set records why the store is inconsistent. An empty string means that it is consistent.
func (t *Trust) Set(why string) { t.why.Store(why) }

// Why returns why the store is inconsistent, or an empty string if it is consistent.
func (t *Trust) Why() string {
	why, _ := t.why.Load().(string)
	return why
}

// Remedy returns the command that brings an inconsistent store up to date.
func (t *Trust) Remedy() string { return t.remedy }

// Err returns ErrConflict while the store is inconsistent, and nil otherwise.
func (t *Trust) Err() error {
	why := t.Why()
	if why == "" {
		return nil
	}
	return dataset.Errorf(dataset.ErrConflict,
		"store inconsistent; changes suspended: %s (%s)", why, t.remedy)
}
