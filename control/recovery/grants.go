package recovery

import (
	"context"
	"slices"
	"strings"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
)

// A restored store has grants that were removed since, and nothing else knows them. If they stayed, the holders of
// their secrets could use the repositories again. So a recovery removes all grants, unless an operator keeps them.
// Until it has ended, package repositories lists none.

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

// removeGrants removes the grants that the comparison has listed. Idempotent.
func (c *Comparison) removeGrants(ctx context.Context) error {
	for some := range slices.Chunk(c.result.RemovedGrants, grantsAtOnce) {
		_, err := c.Update(ctx, func(t *record.Tx) error {
			for _, name := range some {
				t.Delete(record.GrantKey(name))
				t.Notice.Events = append(t.Notice.Events, api.Event{
					Type:   api.EventGrantRemove,
					Detail: name + ": the store was restored from a backup",
				})
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
