package volumes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// newestShown is the maximum number of snapshots that inspect lists.
const newestShown = 5

func newVolumeInspectCmd(a *cli.App) *cobra.Command {
	const use, short = "inspect NAME [NAME...]", "Show volumes in detail"
	return cli.Inspect(a, use, short, cli.VolumeWords, cli.Inspected[api.Volume]{
		Get: func(ctx context.Context, c cli.Remote, name string) (api.Volume, error) {
			return c.Volume(ctx, name)
		},
		Form: func(ctx context.Context, c cli.Remote, v api.Volume) *cli.Form {
			return volumeForm(a, v, newerProfile(ctx, c, v), poolOf(ctx, c, v), newestSnapshots(ctx, a, c, v),
				holderLines(ctx, a, c, v))
		},
	})
}

// newerProfile returns how a volume gets the present revision of its profile, or "" if it has that revision, if the
// profile was removed, or if the profile cannot be read.
func newerProfile(ctx context.Context, c cli.Remote, v api.Volume) string {
	p, err := c.Profile(ctx, v.Profile.Name)
	if err != nil || p.Revision == v.Profile.Revision {
		return ""
	}
	return fmt.Sprintf("newer revision: %s (drover volume set-profile %s %s applies it)", p.Revision, v.Volume, p.Name)
}

// volumePool has the facts about the pool of a volume that determine the remedy for a problem.
type volumePool struct {
	name   string               // for drover pool inspect
	status *dataset.PoolStatus  // nil: not known
	can    dataset.Capabilities // of the pool
}

// poolOf reads the pool of a volume that has a problem or little space left. The status is nil for other volumes, and
// if the pools cannot be read: then inspect shows the remedy for a pool with enough space.
func poolOf(ctx context.Context, c cli.Remote, v api.Volume) volumePool {
	pool := volumePool{name: v.PoolName}
	if is, _ := Fullness(v.Status, v.Size); is == dataset.NotFull && (v.Status == nil || v.Status.Problem == "") {
		return pool
	}
	pools, err := c.Pools(ctx)
	if err != nil {
		return pool
	}
	for _, p := range pools {
		if p.ID == v.Pool {
			return volumePool{cli.UniquePoolName(p, pools), p.Status, p.Capabilities}
		}
	}
	return pool
}

func volumeForm(a *cli.App, v api.Volume, newer string, pool volumePool, snapshots, holders []string) *cli.Form {
	now, p := a.Now(), v.Profile
	f := &cli.Form{}
	f.Add("Volume", v.Volume)
	f.Add("Aliases", strings.Join(v.Aliases, ", "))
	if v.Status != nil {
		f.Add("Engine aliases", strings.Join(v.Status.EngineAliases, ", "))
	}
	f.Add("Profile", p.Name+"@"+p.Revision, p.Description, newer)
	f.Add("Dataset", v.ID.String())
	if v.State != dataset.StateReady {
		f.Add("State", string(v.State))
	}
	f.Add("Home", fmt.Sprintf("%s (%s)", v.Node, v.Home))
	f.Add("Lease", leaseLine(v))
	f.Add("Pool", fmt.Sprintf("%s (%s)", v.PoolName, v.Backend))
	f.Add("Replicas", replicaHealth(v, now))
	f.Add("Copies", copyLines(a, v)...)
	f.Add("Size", sizeLine(v))
	f.Add("Inodes", inodeLine(v))
	f.Add("Filesystem", p.Filesystem.Type)
	f.Add("Policy", settings.PolicyLines(p)...)
	if p.SchedulesOff && !v.Anonymous {
		f.Add("Schedules", fmt.Sprintf("off (drover volume set-profile %s %s turns them on)", v.Volume, p.Name))
	}
	f.Add("Speed", p.QoS.String())
	f.Add("Encryption", encryptionLine(v))
	f.Add("Access", cli.AccessLine(p.Access))
	f.Add("Mounted at", mountPathLine(v))
	f.Add("Mounted by", mountLines(a, v)...)
	f.Add("Holders", holders...)
	f.Add("Guests", sharedMountLines(a, v)...)
	f.Add("Snapshots", snapshots...)
	f.Add("Next snapshot", nextSnapshotLine(now, v))
	f.Add("Backups", backupLines(now, v)...)
	f.Add("Origin", originLine(v.Origin))
	f.Add("Based on", basedOnLines(v.BasedOn)...)
	f.Add("Labels", cli.LabelLines(v.Labels)...)
	f.Add("Protected", cli.YesNo(v.Protected))
	if v.ReadOnly {
		f.Add("Read-only", "yes")
	}
	f.Add("On delete", cli.OnDelete(p.OnDelete))
	f.Add("Created", createdLine(now, v))
	if v.Trash != nil {
		f.Add("In the trash", "since "+cli.When(now, v.Trash.At), describePurgeTime(now, v.Trash.Expires))
	}
	problem, next := advice(now, v, pool)
	f.Add("Problem", problem)
	f.Add("Remedy", next...)
	return f
}

