package doctor

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
)

// checkMissingCapabilities lists in one line the capabilities of other backends that a pool does not have, so that an
// operator knows before a profile requires one.
func checkMissingCapabilities(r *Report, p *pool.Pool) {
	if list := missingCapabilities(p.Capabilities, p.Share != uuid.Nil); len(list) > 0 {
		r.Add(findings.OK, "pool "+p.Name, "", "backend %s, compared with others: %s", p.Backend,
			strings.Join(list, ", "))
	}
	if len(p.MissingFeatures) > 0 {
		r.Add(findings.OK, "pool "+p.Name, "", "could do more on this host: %s", strings.Join(p.MissingFeatures, "; "))
	}
}

// missingCapabilities describes the capabilities that a pool, which may be on a share, does not have.
func missingCapabilities(c dataset.Capabilities, shared bool) []string {
	var list []string
	for _, l := range []struct {
		is   bool
		what string
	}{
		{!c.EnforcesSize, "no hard size"},
		{c.CountsWritten, "sizes that count snapshots"},
		{!c.InstantSnapshot, "slow snapshots and clones (every file is visited), only of volumes that are not in use"},
		{c.InstantSnapshot && !c.ConstantSnapshot, "snapshots that take longer for fragmented volumes"},
		{!c.CloneIndependent, "snapshots that cannot be deleted before their clones"},
		{c.EnforcesSize && !c.OnlineGrow, "no growing while in use"},
		{c.OnlineGrow && len(c.OfflineGrow) > 0,
			"no growing of " + strings.Join(slices.Sorted(slices.Values(c.OfflineGrow)), " and ") + " while in use"},
		{c.EnforcesSize && !c.Shrink, "no shrinking"},
		{!c.OwnFilesystem, "no separate filesystem for each volume (type, mount options, freeze)"},
		{!c.OwnFilesystem && !c.KnowsUsed, "used space is found by walking all files"},
		{!c.OwnDevice, "no throttling"},
		{!c.Encryption, "no encryption"},
		{!c.Delta && !shared, "moves that copy all files, and no replicas"},
		{!c.Delta && shared, "moves that copy all files to hosts without the share, and no replicas"},
	} {
		if l.is {
			list = append(list, l.what)
		}
	}
	return list
}
