package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// eventLine is the format of a line. The columns have fixed widths, because the first lines of a stream are printed
// before the widths of later cells are known.
const eventLine = "%-19s   %-19s   %-20s   %-8s   %-12s   %-13s   %s\n"

// eventQuery has the flags of drover events.
type eventQuery struct {
	follow  bool
	after   uint64
	filters []string
	since   string
	until   string
	tail    int64                // the number of past events; below 0: all
	volume  func(api.Event) bool // selects the events of the volume that was given as an argument; nil: all events
}

// eventsHelp is the help of drover events.
const eventsHelp = `Print the events that the server has in memory: at least the last 1024 since
its start. With --follow, also print each new event until interrupted. -o json
prints one object per line, and -o yaml one document per event.

With VOLUME, which can be a name, an alias or a UUID, only the events of that
volume are printed, also those from before it was renamed. --filter volume=NAME
selects the events in which the volume had this name.

BY is who requested the change: a user of the host, an operator's certificate,
an engine, or schedule; on a node of a cluster with the name of the node. It is
- for what Drover did by itself. More details are in the audit log (audit.log on
the host of control or of drover serve). The removal of a backup and the pruning
of a repository have no event. They are in the audit log of the host on which
the command ran (agent-audit.log on a node of a cluster).

KEY of --filter is a column. * in its value stands for any text. With several
filters of one key, one must match.`

func newEventsCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "events [VOLUME]",
		SuggestFor: []string{"history", "log", "logs"},
		Short:      "Print events, and with --follow wait for new ones",
		Long:       eventsHelp,
		Example: `  drover events db --since 2h
  drover events --filter event='volume.*' --tail 20 --follow`,
		Args:              cli.Args(0),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	o := cli.ReportFlags(cmd)
	var q eventQuery
	f := cmd.Flags()
	f.BoolVarP(&q.follow, "follow", "f", false, "print new events until interrupted")
	f.Uint64Var(&q.after, "after", 0, "start after the event with this `ID`")
	f.StringArrayVar(&q.filters, "filter", nil, "print only what matches `KEY=VALUE`; can be repeated")
	f.StringVar(&q.since, "since", "", "start at a `TIME`: 30m or 2d ago, or as printed, 2026-03-01 12:00:00")
	f.StringVar(&q.until, "until", "", "end at a `TIME`, as for --since")
	f.Int64VarP(&q.tail, "tail", "n", -1, "print only the last `N` of the past events")
	cli.CompleteFilter(cmd, eventColumns(a), false)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		selected, err := q.selector(a, cmd)
		if err != nil {
			return err
		}
		if len(args) > 0 {
			if q.volume, err = eventsOf(cmd.Context(), c, args[0]); err != nil {
				return err
			}
		}
		switch {
		case o.JSON():
			return q.stream(cmd.Context(), c, selected, func(e api.Event) error { return cli.Line(a.Out, e) })
		case o.YAML():
			return q.stream(cmd.Context(), c, selected, func(e api.Event) error { return cli.Document(a.Out, e) })
		}
		if err := printEvent(a, func(c cli.Column[api.Event]) string { return c.Header }); err != nil {
			return err
		}
		printed := false
		err = q.stream(cmd.Context(), c, selected, func(e api.Event) error {
			printed = true
			return printEvent(a, func(c cli.Column[api.Event]) string { return cmp.Or(cli.Clean(c.Cell(e)), "-") })
		})
		if err == nil && !printed && q.tail != 0 && !q.follow {
			// Without the note, an empty table looks as if nothing had ever happened.
			cli.PrintError(a.ErrOut, errors.New("no such event since the server started: it keeps events in memory "+
				"(drover operation ls shows older operations)"))
		}
		return err
	})
	return cmd
}

