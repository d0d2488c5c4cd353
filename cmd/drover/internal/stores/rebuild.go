package stores

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/pools"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

func newStoreRebuildCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "rebuild",
		Short: "Restore lost records from the pools",
		Long: `Restore the records that the store lost from the pools of the server's host.
Every dataset has a copy of its record beside its data. Existing records are not
changed, and a name that is taken stays with its volume. --dry-run shows the
outcome for each dataset.

On a single host whose store was lost or restored from a backup, the command
also removes the grants for other clusters: a restored store may have grants
that were removed since the backup. If you know that none was removed,
--keep-grants keeps them.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, true)
	cli.DryRunFlag(cmd, o)
	var in api.RebuildStore
	cmd.Flags().BoolVar(&in.SkipOffline, "skip-offline", false,
		"ignore offline pools; the names of their volumes can then be taken by others")
	cmd.Flags().BoolVar(&in.KeepGrants, "keep-grants", false, "keep the grants for other clusters")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		in.DryRun = o.DryRun
		rebuilt, err := c.RebuildStore(cmd.Context(), in)
		if err != nil {
			return err
		}
		if o.DryRun && !o.JSON() && !o.Quiet {
			if err := a.PrintLine("dry run: would restore the records as follows"); err != nil {
				return err
			}
		}
		err = cli.PrintList(a, o, rebuilt.Items, func(r api.Rebuilt) string { return r.Dataset.String() },
			pools.RebuiltTable)
		if err != nil || len(rebuilt.RemovedGrants) == 0 {
			return err
		}
		return printRemovedGrants(a, o, rebuilt.RemovedGrants)
	})
	return cmd
}

// printRemovedGrants prints which grants a rebuild removes. If the output is for programs, it prints them to stderr.
func printRemovedGrants(a *cli.App, o *cli.Output, names []string) error {
	text := "removed grants for other clusters, because some may have been removed since the backup: %s (create them " +
		"again: drover remote grant create)"
	if o.DryRun {
		text = "grants for other clusters that are removed, because some may have been removed since the backup: %s " +
			"(--keep-grants keeps them)"
	}
	list := strings.Join(names, ", ")
	if o.JSON() || o.YAML() || o.Quiet {
		_, err := fmt.Fprintln(a.ErrOut, "drover: "+show.Clean(fmt.Sprintf(text, list)))
		return err
	}
	return a.PrintLine(text, list)
}
