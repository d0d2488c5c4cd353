package placement

import (
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
)

// OnSameShare reports whether two pools are on the same share, so that each sees the data of the other.
func OnSameShare(x, y dataset.Pool) bool { return x.Share != uuid.Nil && x.Share == y.Share }

// OtherPools returns the candidates without the pool that holds the data. If the target node has adopted that pool, a
// copy into the pool would overwrite the source of the copy. If no candidate remains, why says so.
func OtherPools(cands []Candidate, from dataset.Pool, target dataset.Node) (others []Candidate, why string) {
	others = slices.DeleteFunc(slices.Clone(cands), func(c Candidate) bool { return c.ID == from.ID })
	could := func(c Candidate) bool { return from.Share == uuid.Nil || OnSameShare(from, c.Pool) }
	if len(others) < len(cands) && !slices.ContainsFunc(others, could) {
		why = "pool " + from.Name + ", which node " + target.Name +
			" now has, is the pool that already has the data (drover pool adopt PATH there makes it its home)"
	}
	return others, why
}

// WhyFenceUnsuitable returns why a dataset with failover auto cannot be on a share with the fence of its profile; ""
// if it can. The fence must be a fence command, because only the storage server or a power switch can stop another
// host from writing to a share.
func WhyFenceUnsuitable(c Candidate, p dataset.Profile) string {
	if p.Failover.Auto && c.Share != uuid.Nil && p.Failover.Fence.Kind != dataset.FenceExec {
		return "it is on a share, where failover auto requires a fence command that excludes the last home " +
			"(fence: {exec: [PROGRAM]})"
	}
	return ""
}
