package doctor

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
)

// checkMissingCapabilities lists in one line what a pool cannot do, although pools of other backends can, so that an
// operator knows before a profile requires it.
func checkMissingCapabilities(r *Report, p *pool.Pool) {
	if list := missingCapabilities(p.Capabilities, p.Share != uuid.Nil); len(list) > 0 {
		r.Add(condition.PoolLimits, "pool "+p.Name, "", p.Backend, strings.Join(list, "; "))
	}
	if len(p.MissingFeatures) > 0 {
		r.Add(condition.PoolCouldDoMore, "pool "+p.Name, "", strings.Join(p.MissingFeatures, "; "))
	}
}

// missingCapabilities describes what a pool, which may be on a share, cannot do. Each text is a clause.
func missingCapabilities(c dataset.Capabilities, shared bool) []string {
	var list []string
	for _, l := range []struct {
		is   bool
		what string
	}{
		{!c.EnforcesSize, "the size of a volume is no hard limit"},
		{c.CountsWritten, "the size of a volume also limits its snapshots"},
		{!c.InstantSnapshot,
			"snapshots and clones are slow (every file is visited), and not possible while a volume is in use"},
		{c.InstantSnapshot && !c.ConstantSnapshot, "snapshots of fragmented volumes take longer"},
		{!c.CloneIndependent, "a snapshot cannot be deleted before its clones"},
		{c.EnforcesSize && !c.OnlineGrow, "a volume cannot grow while in use"},
		{c.OnlineGrow && len(c.OfflineGrow) > 0,
			strings.Join(slices.Sorted(slices.Values(c.OfflineGrow)), " and ") + " cannot grow while in use"},
		{c.EnforcesSize && !c.Shrink, "a volume cannot shrink"},
		{!c.OwnFilesystem, "volumes have no filesystems of their own (type, mount options, freeze)"},
		{!c.OwnFilesystem && !c.KnowsUsed, "Drover reads all folders of a volume to know its used space"},
		{!c.OwnDevice, "the speed of a volume cannot be limited"},
		{!c.Encryption, "volumes cannot be encrypted"},
		{!c.Delta && !shared, "a move copies all files, and there are no replicas"},
		{!c.Delta && shared, "a move to a host without the share copies all files, and there are no replicas"},
	} {
		if l.is {
			list = append(list, l.what)
		}
	}
	return list
}
