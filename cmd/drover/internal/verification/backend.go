package verification

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// Command makes drover backend with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "backend",
		Short: "Test storage backends",
	},
		newBackendVerifyCmd(a),
	)
}
