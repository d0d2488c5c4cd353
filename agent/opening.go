package agent

import (
	"context"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/pool"
)

// A request to a hanging disk may wait for ever. So pools are opened beside other work. A pool that does not
// answer in time is offline, like one whose disk is absent, and is used when it answers.

// takeLate reports to control the pools that were opened late, and asks for their generations. They serve then
// whatever the answer is: an unreachable control stops no container.
func (a *Agent) takeLate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*controlsync.ReportTime)
	defer cancel()
	a.mu.Lock()
	clear(a.asked) // no replica was asked about these pools
	a.mu.Unlock()
	err := a.registration.Register(ctx)
	if err == nil {
		_, _, err = a.askGenerations(ctx)
	}
	for _, op := range a.pools.All() {
		a.pools.Change(op.ID, func(op *pool.Pool) { op.Late = false })
	}
	return err
}
