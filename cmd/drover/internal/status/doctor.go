package status

import (
	"context"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// DoctorCommand makes drover doctor.
func DoctorCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "doctor",
		SuggestFor: []string{"check", "fsck", "verify"},
		Short:      "Check the server's host and list quarantined data",
		Long: `Check the server's host: what does not work, why, and how to fix it. The report
also lists quarantined data: objects in the pools that the store does not know.
Quarantined data is removed only by --gc with its full UUID, after a
confirmation: type the UUID again, or use --yes. drover status is about all
nodes, the control replicas and the store. With --verbose, the report includes
what works. The exit code is 1 if a finding is a warning or an error, as that of
drover status.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	var gc string
	var verbose bool
	cmd.Flags().StringVar(&gc, "gc", "", "destroy the quarantined object with this `UUID`")
	cli.CompleteFlag(cmd, "gc")
	yes := cli.AddFlag(cmd)
	cmd.Flags().BoolVar(&o.DryRun, "dry-run", false, "with --gc: show what would be destroyed, and change nothing")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "list what works, too")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		if cmd.Flags().Changed("gc") {
			return collectGarbage(cmd.Context(), a, c, o, yes, gc)
		}
		if o.DryRun {
			return cli.UsageError(cmd, "--dry-run requires --gc")
		}
		list, err := c.Doctor(cmd.Context())
		list = distinct(list)
		own := a.CertificateFindings()
		if err != nil && !a.IsExpiry(err) {
			return err
		}
		if len(own) > 0 {
			list = append(own, list...)
		}
		if err := print(a, o, list, verbose); err != nil {
			return err
		}
		return cli.Verdict(list)
	})
	return cmd
}

// distinct returns the findings without repeated ones, in their order.
func distinct(list []api.Finding) []api.Finding {
	seen := map[api.Finding]bool{}
	out := make([]api.Finding, 0, len(list))
	for _, f := range list {
		if !seen[f] {
			seen[f] = true
			out = append(out, f)
		}
	}
	return out
}

// print prints what needs attention and, if verbose or as JSON, everything.
func print(a *cli.App, o *cli.Output, list []api.Finding, verbose bool) error {
	shown := list
	if !verbose && !o.JSON() {
		shown = nil
		for _, f := range list {
			if f.NeedsAttention() {
				shown = append(shown, f)
			}
		}
		if len(shown) == 0 {
			return a.PrintLine("healthy (drover doctor -v lists what was checked)")
		}
	}
	return cli.PrintList(a, o, shown, func(f api.Finding) string { return f.Subject },
		func(list []api.Finding) *cli.Table { return cli.FindingsTable(a, list) })
}

// collectGarbage destroys one quarantined object. gc must be its full UUID, because a prefix could match another
// object.
func collectGarbage(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag, gc string) error {
	id, err := uuid.Parse(gc)
	if err != nil || len(gc) != len(uuid.Nil.String()) {
		return dataset.Errorf(dataset.ErrInvalid,
			"--gc %q: expected the full UUID of a quarantined object (drover doctor lists them)", gc)
	}
	if !yes.Given() || o.DryRun {
		found, err := c.Collect(ctx, id, true)
		switch {
		case err != nil:
			return err
		case o.DryRun && o.JSON():
			return cli.JSON(a.Out, found)
		case o.DryRun:
			return a.PrintLine("dry run: would destroy %s: %s", id, described(found))
		}
		err = yes.Ask(a, cli.Question{
			Action:  "destroy " + id.String(),
			Effects: []string{"destroys " + described(found) + " for good; the store does not know this data"},
			Name:    id.String(),
		})
		if err != nil {
			return err
		}
	}
	destroyed, err := c.Collect(ctx, id, false)
	switch {
	case err != nil:
		return err
	case o.JSON():
		return cli.JSON(a.Out, destroyed)
	}
	return a.PrintLine("destroyed %s", id)
}

// described says what a quarantined object is.
func described(c api.Collected) string {
	what := "an object without a record"
	if c.Volume != "" {
		what = "the data of a volume named " + c.Volume
	}
	what += ", with " + cli.Count(c.Snapshots, "snapshot") + ", in pool " + c.Pool
	if c.Path != "" {
		what += " at " + c.Path
	}
	return what
}
