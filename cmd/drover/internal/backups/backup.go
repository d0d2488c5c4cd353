// Package backups has the commands of drover backup. Package main adds them to the command tree. The commands call the
// API, and keep no state.
package backups

import (
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
)

// Command makes drover backup with its subcommands.
func Command(a *cli.App) *cobra.Command {
	return cli.Group(&cobra.Command{
		Use:   "backup",
		Short: "Manage backups of volumes",
	},
		newCreateCmd(a),
	)
}
