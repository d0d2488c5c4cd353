package status

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

// OperationCommand makes drover operation with its subcommands.
func OperationCommand(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "operation",
		Aliases:    []string{"op"},
		SuggestFor: []string{"jobs", "tasks"},
		Short:      "Manage operations",
	},
		newOperationLsCmd(a), newOperationInspectCmd(a), newOperationCancelCmd(a),
	)
}

func newOperationLsCmd(a *cli.App) *cobra.Command {
	return cli.New(a, cli.List[dataset.Operation]{
		Short: "List pending and recent operations, newest first",
		Long: `List the operations that are pending or ended within the last day, newest first,
at most 10,000. Successful scheduled snapshots are listed for one hour. KIND is
the command that was given, such as set-profile or label. DETAIL is what
changed, the progress, or why the operation failed. That of a move names both
nodes. -o wide adds BY, who requested the operation, as in drover events.`,
		Fetch: cli.FromServer(a, func(
			ctx context.Context, c cli.Remote, _ cli.ListQuery) ([]dataset.Operation, error) {
			return cli.FetchAll(ctx, c.Operations)
		}),
		ID:      func(op dataset.Operation) string { return op.ID.String() },
		Columns: func([]dataset.Operation) []cli.Column[dataset.Operation] { return operationColumns(a) },
		Compare: func(x, y dataset.Operation) int { return y.Created.Compare(x.Created) },
		Moment: &cli.Moment[dataset.Operation]{
			Of: func(op dataset.Operation) time.Time { return op.Created }, Verb: "started",
		},
		Labels: func(ctx context.Context, c cli.Remote) (func(dataset.Operation) map[string]string, error) {
			of, err := cli.VolumeLabels(ctx, c)
			return func(op dataset.Operation) map[string]string { return of(op.DatasetID) }, err
		},
	})
}

func operationColumns(a *cli.App) []cli.Column[dataset.Operation] {
	colors := a.Palette()
	ended := cli.Time(a, "ENDED", func(op dataset.Operation) time.Time { return op.Ended })
	ended.Wide = true
	return []cli.Column[dataset.Operation]{
		{Header: "OPERATION", Cell: func(op dataset.Operation) string { return op.ID.String() }},
		{Header: "KIND", Cell: func(op dataset.Operation) string { return op.Action() }},
		cli.Volume("VOLUME", func(op dataset.Operation) string { return op.Volume }),
		{Header: "STATE", Cell: func(op dataset.Operation) string { return string(op.State) },
			Paint: func(s string) string {
				if s == string(dataset.OpFailed) {
					return colors.Red(s)
				}
				return s
			}},
		cli.Time(a, "STARTED", func(op dataset.Operation) time.Time { return op.Created }),
		{Header: "DETAIL", Cell: detail},
		{Header: "DATASET", Wide: true, Cell: func(op dataset.Operation) string { return op.DatasetID.String() }},
		{Header: "BY", Wide: true, Cell: func(op dataset.Operation) string { return op.By }},
		ended,
	}
}

// detail returns the progress of an operation, why it failed, or what it changed.
func detail(op dataset.Operation) string {
	p := op.Progress
	step := p.Step
	switch {
	case op.Problem != nil:
		return op.Problem.Message
	case op.State.Final():
		return op.Change
	case p.Total > 0:
		step = fmt.Sprintf("%s %d%% (%s of %s)", p.Step, int64(100*float64(p.Done)/float64(p.Total)),
			dataset.Size(p.Done).Human(), dataset.Size(p.Total).Human())
	}
	if op.Kind == dataset.OpMove && op.Change != "" && step != "" {
		return op.Change + ": " + step
	}
	return cmp.Or(step, op.Change)
}

func newOperationInspectCmd(a *cli.App) *cobra.Command {
	var wait *bool
	cmd := cli.Inspect(a, "inspect ID [ID...]", "Show operations in detail, and with --wait wait for their end",
		cli.OperationWords, cli.Inspected[dataset.Operation]{
			Get: func(ctx context.Context, c cli.Remote, id string) (dataset.Operation, error) {
				op, err := c.Operation(ctx, id, 0)
				if err != nil || !*wait {
					return op, err
				}
				return awaitOperation(ctx, a, c, op)
			},
			Form: func(_ context.Context, _ cli.Remote, op dataset.Operation) *cli.Form { return operationForm(a, op) },
		})
	cmd.Long = `Show operations in detail. --wait waits for the end of each and shows its
progress. The exit code is then 0 only if all of them succeeded.`
	wait = cmd.Flags().BoolP("wait", "w", false, "wait for the end, and show the progress")
	return cmd
}

func awaitOperation(ctx context.Context, a *cli.App, c cli.Remote, op dataset.Operation) (dataset.Operation, error) {
	ctx, stop := a.Signals(ctx)
	defer stop()
	m := a.Meter(op.Action()+" "+op.Volume, false)
	defer m.Close()
	return a.Wait(ctx, c, op, m)
}

func operationForm(a *cli.App, op dataset.Operation) *cli.Form {
	f := &cli.Form{}
	f.Add("Operation", op.ID.String())
	f.Add("Kind", op.Action())
	f.Add("State", string(op.State))
	f.Add("Volume", op.Volume)
	if op.DatasetID != uuid.Nil {
		f.Add("Dataset", op.DatasetID.String())
	}
	if op.Snapshot != nil {
		f.Add("Snapshot", op.Snapshot.ID.String())
	}
	f.Add("Repository", op.Repository)
	f.Add("Backup", op.Backup)
	if op.Push != nil {
		f.Add("Name", op.Push.Name)
		f.Add("By", op.Push.By)
	}
	if op.Backup != "" && (op.Kind == dataset.OpBackup || op.Kind == dataset.OpPush) {
		f.Add("Added", dataset.Size(op.BytesAdded).Human())
	}
	f.Add("Started", cli.When(a.Now(), op.Created))
	f.Add("Ended", cli.When(a.Now(), op.Ended))
	f.Add("Detail", detail(op))
	f.Add("By", op.By)
	f.Add("Request", op.RequestID)
	return f
}

func newOperationCancelCmd(a *cli.App) *cobra.Command {
	return cli.Query(a, &cobra.Command{
		Use:               "cancel ID",
		SuggestFor:        []string{"kill", "stop"},
		Short:             "Cancel an operation and undo its work",
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.OperationWords),
	}, false, func(cmd *cobra.Command, c cli.Remote, o *cli.Output, args []string) error {
		op, err := c.CancelOperation(cmd.Context(), args[0])
		if err != nil {
			return err
		}
		return a.PrintResult(o, op, "operation %s (%s %s) is %s", op.ID, op.Action(), op.Volume, op.State)
	})
}
