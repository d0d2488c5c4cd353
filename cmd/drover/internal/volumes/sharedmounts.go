package volumes

import (
	"fmt"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
)

// countSharedMounts returns the number of hosts on which a volume is in use, without the home of the volume.
func countSharedMounts(v *api.VolumeSummary) (n int) {
	for _, g := range v.SharedMountDetails {
		if isShared(g) {
			n++
		}
	}
	return n
}

// isShared reports whether a shared mount counts as a use: it is not exclusive, and its host is not fenced. The last
// report of a fenced host can still have mounts.
func isShared(g api.SharedMountDetail) bool { return !g.Exclusive && !g.Fenced }

// sharedMountStatus returns the status of a volume with shared mounts, including the uses on its home.
func sharedMountStatus(v *api.VolumeSummary) string {
	uses, hosts := len(v.Status.Mounts), countSharedMounts(v)
	if uses > 0 {
		hosts++
	}
	for _, g := range v.SharedMountDetails {
		if isShared(g) {
			uses += g.MountCount
		}
	}
	return fmt.Sprintf("in use by %d on %d", uses, hosts)
}

// sharedMountLines describes the hosts that have mounted a volume, without the home of the volume.
func sharedMountLines(a *cli.App, v api.Volume) []string {
	var lines []string
	for _, g := range v.SharedMountDetails {
		line := fmt.Sprintf("%s, mounted %d times, since %s", g.NodeName, g.MountCount, cli.Ago(a.Now(), g.Since))
		switch {
		case g.Exclusive:
			line = g.NodeName + " has exclusive use, since " + cli.Ago(a.Now(), g.Since)
		case g.MountCount == 1:
			line = g.NodeName + ", mounted once, since " + cli.Ago(a.Now(), g.Since)
		}
		switch {
		case g.Fenced:
			line += "; unreachable, and confirmed as fenced"
		case g.Unreachable:
			line += "; unreachable (once it is off for good: drover node fence " + g.NodeName + ")"
		}
		if g.Problem != "" {
			line += ": " + g.Problem
		}
		lines = append(lines, line)
	}
	return lines
}
