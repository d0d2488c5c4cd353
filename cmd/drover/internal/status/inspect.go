package status

import (
	"context"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

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