// selector returns a function that reports whether an event matches --filter, --since and --until.
func (q *eventQuery) selector(a *cli.App, cmd *cobra.Command) (func(api.Event) bool, error) {
	filter, err := cli.ParseFilter(cmd, eventColumns(a), false, q.filters)
	if err != nil {
		return nil, err
	}
	var since, until time.Time
	if q.since != "" {
		if since, err = cli.ParseTime(a.Now(), "since", q.since); err != nil {
			return nil, cli.UsageError(cmd, "%w", err)
		}
	}
	if q.until != "" {
		if until, err = cli.ParseTime(a.Now(), "until", q.until); err != nil {
			return nil, cli.UsageError(cmd, "%w", err)
		}
		if q.follow {
			return nil, cli.UsageError(cmd, "--until ends at a past time, and --follow waits for new events (use only "+
				"one)")
		}
	}
	if q.tail < 0 && cmd.Flags().Changed("tail") {
		return nil, cli.UsageError(cmd, "--tail %d: expected a whole number, 0 or more", q.tail)
	}
	return func(e api.Event) bool {
		if e.Time.Before(since) || !until.IsZero() && e.Time.After(until) || q.volume != nil && !q.volume(e) {
			return false
		}
		return filter.Matches(e, nil)
	}, nil
}

// eventsOf returns a function that selects the events of one volume by its UUID, so that they are found under all names
// that the volume has had. A volume that does not exist any more is selected by its last name, or by its UUID.
func eventsOf(ctx context.Context, c cli.Remote, ref string) (func(api.Event) bool, error) {
	v, err := c.Volume(ctx, ref)
	switch {
	case err == nil:
		return func(e api.Event) bool { return e.Dataset == v.ID }, nil
	case !errors.Is(err, dataset.ErrNotFound):
		return nil, err
	}
	ids := map[uuid.UUID]bool{}
	isUUID := dataset.CheckPrefix(strings.ToLower(ref)) == nil
	err = c.Events(ctx, 0, false, func(e api.Event) error {
		if e.Dataset != uuid.Nil &&
			(e.Volume == ref || isUUID && strings.HasPrefix(e.Dataset.String(), strings.ToLower(ref))) {
			ids[e.Dataset] = true
		}
		return nil
	})
	if err == nil && len(ids) == 0 {
		err = dataset.Errorf(dataset.ErrNotFound,
			"no such volume, and no event about it: %q (drover volume ls, or drover events without a name)", ref)
	}
	return func(e api.Event) bool { return ids[e.Dataset] }, err
}

// stream calls fn for the selected events. With --tail, it first reads all past events, and then continues after them.
func (q *eventQuery) stream(ctx context.Context, c cli.Remote, selected func(api.Event) bool,
	fn func(api.Event) error) error {
	after := q.after
	if q.tail >= 0 {
		var last []api.Event
		err := c.Events(ctx, after, false, func(e api.Event) error {
			after = e.ID
			if q.tail == 0 || !selected(e) {
				return nil
			}
			if int64(len(last)) == q.tail {
				last = last[1:]
			}
			last = append(last, e)
			return nil
		})
		if err != nil {
			return err
		}
		for _, e := range last {
			if err := fn(e); err != nil {
				return err
			}
		}
		if !q.follow {
			return nil
		}
	}
	return c.Events(ctx, after, q.follow, func(e api.Event) error {
		if !selected(e) {
			return nil
		}
		return fn(e)
	})
}

func eventColumns(a *cli.App) []cli.Column[api.Event] {
	return []cli.Column[api.Event]{
		{Header: "TIME", Cell: func(e api.Event) string { return e.Time.In(a.Now().Location()).Format(time.DateTime) }},
		{Header: "EVENT", Cell: func(e api.Event) string { return string(e.Type) }},
		cli.Volume("VOLUME", func(e api.Event) string { return e.Volume }),
		{Header: "DATASET", Cell: func(e api.Event) string {
			if e.Dataset == uuid.Nil {
				return ""
			}
			return e.Dataset.String()[:cli.ShortLength]
		}, Whole: func(e api.Event) string { return e.Dataset.String() }},
		{Header: "NODE", Cell: func(e api.Event) string { return e.Node }},
		{Header: "BY", Cell: func(e api.Event) string { return e.By }},
		{Header: "DETAIL", Cell: func(e api.Event) string { return e.Detail }},
	}
}

func printEvent(a *cli.App, text func(cli.Column[api.Event]) string) error {
	var cells []any
	for _, c := range eventColumns(a) {
		cells = append(cells, text(c))
	}
	_, err := fmt.Fprintf(a.Out, eventLine, cells...)
	return err
}
