package main

import (
	"context"
	"fmt"
	"strconv"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeLsCmd(a *app) *cobra.Command {
	return newLsCmd(a, listing[api.Volume]{
		short: "List the volumes",
		fetch: func(ctx context.Context, c remote) ([]api.Volume, error) { return all(ctx, c.Volumes) },
		id:    volumeID,
		table: func(volumes []api.Volume) *show.Table { return volumeTable(a, volumes) },
	})
}

func volumeID(v api.Volume) string { return v.ID.String() }

func volumeTable(a *app, volumes []api.Volume) *show.Table {
	t := show.NewTable("NAME", "PROFILE", "SIZE", "USED", "STATUS", "POOL", "NODE", "DATASET", "SNAPSHOTS", "CREATED")
	short := shortDatasets(volumes)
	for _, v := range volumes {
		t.Row(shortName(v.Volume), v.Profile.Name, sizeOr(v.Size, v.Profile.Size, "no limit"), used(v), status(v),
			v.PoolName, v.Node,
			short(v.ID), strconv.Itoa(v.Snapshots), show.Ago(a.now(), v.Created))
	}
	p := a.palette()
	t.Paint(4, func(s string) string {
		switch s {
		case statusProblem:
			return p.Red(s)
		case statusUnknown:
			return p.Yellow(s)
		}
		return s
	})
	return t
}

func shortDatasets(volumes []api.Volume) func(uuid.UUID) string {
	ids := make([]uuid.UUID, len(volumes))
	for i, v := range volumes {
		ids[i] = v.ID
	}
	return show.Shorten(ids)
}

// sizeOr says a size that was asked for as such; see dataset.Size.Said.
func sizeOr(s, asked dataset.Size, none string) string {
	if s == 0 {
		return none
	}
	return s.Said(asked)
}

// shortName keeps what Docker makes up for a volume without a name from taking a
// table's width. The dataset beside it names it.
func shortName(volume string) string {
	if (dataset.Spec{Name: volume}).Anonymous() {
		return volume[:anonymousShown] + "…"
	}
	return volume
}

// anonymousShown is how much of such a name Docker shows of other IDs.
const anonymousShown = 12

func used(v api.Volume) string {
	if v.Status == nil {
		return ""
	}
	return v.Status.Used.Human()
}

// Two of the words that status has.
const (
	statusUnknown = "unknown"
	statusProblem = "problem"
)

// status says in a word or two how a volume is.
func status(v api.Volume) string {
	switch st := v.Status; {
	case st == nil:
		return statusUnknown
	case st.Problem != "":
		return statusProblem
	case guests(v) > 0:
		return usedByGuests(v)
	case len(st.Mounts) > 0:
		return fmt.Sprintf("in use by %d", len(st.Mounts))
	case st.Mounted:
		return "mounted"
	}
	return "idle"
}
