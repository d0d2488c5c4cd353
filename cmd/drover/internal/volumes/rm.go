package volumes

import (
	"cmp"
	"context"
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

func newVolumeRmCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "rm NAME [NAME...]",
		Aliases:    []string{"remove", "delete"},
		SuggestFor: []string{"destroy"},
		Short:      "Delete volumes",
		Long: `Delete volumes. Their names can be used again at once. Their profiles decide
what happens to the data, and the command prints it: by default it stays in the
trash for a time (drover trash). A volume in use is not deleted. If some of
several volumes cannot be deleted, the others are. -o json prints a list.

A volume cannot be deleted by an alias: give its name, or end the alias with
drover volume rename --drop-alias.

If the profile destroys the data at once (on_delete: purge, and every anonymous
volume), the command shows what is lost, and the name of the volume must be
typed to confirm it, unless --yes is given. A wrong name stops the command
before anything is deleted.

A volume whose home is unreachable may be in use there, and is not deleted. If
the home is lost, use --force and --fenced NODE: the volume goes to the trash,
even if its profile says to destroy it. --fenced confirms that the node writes
to the volume no more: it is off, or cut off for good. This requires the role
admin. If the node returns later, it finds the volume in the trash.`,
		Example: `  drover volume rm db
  drover volume rm db --force --fenced host-a`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.CompleteEach(a, cli.VolumeWords),
	}
	o := cli.WorkFlags(cmd, false)
	req := api.Request{Kind: dataset.OpDelete}
	cmd.Flags().BoolVar(&req.Force, "force", false, "delete protected volumes too")
	cmd.Flags().StringVar(&req.Fenced, "fenced", "",
		"with --force: confirm that the unreachable home `NODE` is fenced and writes no more")
	yes := cli.AddFlag(cmd)
	cli.DryRunFlag(cmd, o)
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		asked, err := confirmDeletes(cmd.Context(), a, c, o, yes, req, args)
		if err != nil {
			return err
		}
		submit := func(name string) (out api.Outcome, err error) {
			if err = asked.refused[name]; err == nil {
				req.Volume = asked.reference(name)
				out, err = a.Submit(cmd.Context(), c, o, req)
			}
			return out, notSnapshot(err, name)
		}
		describe := func(_ string, out api.Outcome) (uuid.UUID, string) { return describeDeleted(o, out) }
		return submitEach(cmd.Context(), a, o, len(args) > 1, args, "volumes were not deleted", submit, describe)
	})
	return cmd
}

// answers has the answers of a user about the volumes of a command, by the names of the volumes on the command line.
type answers struct {
	confirmed map[string]uuid.UUID // datasets whose deletion the user confirmed
	refused   map[string]error     // errors of volumes that must not be deleted, because nobody confirmed it
}

// reference returns how a request refers to a volume: by the UUID of the dataset that the user confirmed, because
// another volume may have got the name since. Without a confirmation, it returns the name.
func (a answers) reference(name string) string {
	if id, ok := a.confirmed[name]; ok {
		return id.String()
	}
	return name
}

// confirmDeletes asks for a confirmation for each volume whose profile says that its data is destroyed. It skips a
// volume that cannot be found, because the server refuses its deletion. It also skips a volume whose deletion control
// refuses now.
func confirmDeletes(ctx context.Context, a *cli.App, c cli.Remote, o *cli.Output, yes *cli.Flag, req api.Request,
	names []string) (asked answers, err error) {
	if yes.Given() || o.DryRun || req.Fenced != "" { // with Fenced, a volume always goes to the trash
		return asked, nil
	}
	asked = answers{confirmed: map[string]uuid.UUID{}, refused: map[string]error{}}
	for _, name := range names {
		v, err := c.Volume(ctx, name)
		switch kind := dataset.KindOf(err); {
		case err == nil:
		case kind == dataset.ErrNotFound || kind == dataset.ErrAmbiguous || kind == dataset.ErrInvalid:
			continue
		default:
			return asked, err
		}
		if v.Profile.OnDelete.Mode != dataset.DeletePurge {
			continue
		}
		req.Volume = name
		if err := a.CheckAllowed(ctx, c, o, req); err != nil {
			asked.refused[name] = err
			continue
		}
		why := "the profile has on_delete: purge"
		if v.Anonymous {
			why = "it is anonymous"
		}
		err = yes.Ask(a, cli.Question{
			Action:  "delete volume " + v.Volume,
			Effects: []string{Destroyed(v), "it does not go to the trash, because " + why},
			Name:    v.Volume,
		})
		if err != nil {
			return asked, err
		}
		asked.confirmed[name] = v.ID
	}
	return asked, nil
}

