package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newSnapshotDiffCmd(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:               "diff A [B]",
		Short:             "Say how much changed from a snapshot to a newer one, or to now",
		Args:              args(1),
		ValidArgsFunction: complete(a, anySnapshotWords, anySnapshotWords),
	}
	o := outputFlags(cmd, false)
	volume := volumeFlag(a, cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		c, err := a.connect()
		if err != nil {
			return err
		}
		points := []string{args[0], ""}
		copy(points, args)
		for i, p := range points {
			// Only its volume knows a snapshot by its name.
			if *volume == "" || p == "" {
				continue
			}
			s, err := c.Snapshot(cmd.Context(), *volume, p)
			if err != nil {
				return err
			}
			points[i] = s.ID.String()
		}
		d, err := c.Diff(cmd.Context(), points[0], points[1])
		if err != nil {
			return err
		}
		return one(a, o, d, diffForm)
	}
	return cmd
}

func diffForm(d api.Diff) *show.Form {
	f := &show.Form{}
	f.Add("From", d.Older)
	f.Add("To", d.Newer)
	f.Add("Changed", fmt.Sprintf("%s in %d ranges", dataset.Size(d.Bytes).Human(), d.Ranges))
	f.Add("Zeroed", dataset.Size(d.Zeroed).Human())
	return f
}
