package settings

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/keys"
	"github.com/droverhq/drover/profiles"
)

// Command makes drover profile with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "profile",
		Short: "Manage profiles",
	},
		newProfileLsCmd(a), newProfileShowCmd(a),
	)
}

func newProfileLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[api.ListedProfile]{
		Short: "List the profiles",
		Local: true,
		Fetch: cli.FromServer(a, func(
			ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]api.ListedProfile, error) {
			return c.Profiles(ctx)
		}),
		ID:      func(p api.ListedProfile) string { return p.Name },
		Columns: func([]api.ListedProfile) []cli.Column[api.ListedProfile] { return columns },
		Compare: cli.By(func(p api.ListedProfile) string { return p.Name }),
	})
}

var columns = []cli.Column[api.ListedProfile]{
	{Header: "PROFILE", Cell: func(p api.ListedProfile) string { return p.Name }},
	{Header: "DEFAULT", Cell: func(p api.ListedProfile) string { return yesIf(p.Default) }},
	{Header: "REVISION", Cell: func(p api.ListedProfile) string { return p.Revision }},
	{Header: "SIZE", Cell: func(p api.ListedProfile) string { return cli.SizeOr(p.Size, "no limit") },
		Compare: cli.By(func(p api.ListedProfile) dataset.Size { return cli.Limit(p.Size) })},
	{Header: "STORAGE", Cell: func(p api.ListedProfile) string { return storage(p.Profile) }},
	{Header: "SNAPSHOTS", Cell: func(p api.ListedProfile) string { return p.Snapshots.Schedule }},
	{Header: "QUIESCE", Cell: func(p api.ListedProfile) string { return quiesceShort(p.Quiesce) }},
	{Header: "REPLICAS", Cell: func(p api.ListedProfile) string { return replicasShort(p.Replicas) }},
	{Header: "FAILOVER", Cell: func(p api.ListedProfile) string { return failoverShort(p.Failover) }},
	{Header: "SPEED", Cell: func(p api.ListedProfile) string { return speedShort(p.QoS) }},
	{Header: "ENCRYPTED", Cell: func(p api.ListedProfile) string { return yesIf(p.Encryption.Wanted()) }},
	{Header: "ON DELETE", Cell: func(p api.ListedProfile) string { return cli.OnDelete(p.OnDelete) }},
	{Header: "DESCRIPTION", Cell: func(p api.ListedProfile) string { return p.Description }},
	{Header: "FILESYSTEM", Wide: true, Cell: func(p api.ListedProfile) string { return p.Filesystem.Type }},
	{Header: "ACCESS", Wide: true, Cell: func(p api.ListedProfile) string { return cli.AccessLine(p.Access) }},
	{Header: "FOLLOW", Wide: true, Cell: func(p api.ListedProfile) string { return p.Follow.String() }},
	{Header: "BACKUPS", Wide: true, Cell: func(p api.ListedProfile) string { return backupShort(p.Backup) }},
	{Header: "PLACEMENT", Wide: true, Cell: func(p api.ListedProfile) string { return p.Placement }},
}

// Table shows profiles, one a row.
func Table(profiles []api.ListedProfile) *cli.Table { return cli.ListTable(columns, profiles, false) }

// quiesceShort returns how a filesystem is prepared for a snapshot, or "" for the default.
func quiesceShort(q dataset.Quiesce) string {
	if q == dataset.QuiesceFreeze {
		return ""
	}
	return string(q)
}

// replicasShort formats the replicas of a profile for a cell, such as "2 every 30s".
func replicasShort(r dataset.Replicas) string {
	if r.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d every %s", r.Count, r.Every)
}

// failoverShort formats the failover of a profile for a cell, such as "auto (guard)".
func failoverShort(f dataset.Failover) string {
	if !f.Auto {
		return "manual"
	}
	return "auto (" + f.Fence.String() + ")"
}

// backupShort formats the backups of a profile for a cell, such as "@daily to offsite".
func backupShort(b dataset.Backups) string {
	if b.To == "" {
		return ""
	}
	return b.Schedule + " to " + b.To
}

// speedShort formats the speed limits of a profile for a cell: the reads, then the writes.
func speedShort(q dataset.QoS) string {
	var parts []string
	for _, d := range []struct {
		what string
		iops int64
		bps  dataset.Size
	}{{"r", q.ReadIOPS, q.ReadBPS}, {"w", q.WriteIOPS, q.WriteBPS}} {
		if d.iops > 0 {
			d.what += fmt.Sprintf(" %d IOPS", d.iops)
		}
		if d.bps > 0 {
			d.what += " " + d.bps.String() + "/s"
		}
		if len(d.what) > 1 {
			parts = append(parts, d.what)
		}
	}
	if q.Strict && len(parts) > 0 {
		parts = append(parts, "strict")
	}
	return strings.Join(parts, ", ")
}

// yesIf formats a bool for a cell.
func yesIf(b bool) string {
	if b {
		return "yes"
	}
	return ""
}