// Destroyed says what is lost if a dataset is destroyed: its data, snapshots and copies.
func Destroyed(v api.Volume) string {
	lost := "its data"
	if v.Status != nil {
		if size := cmp.Or(v.Status.Used, v.Status.InPool); size != nil && *size > 0 {
			lost = size.Human() + " of data"
		}
	}
	lost = fmt.Sprintf("destroys %s and %s for good, on node %s", lost, cli.Count(v.Snapshots, "snapshot"), v.Node)
	if len(v.CopyDetails) == 0 {
		return lost + "; no other node has a copy"
	}
	var nodes []string
	for _, k := range v.CopyDetails {
		nodes = append(nodes, k.NodeName)
	}
	return lost + "; its copies on other nodes are destroyed, too: " + strings.Join(nodes, ", ")
}

// notSnapshot adds to the error about a name such as db@first the command that deletes a snapshot. Otherwise a user who
// wants that could follow the error and delete the volume.
func notSnapshot(err error, name string) error {
	if volume, after, at := strings.Cut(name, "@"); at && errors.Is(err, dataset.ErrInvalid) {
		return fmt.Errorf("%w; to delete only a snapshot of that name: drover snapshot rm --dry-run %s %s", err,
			dataset.Clip(volume), dataset.Clip(after))
	}
	return err
}

func describeDeleted(o *cli.Output, out api.Outcome) (uuid.UUID, string) {
	d := cli.MadeDataset(out)
	if o.DryRun {
		return d.ID, wouldDelete(out, d)
	}
	line := "deleted volume " + d.Volume
	if op := out.Operation; op != nil && op.OtherNode != uuid.Nil { // the volume is deleted without its home
		return d.ID, fmt.Sprintf("%s; its data stays in place, in the trash (drover trash restore %s)", line,
			d.ID.String()[:cli.ShortLength])
	}
	switch d.Profile.OnDelete.Mode {
	case dataset.DeletePurge:
		line += "; its data is destroyed"
	case dataset.DeleteTrash, dataset.DeleteKeep:
		line += fmt.Sprintf("; its data stays %s (drover trash restore %s)", cli.OnDelete(d.Profile.OnDelete),
			d.ID.String()[:cli.ShortLength])
	default: // the server did not return the volume's OnDelete
		line += "; drover trash ls shows whether its data still exists"
	}
	return d.ID, line
}

// wouldDelete says what the deletion of a volume would do to its data.
func wouldDelete(out api.Outcome, d dataset.Dataset) string {
	switch {
	case out.Operation != nil && out.Operation.OtherNode != uuid.Nil:
		return fmt.Sprintf("would delete volume %s without its home; its data would stay in the trash", d.Volume)
	case d.Profile.OnDelete.Mode == dataset.DeletePurge && out.Volume != nil:
		return fmt.Sprintf("would delete volume %s: %s", d.Volume, Destroyed(*out.Volume))
	}
	return fmt.Sprintf("would delete volume %s; its data would be %s", d.Volume, cli.OnDelete(d.Profile.OnDelete))
}

func describePurgeTime(now, t time.Time) string {
	if t.IsZero() {
		return "until someone purges it"
	}
	return "until " + cli.When(now, t)
}
