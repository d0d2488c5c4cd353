package volumes

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeRenameCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "rename NAME NEW",
		SuggestFor: []string{"mv"},
		Short:      "Give a volume another name, or end an alias",
		Long: `Give a volume another name, also while it is in use. Only the name changes. The
data, the UUID, the snapshots and all mounts stay.

The former name becomes an alias. Commands, containers and Compose files find
the volume by it, also as ALIAS@PROFILE, and no other volume can get the name.
docker volume ls lists each name that the engine of the host has used. docker
volume rm ALIAS only removes the alias from that list, and never deletes the
volume.

--drop-alias ends an alias. It is refused while running containers use the alias
(--force overrides that). A stopped container that was created with it cannot
start any more, and a Compose file that still has it creates a new, empty
volume. drover volume inspect shows the aliases that the home's engine knows.`,
		Example: `  drover volume rename shop_data shop-db
  drover volume rename --drop-alias shop_data shop-db`,
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NoWords),
	}
	o := cli.OutputFlags(cmd, true)
	cli.DryRunFlag(cmd, o)
	force := cmd.Flags().Bool("force", false, "with --drop-alias: also if running containers use the alias")
	alias := cmd.Flags().String("drop-alias", "", "end this `ALIAS` of volume NAME, instead of a rename")
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		switch {
		case !cmd.Flags().Changed("drop-alias") && *force:
			return cli.UsageError(cmd, "--force needs --drop-alias")
		case !cmd.Flags().Changed("drop-alias"):
			return cli.Args(2)(cmd, args)
		case len(args) > 1:
			return cli.UsageError(cmd, "unexpected argument: %s (with --drop-alias, give only the name of the volume)",
				dataset.Clip(args[1]))
		}
		return cli.Args(1)(cmd, args)
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if cmd.Flags().Changed("drop-alias") {
			return dropAlias(cmd, a, o, api.Request{
				Kind: dataset.OpDropAlias, Volume: args[0], Name: *alias, Force: *force,
			})
		}
		return rename(cmd, a, o, args[0], args[1])
	}
	return cmd
}

// rename gives a volume another name.
func rename(cmd *cobra.Command, a *cli.App, o *cli.Output, volume, name string) error {
	req := api.Request{Kind: dataset.OpRename, Volume: volume, Name: name}
	return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
		d := cli.MadeDataset(out)
		if out.Operation == nil {
			return d.ID, fmt.Sprintf("volume %s has that name already", d.Volume)
		}
		old := out.Operation.Volume
		if o.DryRun {
			return d.ID, fmt.Sprintf("would rename volume %s to %s; %s would stay valid as an alias", old, name, old)
		}
		return d.ID, fmt.Sprintf("renamed volume %s to %s; %s stays valid as an alias", old, name, old)
	})
}

// dropAlias tries dropTries times, with the pause dropPause, while the alias is in use. A container that has just ended
// counts as a user of its volume until the agent has reported the unmount, which takes some tenths of a second.
const (
	dropTries = 4
	dropPause = 500 * time.Millisecond
)

// dropAlias ends an alias of a volume.
func dropAlias(cmd *cobra.Command, a *cli.App, o *cli.Output, req api.Request) error {
	for try := 1; ; try++ {
		err := a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("%s the alias %s of volume %s%s",
				map[bool]string{true: "would drop", false: "dropped"}[o.DryRun], req.Name, d.Volume,
				strandedHint(out.Volume, req.Name))
		})
		if !errors.Is(err, dataset.ErrInUse) || try == dropTries || a.Sleep(cmd.Context(), dropPause) != nil {
			return err
		}
	}
}

// strandedHint returns a hint on containers that cannot start without an alias, or "" if the engine of the home does
// not know the alias. v is the volume before the alias was dropped; it may be nil.
func strandedHint(v *api.Volume, alias string) string {
	if v == nil || v.Status == nil {
		return ""
	}
	known := dataset.SpellingsWithName(v.Status.EngineAliases, alias)
	if len(known) == 0 {
		return ""
	}
	return fmt.Sprintf("; if a stopped container on node %s has this name, it cannot start any more (docker ps -a "+
		"--filter volume=%s there shows it)", v.Node, strings.Join(known, " --filter volume="))
}
