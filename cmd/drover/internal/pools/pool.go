package pools

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// Command makes drover pool with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:        "pool",
		SuggestFor: []string{"zpool"},
		Short:      "Manage storage pools",
	},
		newPoolCreateCmd(a), newPoolLsCmd(a), newPoolInspectCmd(a), newPoolAdoptCmd(a), newPoolAcceptCmd(a),
		newPoolSetCmd(a), newPoolRmCmd(a),
	)
}
