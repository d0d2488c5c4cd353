package recovery

import (
	"context"
	"slices"
	"strings"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/ledger"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// A restored store has grants that were removed since, and nothing else knows them. If they stayed, the holders of
// their secrets could use the repositories again. So a recovery removes all grants, unless an operator keeps them.
// Until it has ended, package repositories lists none. On a single host, AcceptStore does the same after a rebuild.
//
// A node that did not report to a recovery can return with changes that no other node knew. It then halts the store
// again, although the store was not restored again. The grants that exist then were created after the last recovery, or
// kept by an operator. They stay.

// grantsAtOnce is how many grants one transaction removes.
const grantsAtOnce = 50

// grantNames returns the names of the recorded grants, also of damaged records.
func grantNames(t *record.Tx) (names []string, err error) {
	entries, err := t.List(record.GrantsPrefix, "", 0)
	for _, e := range entries {
		names = append(names, strings.TrimPrefix(e.Key, record.GrantsPrefix))
	}
	return names, err
}

// decideGrants decides which grants the correction removes: all, or none if the store is known to be the same since the
// last recovery.
func (c *Comparison) decideGrants(t *record.Tx) error {
	restored, err := c.mayBeRestored(t)
	if err != nil {
		return err
	}
	if c.grantsTrusted = !restored; c.grantsTrusted {
		return nil
	}
	c.result.RemovedGrants, err = grantNames(t)
	return err
}

// mayBeRestored reports whether the store may have been restored from a backup since the last recovery that has ended.
// It returns false only if all of these are true: every node has reported, each node that does not trust the store had
// not reported to that recovery, and neither a node nor a service has seen a higher clock than that of the store. The
// recovery has raised the clock above all earlier ones.
func (c *Comparison) mayBeRestored(t *record.Tx) (bool, error) {
	var last record.Recovery
	if _, err := t.Peek(record.RecoveryKey, &last); err != nil {
		return true, err
	}
	var h record.Halt
	if _, err := t.Peek(record.HaltedKey, &h); err != nil {
		return true, err
	}
	if len(c.silent) > 0 || len(h.Nodes) == 0 || h.HighestClock != 0 {
		return true, nil
	}
	for node := range h.Nodes {
		if !slices.Contains(last.SilentNodes, node) {
			return true, nil
		}
	}
	entries, err := t.List(record.RevPrefix, "", 0)
	if err != nil {
		return true, err
	}
	clock, err := ledger.StoreClockOf(entries, nil)
	return clock < max(c.clock, c.recovery.Ledger.HighestClock()), err
}

// checkGrantsTrusted fails with dataset.ErrConflict if the grants stay, and the store may have been restored after all.
func (c *Comparison) checkGrantsTrusted(t *record.Tx) error {
	if !c.grantsTrusted {
		return nil
	}
	if restored, err := c.mayBeRestored(t); err != nil || !restored {
		return err
	}
	return dataset.Errorf(dataset.ErrConflict,
		"recover: the store was restored from a backup meanwhile: start again (drover store recover)")
}

// removeGrants removes the grants that the comparison has listed, if the halt can end after that. Idempotent.
func (c *Comparison) removeGrants(ctx context.Context) error {
	for some := range slices.Chunk(c.result.RemovedGrants, grantsAtOnce) {
		_, err := c.Update(ctx, func(t *record.Tx) error {
			if err := c.checkEnd(t); err != nil {
				return err
			}
			deleteGrants(t, some)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// deleteGrants deletes grants of a store that was restored from a backup, with an event for each of them.
func deleteGrants(t *record.Tx, names []string) {
	for _, name := range names {
		t.Delete(record.GrantKey(name))
		t.Notice.Events = append(t.Notice.Events, api.Event{
			Type:   api.EventGrantRemove,
			Detail: name + ": the store was restored from a backup",
		})
	}
}
