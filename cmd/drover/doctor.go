package main

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The values of api.Finding.Level.
const (
	levelOK      = "ok"
	levelWarning = "warning"
	levelError   = "error"
)

func newDoctorCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check the server's host and list quarantined data",
		Long: `Check the server's host: what works, what does not, why, and how to fix it. The
report also lists quarantined data: objects in the pools that the store does not
know. Quarantined data is removed only by --gc with its full UUID. The exit code
is 1 if a finding is an error.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	var gc string
	cmd.Flags().StringVar(&gc, "gc", "", "destroy the quarantined object with this `UUID`")
	cli.CompleteFlag(cmd, "gc")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		if cmd.Flags().Changed("gc") {
			return collectGarbage(cmd.Context(), a, c, gc)
		}
		findings, err := c.Doctor(cmd.Context())
		if err != nil {
			return err
		}
		err = cli.PrintList(a, o, findings, func(f api.Finding) string { return f.Subject },
			func(findings []api.Finding) *show.Table { return findingTable(a, findings) })
		if err != nil {
			return err
		}
		return verdict(findings)
	})
	return cmd
}

// collectGarbage destroys one quarantined object. gc must be its full UUID, because a prefix could match another
// object.
func collectGarbage(ctx context.Context, a *cli.App, c cli.Remote, gc string) error {
	id, err := uuid.Parse(gc)
	if err != nil || len(gc) != len(uuid.Nil.String()) {
		return dataset.Errorf(dataset.ErrInvalid,
			"--gc %q: expected the full UUID of a quarantined object (drover doctor lists them)", gc)
	}
	if err := c.Collect(ctx, id); err != nil {
		return err
	}
	return a.PrintLine("destroyed %s", id)
}

func findingTable(a *cli.App, findings []api.Finding) *show.Table {
	t := show.NewTable("LEVEL", "SUBJECT", "FINDING")
	for _, f := range findings {
		t.Row(f.Level, f.Subject, f.Text)
		if f.Fix != "" { // on a line of its own, because a long finding would push a column off the screen
			t.Below(2, "to do: "+f.Fix)
		}
	}
	p := a.Palette()
	t.Paint(0, func(s string) string {
		switch s {
		case levelOK:
			return p.Green(s)
		case levelWarning:
			return p.Yellow(s)
		case levelError:
			return p.Red(s)
		}
		return s
	})
	return t
}

// verdict fails if there is an error among the findings.
func verdict(findings []api.Finding) error {
	n := 0
	for _, f := range findings {
		if f.Level == levelError {
			n++
		}
	}
	if n == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d findings are errors", n, len(findings))
}
