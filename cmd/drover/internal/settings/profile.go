package settings

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// Command makes drover profile with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "profile",
		Short: "Manage profiles",
	},
		newProfileLsCmd(a), newProfileShowCmd(a),
	)
}
