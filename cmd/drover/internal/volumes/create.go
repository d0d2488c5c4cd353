package volumes

import (
	"fmt"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/settings"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeCreateCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "create SPEC",
		SuggestFor: []string{"add", "new"},
		Short:      "Create a volume",
		Long: `Create a volume. A SPEC is a name for the default profile, NAME@PROFILE, or
NAME@snapshot-PREFIX for a clone of the snapshot or dataset whose UUID begins
with PREFIX. If the volume exists with the same settings, the command changes
nothing and succeeds.`,
		Example: `  drover volume create db@gold
  drover volume create db@gold -o size=50GiB -o owner=999:999 -o label.team=shop
  drover volume create db-test@snapshot-f23ca986`,
		ValidArgsFunction: cli.Complete(a, cli.NewVolumeWords),
	}
	o, opts := cli.MakeFlags(cmd)
	cli.DetachFlag(cmd, o)
	cmd.Args = makeArgs(1, opts)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, help := opts["help"]; help {
			return printOptionHelp(a, cmd)
		}
		req := api.Request{Kind: dataset.OpCreate, Volume: args[0], Options: opts}
		return makeVolume(a, cmd, o, req, "created")
	}
	return cmd
}

// makeArgs checks the arguments of a command that creates a volume, as cli.Args does. With -o help, the command needs
// no arguments.
func makeArgs(minimum int, opts map[string]string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, given []string) error {
		if _, help := opts["help"]; help {
			return nil
		}
		return cli.Args(minimum)(cmd, given)
	}
}

// printOptionHelp prints the help of -o help: the options, and the existing profiles.
func printOptionHelp(a *cli.App, cmd *cobra.Command) error {
	t := cli.NewTable("OPTION", "VALUE", "MEANING")
	for _, h := range dataset.OptionHelp() {
		t.Row(h.Name, h.Value, h.Help)
	}
	if err := t.Write(a.Out); err != nil {
		return err
	}
	c, err := a.Connect()
	if err != nil {
		return err
	}
	list, err := c.Profiles(cmd.Context())
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(a.Out); err != nil {
		return err
	}
	return settings.Table(list).Write(a.Out)
}

// makeVolume creates a volume and prints the line about it. A clone is never smaller than its source, so the line says
// if a clone did not get the smaller size of its profile.
func makeVolume(a *cli.App, cmd *cobra.Command, o *cli.Output, req api.Request, verb string) error {
	c, err := a.Connect()
	if err != nil {
		return err
	}
	out, err := a.Submit(cmd.Context(), c, o, req)
	if err != nil {
		return err
	}
	return a.Report(o, out, func(out api.Outcome) (uuid.UUID, string) {
		id, line := describeMade(verb)(out)
		d := cli.MadeDataset(out)
		if out.Operation == nil || d.Origin == nil {
			return id, line
		}
		// The volume exists, whether or not its profile can be read.
		p, err := c.Profile(cmd.Context(), d.Profile.Name)
		if err == nil && p.Size > 0 && p.Size < d.Size && req.Options["size"] == "" {
			line += fmt.Sprintf("; its size is that of its source, not %s as in its profile", p.Size.Readable())
		}
		return id, line
	})
}

// describeMade returns the line about the created volume.
func describeMade(verb string) func(api.Outcome) (uuid.UUID, string) {
	return func(out api.Outcome) (uuid.UUID, string) {
		d := cli.MadeDataset(out)
		size := ""
		if d.Size > 0 {
			size = ", " + d.Size.Readable()
		}
		if out.Operation == nil {
			return d.ID, fmt.Sprintf("volume %s exists already, as requested: dataset %s, profile %s%s", d.Volume,
				d.ID, d.Profile.Name, size)
		}
		return d.ID, fmt.Sprintf("%s volume %s: dataset %s, profile %s%s", verb, d.Volume, d.ID, d.Profile.Name, size)
	}
}
