package status

import (
	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/dataset"
)

func newOperationWatchCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "watch ID",
		SuggestFor: []string{"wait", "logs"},
		Short:      "Wait for an operation and show its progress",
		Long: `Wait for an operation to end and show its progress. The exit code is that of
the operation: 0 only if it succeeded.`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.OperationWords),
	}
	o := cli.OutputFlags(cmd, false)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		op, err := c.Operation(cmd.Context(), args[0], 0)
		if err != nil {
			return err
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		m := a.Meter(op.Action()+" "+op.Volume, false)
		op, err = a.Wait(ctx, c, op, m)
		m.Close()
		if err != nil {
			return err
		}
		return cli.PrintObject(a, o, op, func(op dataset.Operation) *cli.Form { return operationForm(a, op) })
	})
	return cmd
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
	return f
}