// basedOnLines returns the versions in repositories that a volume continues.
func basedOnLines(refs []dataset.VersionRef) (lines []string) {
	for _, r := range refs {
		lines = append(lines, fmt.Sprintf("%s/%s, version %s", r.Repository, r.Name, r.Version))
	}
	return lines
}

// createdLine returns when a volume was created. If the recorded request is not just the name of the volume, it adds
// the request, such as db@gold. A rename replaces the recorded request by the new name, unless an engine knows the
// volume by the recorded request.
func createdLine(now time.Time, v api.Volume) string {
	line := cli.When(now, v.Created)
	if v.RequestedAs == v.Volume || v.RequestedAs == "" {
		return line
	}
	return line + ", requested as " + v.RequestedAs
}

// nextSnapshotLine returns when the next scheduled snapshot of a volume is due. It is empty if there is no schedule.
func nextSnapshotLine(now time.Time, v api.Volume) string {
	switch {
	case v.NextSnapshot.IsZero():
		return ""
	case !v.NextSnapshot.After(now):
		return "due now"
	}
	return cli.When(now, v.NextSnapshot)
}

// backupLines describes the backups of a volume. It returns nothing if there is no schedule.
func backupLines(now time.Time, v api.Volume) []string {
	b := v.Backups
	if b == nil {
		return nil
	}
	lines := []string{"to " + v.Profile.Backup.To + ", at " + v.Profile.Backup.Schedule, "last scheduled one: none yet"}
	if apart := v.KeptApart; apart != nil && b.Next.IsZero() {
		lines = append(lines,
			fmt.Sprintf("next one: none, because the volume is kept apart from cluster %s", apart.Cluster))
	}
	if !b.Last.IsZero() {
		lines[1] = "last scheduled one: " + cli.When(now, b.Last)
	}
	switch {
	case b.Running != uuid.Nil:
		lines = append(lines, "next one: runs (operation "+b.Running.String()[:8]+")")
	case b.Next.After(now):
		lines = append(lines, "next one: "+cli.When(now, b.Next))
	case !b.Next.IsZero():
		lines = append(lines, "next one: due now")
	}
	if b.Failures > 0 {
		lines = append(lines, fmt.Sprintf("failed attempts: %d, the last one because %s", b.Failures, b.Problem))
	}
	return append(lines, verifyLines(now, v)...)
}

// verifyLines describes the scheduled verifications of a volume's backups. It returns nothing if there is no schedule.
func verifyLines(now time.Time, v api.Volume) []string {
	s := v.Backups.Verify
	if s == nil {
		return nil
	}
	lines := []string{"last scheduled verification: none"}
	if !s.Last.IsZero() {
		lines[0] = "last scheduled verification: " + cli.When(now, s.Last)
	}
	switch {
	case s.Running != uuid.Nil:
		lines = append(lines, "next verification: runs (operation "+s.Running.String()[:8]+")")
	case s.Next.IsZero():
		lines = append(lines, "next verification: after the next backup")
	case s.Next.After(now):
		lines = append(lines, "next verification: "+cli.When(now, s.Next))
	default:
		lines = append(lines, "next verification: due now")
	}
	if s.Failures > 0 {
		lines = append(lines, fmt.Sprintf("failed verifications: %d, the last one because %s", s.Failures, s.Problem))
	}
	return lines
}

