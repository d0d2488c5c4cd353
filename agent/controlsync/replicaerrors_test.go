package controlsync

import (
	"errors"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/lease"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/move"
	"github.com/droverhq/drover/agent/operation"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestSilentReplicaIsNamed: doctor names a control replica until it answers again, also with an error.
func TestSilentReplicaIsNamed(t *testing.T) {
	gone := dataset.Errorf(dataset.ErrUnavailable, "connection refused")
	for name, c := range map[string]struct {
		replicas int
		answers  []error // of the replica that is asked last
		want     int
	}{
		"never asked":       {2, nil, 0},
		"silent":            {2, []error{gone, gone}, 1},
		"answers again":     {2, []error{gone, nil}, 0},
		"answers a refusal": {2, []error{gone, dataset.Errorf(dataset.ErrConflict, "a full report is needed")}, 0},
		"another error":     {2, []error{errors.New("bad")}, 0},
		"the only one":      {1, []error{gone}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := &Reporter{Sync: syncOf(make([]api.Service, c.replicas))}
			for _, err := range c.answers {
				r.replicaErrors.set(c.replicas-1, time.Time{}, err)
			}
			var list host.List
			r.Check(&list)
			if len(list.All) != c.want {
				t.Errorf("%d findings, want %d: %+v", len(list.All), c.want, list.All)
			}
		})
	}
}

// syncOf returns the Sync of a host with these control replicas.
func syncOf(replicas []api.Service) *Sync {
	mounts := &mounting.Mounts{Leases: &lease.Leases{Replicas: replicas}}
	return &Sync{Moves: &move.Moves{Operations: &operation.Operations{Mounts: mounts}}}
}
