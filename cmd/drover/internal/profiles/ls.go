package profiles

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newProfileLsCmd(a *cli.App) *cobra.Command {
	return cli.NewListCommand(a, cli.Listing[dataset.Profile]{
		Short: "List the profiles",
		Fetch: func(ctx context.Context, c cli.Remote) ([]dataset.Profile, error) { return c.Profiles(ctx) },
		ID:    func(p dataset.Profile) string { return p.Name },
		Table: Table,
	})
}

// Table shows profiles, one a row.
func Table(profiles []dataset.Profile) *show.Table {
	t := show.NewTable("PROFILE", "REVISION", "SIZE", "STORAGE", "SNAPSHOTS", "SPEED", "ENCRYPTED", "ON DELETE",
		"DESCRIPTION")
	for _, p := range profiles {
		t.Row(p.Name, p.Revision, cli.SizeOr(p.Size, p.Size, "no limit"), storage(p), p.Snapshots.Schedule,
			speedShort(p.QoS), encrypted(p.Encryption), cli.OnDelete(p.OnDelete), p.Description)
	}
	return t
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
	var what []string
	if p.Pool != "" {
		what = append(what, "pool "+p.Pool)
	}
	if p.Backend != "" {
		what = append(what, "backend "+p.Backend)
	}
	if len(what) == 0 {
		return "any"
	}
	return strings.Join(what, ", ")
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
