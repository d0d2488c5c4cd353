package volumes

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// MinimumStale is the age below which a replica is never stale. A younger replica may only wait for the next report of
// its node, which reports every ten seconds, or for the end of a transfer.
const MinimumStale = 5 * time.Minute

// IsWholeReplica reports whether a copy is a replica with a complete snapshot.
func IsWholeReplica(k api.CopyDetail) bool {
	return k.Kind == dataset.CopyReplica && k.Snapshot != uuid.Nil
}

// IsStale reports whether a whole replica of a volume was last verified too long ago, and when that was. replicas is
// the key replicas of the profile of the volume.
func IsStale(replicas dataset.Replicas, k api.CopyDetail, now time.Time) (verified time.Time, stale bool) {
	verified = k.Taken // a copy that just became a replica was not verified yet
	if k.VerifiedAt.After(verified) {
		verified = k.VerifiedAt
	}
	return verified, now.Sub(verified) > max(3*time.Duration(replicas.Every), MinimumStale)
}

// replicaHealth returns how many of the replicas of a volume are complete and up to date. It returns "" if the volume
// has no replicas.
func replicaHealth(v api.Volume, now time.Time) string {
	want, whole, stale := v.Profile.Replicas.Count, 0, 0
	var oldest time.Time
	for _, k := range v.CopyDetails {
		if !IsWholeReplica(k) {
			continue
		}
		whole++
		verified, old := IsStale(v.Profile.Replicas, k, now)
		if old {
			stale++
		}
		if oldest.IsZero() || verified.Before(oldest) {
			oldest = verified
		}
	}
	if want == 0 && whole == 0 {
		return ""
	}
	health, building := "healthy", ""
	switch {
	case whole < want:
		health = "degraded"
		building = DescribeShortage(v.CopyDetails, v.ReplicaShortage)
	case stale > 0:
		health = fmt.Sprintf("%d stale", stale)
	}
	line := fmt.Sprintf("%s: %d of %d complete%s", health, whole, want, building)
	if whole > 0 {
		line += ", the oldest verified " + cli.Ago(now, oldest)
	}
	return line
}

// DescribeShortage says why a volume has fewer complete replicas than its profile requires: DescribeBuilding and, if
// control cannot add the missing ones, the reason.
func DescribeShortage(copies []api.CopyDetail, shortage string) string {
	text := DescribeBuilding(copies)
	if shortage != "" {
		text += "; no node can keep another: " + shortage
	}
	return text
}

// DescribeBuilding names the nodes on which new replicas of a volume are built, as ", building replica on NODE". It
// returns "" if there are none. It leaves out a replica whose node reports a problem, because that replica is not built
// at present. copies are the copies of the volume.
func DescribeBuilding(copies []api.CopyDetail) string {
	nodes := copyNodes(copies, func(k api.CopyDetail) bool {
		return k.Kind == dataset.CopyReplica && k.Snapshot == uuid.Nil && k.Problem == ""
	})
	if len(nodes) == 0 {
		return ""
	}
	return ", building " + onNodes("replica", "replicas", nodes)
}

// onNodes formats things on nodes, such as "replicas on host-a, host-b".
func onNodes(one, several string, nodes []string) string {
	if len(nodes) == 1 {
		several = one
	}
	return several + " on " + strings.Join(nodes, ", ")
}

// copyNodes returns the names of the nodes of the copies for which selects returns true, sorted.
func copyNodes(copies []api.CopyDetail, selects func(api.CopyDetail) bool) (names []string) {
	for _, k := range copies {
		if selects(k) {
			names = append(names, k.NodeName)
		}
	}
	slices.Sort(names)
	return names
}
