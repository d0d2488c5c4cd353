package verification

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "backend",
		Short: "Try what keeps the datasets",
	},
		newBackendVerifyCmd(a),
	)
}