// leaseLine returns the state and epoch of a volume's lease, and the operation that will move the volume, if there is
// one.
func leaseLine(v api.Volume) string {
	switch {
	case v.Lease == nil || v.Lease.State == "": // it is not recorded, or not known to a node that is cut off
		return ""
	case v.Move == uuid.Nil:
		return fmt.Sprintf("%s, epoch %d", v.Lease.State, v.Lease.Epoch)
	}
	line := fmt.Sprintf("%s, epoch %d; operation %s will move it", v.Lease.State, v.Lease.Epoch, v.Move)
	if v.Lease.InUse {
		line += ", waiting until it is not in use"
	}
	return line
}

// copyLines describes the copies of a volume on other nodes.
func copyLines(a *cli.App, v api.Volume) []string {
	var lines []string
	for _, k := range v.CopyDetails {
		line := k.NodeName + ": " + string(k.Kind)
		switch {
		case k.Snapshot != uuid.Nil:
			line += ", of " + cli.Ago(a.Now(), k.Taken)
		case k.Kind == dataset.CopyReplica && k.Problem != "":
			line += ", no data yet, because " + k.Problem
		case k.Kind == dataset.CopyReplica:
			line += ", no data yet"
		}
		if k.VerifiedAt.After(k.Taken) {
			line += ", and nothing was written between then and " + cli.Ago(a.Now(), k.VerifiedAt)
		}
		if IsWholeReplica(k) && k.Problem != "" {
			line += ", cannot be refreshed, retrying: " + k.Problem
		}
		if !k.Expires.IsZero() && k.Kind == dataset.CopyLeft {
			line += ", until " + cli.When(a.Now(), k.Expires)
		}
		lines = append(lines, line)
	}
	return lines
}

func sizeLine(v api.Volume) string {
	line := cli.ExactSize(v.Size)
	if used := usedSize(v.Status, v.Size); used != "" {
		line += ", " + used + " used"
	}
	if v.Status != nil && v.Status.Usage != nil {
		line += fmt.Sprintf(" (%d%%), %s available", v.Status.Usage.Percent(), v.Status.Usage.Available.Human())
	}
	if inPool := sizeInPool(v.Status); inPool != "" {
		line += ", " + inPool + " in the pool"
	}
	return line
}

// inodeLine returns how many inodes of a volume's filesystem are used, or "" if that is not known.
func inodeLine(v api.Volume) string {
	if v.Status == nil || v.Status.Usage == nil || v.Status.Usage.Inodes == 0 {
		return ""
	}
	u := v.Status.Usage
	return fmt.Sprintf("%d, %d used (%d%%)", u.Inodes, u.InodesUsed, u.InodePercent())
}

// mountPathLine returns where a volume is mounted, or "" if it is not mounted or its home did not report the path.
func mountPathLine(v api.Volume) string {
	if v.Status == nil || v.Status.MountPath == "" {
		return ""
	}
	return v.Status.MountPath + " on node " + v.Node
}

func mountLines(a *cli.App, v api.Volume) []string {
	switch {
	case v.Status == nil:
		return []string{"unknown"}
	case len(v.Status.Mounts) == 0 && v.Status.Mounted:
		return []string{"unknown users, but it is mounted"}
	case len(v.Status.Mounts) == 0:
		return []string{"nobody"}
	}
	var lines []string
	for _, m := range v.Status.Mounts {
		id := "(no ID)"
		if m.ID != "" {
			id = "mount ID " + m.ID
		}
		line := strings.TrimSpace(m.Engine+" "+id) + " since " + cli.Ago(a.Now(), m.Since)
		if m.Count > 1 {
			line += fmt.Sprintf(", %d times", m.Count)
		}
		if len(m.Names) > 0 {
			line += ", as " + strings.Join(m.Names, " and ")
		}
		if m.Unverified {
			line += ", unverified: it may have ended"
		}
		lines = append(lines, line)
	}
	return lines
}

