package settings

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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
