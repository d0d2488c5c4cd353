package agent

import (
	"context"
	"time"

	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/plugin"
)

// List returns all volumes whose home is here, those of which a copy is here, and those that the engine has used,
// in the spellings that it uses. They are read from this node's disk, whatever else answers. With ListAll all
// other volumes of the cluster are added, as they were created. They are missing while control does not answer.
func (a *Agent) List(ctx context.Context) ([]plugin.Volume, error) {
	list := a.Cache.List(a.NodeID)
	if a.config.ListAll {
		others, err := a.others(ctx, list)
		if err != nil {
			a.Log.WithError(err).Warn("docker volume ls lacks the volumes of other nodes")
		}
		list = append(list, others...)
	}
	out := make([]plugin.Volume, len(list))
	for i, l := range list {
		out[i] = plugin.Volume{Name: l.Spelling, Mountpoint: a.MountPath(l.Dataset)}
	}
	return out, nil
}

// listTime is how long control may take for the list of volumes. An engine waits a minute for its list.
const listTime = 20 * time.Second

// others returns the volumes of other nodes.
func (a *Agent) others(ctx context.Context, own []records.Listed) (others []records.Listed, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, listTime,
		dataset.Errorf(dataset.ErrUnavailable, "control did not say which there are within %s", listTime))
	defer cancel()
	names := map[string]bool{}
	for _, l := range own {
		if sp, err := dataset.ParseSpec(l.Spelling); err == nil {
			names[sp.Name] = true
		}
	}
	for page := (api.Page{}); ; {
		list, err := a.Control.Volumes(ctx, page)
		if err != nil {
			return nil, err
		}
		for _, v := range list.Items {
			if !names[v.Volume] {
				others = append(others, records.Listed{Spelling: v.Spelling, Dataset: v.ID})
			}
		}
		if page.After = list.Next; page.After == "" {
			return others, nil
		}
	}
}
