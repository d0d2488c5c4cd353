package profiles

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/listing"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newProfileLsCmd(a *cli.App) *cobra.Command {
	return listing.New(a, listing.List[dataset.Profile]{
		Short: "List the profiles",
		Local: true,
		Fetch: func(ctx context.Context, c cli.Remote) ([]dataset.Profile, error) { return c.Profiles(ctx) },
		ID:    func(p dataset.Profile) string { return p.Name },
		Table: Table,
		Wide: []listing.Column[dataset.Profile]{
			{Header: "FILESYSTEM", Cell: func(p dataset.Profile) string { return p.Filesystem.Type }},
			{Header: "ACCESS", Cell: func(p dataset.Profile) string { return cli.AccessLine(p.Access) }},
			{Header: "FOLLOW", Cell: func(p dataset.Profile) string { return p.Follow.String() }},
			{Header: "PLACEMENT", Cell: func(p dataset.Profile) string { return p.Placement }},
		},
		SortBy: map[string]string{"size": "size"},
	})
}

// Table shows profiles, one a row.
func Table(profiles []dataset.Profile) *show.Table {
	t := show.NewTable("PROFILE", "REVISION", "SIZE", "STORAGE", "SNAPSHOTS", "QUIESCE", "REPLICAS", "FAILOVER",
		"SPEED", "ENCRYPTED", "ON DELETE", "DESCRIPTION")
	for _, p := range profiles {
		t.Row(p.Name, p.Revision, cli.SizeOr(p.Size, p.Size, "no limit"), storage(p), p.Snapshots.Schedule,
			quiesceShort(p.Quiesce), replicasShort(p.Replicas), failoverShort(p.Failover), speedShort(p.QoS),
			encrypted(p.Encryption), cli.OnDelete(p.OnDelete), p.Description)
	}
	return t
}

// quiesceShort returns how writes are stopped during a snapshot, or "" if they are not.
func quiesceShort(q dataset.Quiesce) string {
	if q == dataset.QuiesceNone {
		return ""
	}
	return string(q)
}

// replicasShort formats the replicas of a profile for a cell, such as "2 every 30s".
func replicasShort(r dataset.Replicas) string {
	if r.Count == 0 {
		return ""
	}
	return fmt.Sprintf("%d every %s", r.Count, time.Duration(r.Every))
}

// failoverShort formats the failover of a profile for a cell, such as "auto (guard)".
func failoverShort(f dataset.Failover) string {
	if !f.Auto {
		return "manual"
	}
	return "auto (" + f.Fence.String() + ")"
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

func encrypted(k dataset.KeySource) string {
	if k.Wanted() {
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

// keepLine returns how many scheduled snapshots are kept.
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
