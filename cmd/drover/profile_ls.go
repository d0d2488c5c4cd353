package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/dataset"
)

func newProfileLsCmd(a *app) *cobra.Command {
	return newLsCmd(a, listing[dataset.Profile]{
		short: "List the profiles",
		fetch: func(ctx context.Context, c remote) ([]dataset.Profile, error) { return c.Profiles(ctx) },
		id:    func(p dataset.Profile) string { return p.Name },
		table: profileTable,
	})
}

func profileTable(profiles []dataset.Profile) *show.Table {
	t := show.NewTable("PROFILE", "REVISION", "SIZE", "STORAGE", "SNAPSHOTS", "ON DELETE", "DESCRIPTION")
	for _, p := range profiles {
		t.Row(p.Name, p.Revision, sizeOr(p.Size, p.Size, "no limit"), storage(p), p.Snapshots.Schedule, onDelete(p.OnDelete), p.Description)
	}
	return t
}

// storage says where a profile's volumes may lie.
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

// keepLine says how many scheduled snapshots stay.
func keepLine(k dataset.Keep) string {
	var parts []string
	for _, e := range []struct {
		n    int
		what string
	}{{k.Last, "the last %d"}, {k.Hourly, "%d hourly"}, {k.Daily, "%d daily"}, {k.Weekly, "%d weekly"}, {k.Monthly, "%d monthly"}} {
		if e.n > 0 {
			parts = append(parts, fmt.Sprintf(e.what, e.n))
		}
	}
	if len(parts) == 0 {
		return "all"
	}
	return strings.Join(parts, ", ")
}