// holderLines returns a line for each container, process and mount that uses a volume. They are known only on the
// volume's home.
func holderLines(ctx context.Context, a *cli.App, c cli.Remote, v api.Volume) []string {
	if v.Status == nil || len(v.Status.Mounts) == 0 && !v.Status.Mounted {
		return nil
	}
	held, err := c.VolumeHolders(ctx, v.ID.String())
	switch {
	case errors.Is(err, dataset.ErrUnsupported): // this host is not the home
		return []string{fmt.Sprintf("known on node %s (drover volume inspect %s)", v.Node, v.Volume)}
	case err != nil:
		return []string{"not known: " + err.Error()}
	}
	return a.HolderLines(ctx, held)
}

// newestSnapshots returns lines about the newest snapshots. If they cannot be read, it returns a line with the error,
// because inspect must still show the volume.
func newestSnapshots(ctx context.Context, a *cli.App, c cli.Remote, v api.Volume) []string {
	if v.Snapshots == 0 {
		return []string{"none"}
	}
	snaps, err := cli.FetchAll(ctx, cli.SnapshotsOf(c, v.ID.String()))
	if err != nil {
		return []string{fmt.Sprintf("%d, which cannot be listed: %v", v.Snapshots, err)}
	}
	slices.SortFunc(snaps, func(x, y dataset.Snapshot) int { return y.Created.Compare(x.Created) })
	var lines []string
	for i, s := range snaps {
		if i == newestShown {
			return append(lines, fmt.Sprintf("and %d older (drover snapshot ls %s)", len(snaps)-i, v.Volume))
		}
		line := s.ID.String() + " of " + cli.Ago(a.Now(), s.Created)
		if s.Name != "" {
			line += ", " + s.Name
		}
		lines = append(lines, line)
	}
	return lines
}

func originLine(o *dataset.Origin) string {
	switch {
	case o == nil:
		return ""
	case o.Implicit:
		return "clone of dataset " + o.Dataset.String() + " as it was then"
	}
	return "clone of snapshot " + o.Snapshot.String() + " of dataset " + o.Dataset.String()
}

// encryptionLine returns which key opens a volume, and where the key is.
func encryptionLine(v api.Volume) string {
	if v.Encryption == nil {
		return ""
	}
	return fmt.Sprintf("key %s, of %s", v.Encryption.KeyID, v.Profile.Encryption)
}

// heardWithin is the maximum time that a node needs to report the status of a new volume.
const heardWithin = time.Minute

// homeRemedy returns what to do about a volume whose home is unreachable.
func homeRemedy(v api.Volume) []string {
	next := []string{"drover node inspect " + v.Node, "start that host, or connect it again; on it: drover doctor"}
	for _, k := range v.CopyDetails {
		if k.Promotable() {
			return append(next, "if it is lost: drover volume move --help says how the volume continues from a copy")
		}
	}
	return next
}

// advice returns the problem of a volume and the commands that solve it. pool is its pool.
func advice(now time.Time, v api.Volume, pool volumePool) (problem string, next []string) {
	_, fullness := Fullness(v.Status, v.Size)
	switch st := v.Status; {
	case v.State == dataset.StateTrashed:
		return "", []string{"drover trash restore " + v.ID.String()}
	case v.Unreachable:
		return "its home, node " + v.Node + ", is unreachable", homeRemedy(v)
	case st == nil && now.Sub(v.Created) < heardWithin:
		return "", nil
	case st == nil:
		return "node " + v.Node + " has not reported its state",
			[]string{"drover node inspect " + v.Node, "drover doctor (on that node)"}
	case st.Problem != "":
		next = append(next, "drover pool inspect "+pool.name, "drover doctor (on node "+v.Node+")")
		if strings.Contains(st.Problem, v.PoolName) {
			return st.Problem, next
		}
		return st.Problem, next[1:]
	case fullness != "":
		room := v.RoomIn(pool.name, pool.can, pool.status, v.Status)
		if why := v.WhyNotLarger(room, *v.Status.Usage); why != "" {
			fullness += "; " + why
		}
		return fullness, v.SpaceCommands(room, *v.Status.Usage)
	}
	return "", nil
}

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
