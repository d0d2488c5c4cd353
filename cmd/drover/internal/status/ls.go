package status

import (
	"cmp"
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

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
