package agent

import (
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// inUse is the refusal that names who holds a dataset, and how to find those containers.
func (a *Agent) inUse(d dataset.Dataset, what string, r mounting.Record) error {
	who := "mounted"
	by := map[string]plugin.Tool{}
	for id, use := range r.IDs {
		by[id] = use.ToolOf(id)
	}
	if len(by) > 0 {
		who = mounting.MountedByText(by)
	}
	return dataset.Errorf(dataset.ErrInUse, "cannot %s volume %s: it is %s on node %s (%s)",
		what, d.Volume, who, a.NodeName, mounting.HowToStop("stop its containers first", by, d.Volume, a.used(d)))
}
