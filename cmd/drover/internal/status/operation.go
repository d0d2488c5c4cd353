package status

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
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
