package main

import (
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
)

// eventLine is the format of a line. The columns have fixed widths, because the first lines of a stream are printed
// before the widths of later cells are known.
const eventLine = "%-19s   %-16s   %-20s   %-8s   %-12s   %s\n"

func newEventsCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "events",
		Short: "Print events, and with --follow wait for new ones",
		Long: `Print the events that the server has in memory. With --follow, also print each
new event until interrupted. -o json prints one object per line.`,
		Args:              cli.Args(0),
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	o := cli.OutputFlags(cmd, false)
	var follow bool
	var after uint64
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "print new events until interrupted")
	cmd.Flags().Uint64Var(&after, "after", 0, "start after the event with this `ID`")
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, _ []string) error {
		if o.JSON() {
			return c.Events(cmd.Context(), after, follow, func(e api.Event) error { return show.Line(a.Out, e) })
		}
		if _, err := fmt.Fprintf(a.Out, eventLine, "TIME", "EVENT", "VOLUME", "DATASET", "NODE", "DETAIL"); err != nil {
			return err
		}
		return c.Events(cmd.Context(), after, follow, func(e api.Event) error { return printEvent(a, e) })
	})
	return cmd
}

func printEvent(a *cli.App, e api.Event) error {
	id := ""
	if e.Dataset != uuid.Nil {
		id = e.Dataset.String()[:show.ShortLength]
	}
	cells := []any{e.Time.In(a.Now().Location()).Format(time.DateTime)}
	for _, c := range []string{string(e.Type), cli.ShortName(e.Volume), id, e.Node, e.Detail} {
		if c == "" {
			c = "-"
		}
		cells = append(cells, show.Clean(c))
	}
	_, err := fmt.Fprintf(a.Out, eventLine, cells...)
	return err
}