// storage returns the names of the pools for a profile's volumes.
func storage(p dataset.Profile) string {
	var parts []string
	if p.Pool != "" {
		parts = append(parts, "pool "+p.Pool)
	}
	if p.Backend != "" {
		parts = append(parts, "backend "+p.Backend)
	}
	if len(parts) == 0 {
		return "any"
	}
	return strings.Join(parts, ", ")
}

// keepLine returns how many scheduled snapshots or backups are kept.
func keepLine(k dataset.Keep) string {
	var parts []string
	for _, e := range []struct {
		n    int
		what string
	}{{k.Last, "the last %d"}, {k.Hourly, "%d hourly"}, {k.Daily, "%d daily"}, {k.Weekly, "%d weekly"},
		{k.Monthly, "%d monthly"}} {
		if e.n > 0 {
			parts = append(parts, fmt.Sprintf(e.what, e.n))
		}
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", ")
}

func newProfileShowCmd(a *cli.App) *cobra.Command {
	cmd := cli.Inspect(a, "show NAME [NAME...]", "Show profiles in detail", cli.ProfileWords,
		cli.Inspected[dataset.Profile]{
			Get: func(ctx context.Context, c cli.Remote, name string) (dataset.Profile, error) {
				return c.Profile(ctx, name)
			},
			Form: func(_ context.Context, _ cli.Remote, p dataset.Profile) *cli.Form { return profileForm(p) },
		})
	cmd.Aliases = []string{"inspect"}
	return cmd
}

func profileForm(p dataset.Profile) *cli.Form {
	f := &cli.Form{}
	f.Add("Profile", p.Name)
	f.Add("Revision", p.Revision)
	f.Add("Description", p.Description)
	f.Add("Size", cli.ExactSize(p.Size))
	f.Add("Warn at", fmt.Sprintf("%d%%", cmp.Or(p.WarnAt, dataset.DefaultWarnAt)))
	f.Add("Storage", storage(p))
	f.Add("Filesystem", strings.TrimSpace(p.Filesystem.Type+" "+strings.Join(p.Filesystem.Mount, ",")))
	f.Add("Snapshots", snapshotLines(p.Snapshots)...)
	f.Add("Backups", backupLine(p.Backup))
	f.Add("Quiesce", string(p.Quiesce))
	f.Add("On delete", cli.OnDelete(p.OnDelete))
	f.Add("Placement", p.Placement)
	f.Add("Owner", ownerLine(p.Owner))
	if f.Add("Access", cli.AccessLine(p.Access)); p.Access != dataset.AccessMany {
		f.Add("Follow", p.Follow.String())
	}
	f.Add("Replicas", replicaLine(p.Replicas))
	f.Add("Failover", p.Failover.String())
	f.Add("Speed", p.QoS.String())
	f.Add("Encryption", keyLine(p.Encryption))
	return f
}

// PolicyLines describes what a profile promises for the data of a volume beyond its size and storage, one promise a
// line.
func PolicyLines(p dataset.Profile) []string {
	lines := []string{"snapshots " + strings.Join(snapshotLines(p.Snapshots), ", ")}
	add := func(name, value string) {
		if value != "" {
			lines = append(lines, name+" "+value)
		}
	}
	add("backups", backupLine(p.Backup))
	add("quiesce", quiesceShort(p.Quiesce))
	add("replicas", replicaLine(p.Replicas))
	add("failover", p.Failover.String())
	if p.Access != dataset.AccessMany {
		add("follow", p.Follow.String())
	}
	add("placement", p.Placement)
	add("owner", ownerLine(p.Owner))
	return lines
}

func keyLine(k dataset.KeySource) string {
	if !k.Wanted() {
		return ""
	}
	return "with the key of " + k.String()
}

func replicaLine(r dataset.Replicas) string {
	if r.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d, fresh every %s", r.Count, r.Every)
}

func snapshotLines(s dataset.Snapshots) []string {
	lines := []string{"manual only"}
	if s.Schedule != "" {
		lines = []string{"at " + s.Schedule + ", kept: " + keepLine(s.Keep)}
	}
	if s.Required {
		lines = append(lines, "only on pools that take them without copying")
	}
	return lines
}

// backupLine describes the backups of a profile. It is empty if there are only those by hand.
func backupLine(b dataset.Backups) string {
	if b.To == "" {
		return ""
	}
	line := "to " + b.To + ", at " + b.Schedule + ", kept: " + keepLine(b.Keep)
	if v := b.Verify; v.Restore {
		line += ", verified every " + v.Every.String()
		if v.Check != "" {
			line += " with " + v.Check
		}
	}
	return line
}

func ownerLine(o *dataset.Owner) string {
	if o == nil {
		return ""
	}
	line := fmt.Sprintf("%d:%d", o.UID, o.GID)
	if o.Mode != nil {
		line += fmt.Sprintf(", mode %04o", *o.Mode)
	}
	return line
}

