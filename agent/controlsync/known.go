package controlsync

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
)

// KnownState is what this node knew before it sent a request to control. It is compared with the answer.
type KnownState struct {
	Moment uint64 // host.Cache.Moment before the request; used for an answer that is not full
	// Datasets is the state of the datasets, for a full answer. It is nil while this node rebuilds the store from its
	// pools.
	Datasets map[uuid.UUID]host.Revision
	Left     map[uuid.UUID]uint64 // datasets that have moved to other nodes, and at which epochs
	Ended    map[uuid.UUID]uint64 // by dataset: the relinquished epoch, once control has recorded the relinquishment
	// Beside is the state of the datasets by the records beside their data, on a single host. If its disk was restored
	// from a backup, these records can be newer than those of the store and of the agent.
	Beside map[uuid.UUID]host.Revision
	Clock  uint64 // the highest clock of control's store that this node has seen
}

// KnownState returns the present records of this node.
func (f *Follower) KnownState() KnownState {
	k := KnownState{Datasets: f.Cache.Revisions(), Left: f.Cache.LeftDatasets(), Ended: f.Leases.ReportedEpochs()}
	k.Clock = f.StoreClock.Now()
	return k
}

// undoneMove returns a volume that control's answer names as one of this node, although this node knew before the
// request that the volume had moved to another node, or that control had recorded that this node relinquished the epoch
// in the answer. If there is none, it returns "".
//
// It returns ErrStoreOlder for such a volume if the answer is not full: the next request asks for everything. It
// returns ErrAnswerOutdated if this node learned of the move only after the request, because the answer may be from
// before the move.
func (f *Follower) undoneMove(s api.Sync, knew KnownState) (volume string, err error) {
	for _, d := range s.Datasets {
		left, ended := f.Cache.HasLeftSince(d.Dataset), f.Leases.IsReturned(d)
		switch {
		case !left && !ended:
		case !s.Full:
			return "", ErrStoreOlder
		case knew.Datasets == nil: // this node rebuilds the store from its pools
		case left && knew.Left[d.ID] <= d.Epoch, ended && knew.Ended[d.ID] < d.Epoch:
			return "", ErrAnswerOutdated
		default:
			volume = d.Volume
		}
	}
	return volume, nil
}

// missingChange returns a description of a change that this node has seen and that a full answer lacks, or "" if it
// finds none. inconsistent is true if the store is known to be inconsistent or was just recovered.
//
// A dataset that the answer does not name was removed if the store is the same as before, and was lost if the store was
// restored from a backup. There are two signs that the store was restored. One is that its clock is behind the clock
// that this node has seen. The other is the index of this node's registration. This node registers before it requests a
// full answer, so in the same store that index is higher than the index of every record in knew.
func missingChange(s api.Sync, knew KnownState, inconsistent bool) string {
	back := s.StoreClock != 0 && s.StoreClock < knew.Clock
	inconsistent = inconsistent || back
	named := map[uuid.UUID]bool{}
	for _, d := range s.Datasets {
		named[d.ID] = true
		for _, was := range []host.Revision{knew.Datasets[d.ID], knew.Beside[d.ID]} {
			if d.Epoch < was.Epoch || d.Epoch == was.Epoch && d.Index < was.Index {
				return olderRecord(d.Volume)
			}
		}
	}
	for _, k := range s.Copies {
		named[k.Dataset] = true
		if was, home := knew.Datasets[k.Dataset]; home && k.Record != nil && k.Record.Epoch <= was.Epoch {
			return olderRecord(k.Record.Volume) // it came here at this epoch
		}
	}
	for _, was := range knew.Datasets {
		inconsistent = inconsistent || s.RegistrationIndex != 0 && s.RegistrationIndex <= was.Index
	}
	for id, was := range knew.Datasets {
		if inconsistent && !named[id] && !was.Purging {
			return olderRecord(was.Volume)
		}
	}
	if back {
		return "it is older than what this node has seen (a change of another node, for example): a backup was " +
			"restored"
	}
	return ""
}

func olderRecord(volume string) string {
	return fmt.Sprintf("it is older than what this node has seen (of volume %s, for example): a backup was restored",
		volume)
}
