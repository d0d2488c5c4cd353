package volumes

import (
	"maps"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// CloneCommand makes drover clone.
func CloneCommand(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "clone SOURCE NEW",
		SuggestFor: []string{"cp", "fork"},
		Short:      "Create a volume as a copy of another, or of a snapshot",
		Long: `Create a volume as a copy of another volume or of a snapshot, and share its
blocks. If the pool can do that, it takes the same time for any size. SOURCE is
the name of a volume, VOLUME@SNAPSHOT with the name of a snapshot, or the UUID
prefix of a snapshot or dataset. A volume may be in use.

The clone has the profile of the source, unless NEW or -o names one. If none is
named, the schedules of the profile do not apply to the clone: no snapshots and
backups of it are made, unless --keep-schedules is given. drover volume
set-profile turns the schedules on later.

The clone stays in the pool of the source, and is never smaller than the source:
if the profile has a smaller size, the command says so. For a copy in another
pool, use
drover volume export SOURCE | drover volume import NEW@PROFILE --from -.`,
		Example: `  drover clone db db-test
  drover clone db@before-upgrade db-test
  drover clone f23ca986 db-test@bronze`,
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NewVolumeWords),
	}
	o, opts := cli.MakeFlags(cmd)
	cli.DetachFlag(cmd, o)
	keep := cli.KeepSchedulesFlag(cmd)
	cmd.Args = makeArgs(2, opts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, help := opts["help"]; help {
			return printOptionHelp(a, cmd)
		}
		if _, twice := opts["from"]; twice {
			return cli.UsageError(cmd, "unexpected option from: the source is SOURCE, %q", args[0])
		}
		o2 := maps.Clone(opts)
		o2["from"] = args[0]
		if *keep {
			o2[dataset.OptionSchedules] = "true"
		}
		req := api.Request{Kind: dataset.OpClone, Volume: args[1], Options: o2}
		return makeVolume(a, cmd, o, req, "cloned "+args[0]+" to")
	}
	return cmd
}