// PrintNotes prints what an operator should know about valid profiles: which make backups, which need the guard, and
// the pools and keys that the profiles name but that do not exist.
func PrintNotes(ctx context.Context, a *cli.App, all []dataset.Profile) error {
	for _, p := range all {
		if p.Backup.To != "" {
			if err := a.PrintLine("profile %s makes backups %s", p.Name, backupLine(p.Backup)); err != nil {
				return err
			}
		}
		if p.Failover.Auto {
			if err := a.PrintLine("profile %s fails over: each node with its volumes or replicas needs the guard "+
				"(systemctl enable --now drover-guard)", p.Name); err != nil {
				return err
			}
		}
	}
	return printMissing(ctx, a, all)
}

// printMissing prints the pools and keys that the profiles name but that do not exist. They are not an error, because a
// file may be checked on another host, or before the pools and keys are created.
func printMissing(ctx context.Context, a *cli.App, all []dataset.Profile) error {
	var pools []string
	var offline error
	if slices.ContainsFunc(all, func(p dataset.Profile) bool { return p.Pool != "" }) {
		pools, offline = poolNames(ctx, a)
	}
	for _, p := range all {
		if at := p.Encryption.KeyFile; at != "" {
			if err := a.CheckKey(at); err != nil {
				if err := a.PrintLine("profile %s cannot create volumes on this host yet: %v", p.Name,
					err); err != nil {
					return err
				}
			}
		}
		if p.Pool == "" || slices.Contains(pools, p.Pool) {
			continue
		}
		problem := fmt.Sprintf("which no node has (available: %s)%s", dataset.FormatChoices(pools),
			dataset.Suggestion(p.Pool, pools))
		if offline != nil {
			problem = fmt.Sprintf("which could not be checked: %v", offline)
		}
		if err := a.PrintLine("profile %s names pool %s, %s", p.Name, p.Pool, problem); err != nil {
			return err
		}
	}
	return nil
}

// CheckKey fails if the key file at path cannot be used. It is the value of App.CheckKey in the program. If the caller
// is not root, it checks nothing and returns nil.
func CheckKey(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	_, err := keys.ReadFile(path)
	return err
}

func poolNames(ctx context.Context, a *cli.App) ([]string, error) {
	c, err := a.Connect()
	if err != nil {
		return nil, err
	}
	pools, err := c.Pools(ctx)
	var names []string
	for _, p := range pools {
		names = append(names, p.Name)
	}
	return slices.Compact(slices.Sorted(slices.Values(names))), err
}

// ProfileCheck returns a check that finds profiles that no pool of any backend in kinds can satisfy, on any host.
func ProfileCheck(kinds *backends.Registry) profiles.Check {
	return func(p dataset.Profile) (string, error) {
		if p.Backend != "" {
			kind, err := kinds.Kind(p.Backend)
			if err != nil {
				return "backend", err
			}
			if reason := whyUnsatisfiable(kind, p); reason != "" {
				return "backend", dataset.Errorf(dataset.ErrInvalid,
					"no pool of backend %s can satisfy this profile: %s%s", p.Backend, reason,
					suggestBackends(kinds, p))
			}
			return "", nil
		}
		backendsByReason := map[string][]string{} // names of backends by the reason
		var whys []string
		for _, kind := range kinds.Kinds() {
			reason := whyUnsatisfiable(kind, p)
			if reason == "" {
				return "", nil
			}
			if backendsByReason[reason] == nil {
				whys = append(whys, reason)
			}
			backendsByReason[reason] = append(backendsByReason[reason], kind.Name())
		}
		for i, reason := range whys {
			whys[i] = "backend " + dataset.FormatChoices(backendsByReason[reason]) + ": " + reason
		}
		return "", dataset.Errorf(dataset.ErrInvalid, "no backend can satisfy all of this: "+
			"%s", strings.Join(whys, "; "))
	}
}

// suggestBackends returns a remark that names the other backends that could satisfy a profile, or "" if there are none.
func suggestBackends(kinds *backends.Registry, p dataset.Profile) string {
	var names []string
	p.Backend = ""
	for _, kind := range kinds.Kinds() {
		if whyUnsatisfiable(kind, p) == "" {
			names = append(names, kind.Name())
		}
	}
	if len(names) == 0 {
		return ""
	}
	return " (backend " + dataset.FormatChoices(names) + " could)"
}

// whyUnsatisfiable returns why no pool of a backend can satisfy a profile, or "" if one can.
func whyUnsatisfiable(kind backends.Kind, p dataset.Profile) string {
	b, ok := kind.(backends.BoundedKind)
	if !ok {
		return ""
	}
	if reason := placement.WhyKindUnsuitable(kind.Name(), b.MaxCapabilities(), p); reason != "" {
		return reason
	}
	if p.Size > 0 {
		if err := b.CheckSize(p.Filesystem.Type, p.Size); err != nil {
			return err.Error()
		}
	}
	return ""
}
