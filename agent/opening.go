package agent

import (
	"context"

	"github.com/droverhq/drover/agent/jobs"
	"github.com/droverhq/drover/agent/pool"
)

// A disk that hangs lets whoever asks it wait for ever, where nothing ends it. So pools are
// opened beside other work: one that does not answer in time is offline, as one whose disk is
// absent, and is taken in when it answers.

// takeLate has control know the pools that were opened late, and asks of which generation they
// were. They serve then, whatever came of that: control that is away stops no container.
func (a *Agent) takeLate(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 2*tellTime)
	defer cancel()
	a.mu.Lock()
	clear(a.asked) // of these nobody was
	a.mu.Unlock()
	err := a.register(ctx)
	if err == nil {
		_, _, err = a.askGenerations(ctx)
	}
	for _, op := range a.pools.All() {
		a.pools.Change(op.ID, func(op *pool.Pool) { op.Late = false })
	}
	return err
}

// ends is what waitFor takes of jobs.
func ends(all []*jobs.Job) (list []<-chan struct{}) {
	for _, jb := range all {
		list = append(list, jb.Ended())
	}
	return list
}
