package status

import (
	"context"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newOperationInspectCmd(a *cli.App) *cobra.Command {
	return cli.Inspect(a, "inspect ID [ID...]", "Show operations in detail", cli.OperationWords,
		cli.Inspected[dataset.Operation]{
			Get: func(ctx context.Context, c cli.Remote, id string) (dataset.Operation, error) {
				return c.Operation(ctx, id, 0)
			},
			Form: func(_ context.Context, _ cli.Remote, op dataset.Operation) *cli.Form {
				f := operationForm(a, op)
				f.Add("Detail", detail(op))
				f.Add("By", op.By)
				f.Add("Request", op.RequestID)
				return f
			},
		})
}
