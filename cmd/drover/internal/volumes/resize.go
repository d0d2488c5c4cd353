package volumes

import (
	"context"
	"fmt"
	"strings"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeResizeCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:        "resize NAME SIZE",
		SuggestFor: []string{"grow", "shrink", "extend"},
		Short:      "Change a volume's size",
		Long: `Change the size of a volume, also while it is in use. +SIZE adds to the present
size. K, M, G, T and KiB … are binary, KB … decimal. Not every backend can
shrink a volume.`,
		Example: `  drover volume resize db 50GiB
  drover volume resize db +10GiB`,
		Args:              cli.Args(2),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords, cli.NoWords),
	}
	o := cli.WorkFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		size, err := newSize(cmd.Context(), a, args[0], args[1])
		if err != nil {
			return err
		}
		req := api.Request{Kind: dataset.OpResize, Volume: args[0], Size: size}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			return d.ID, fmt.Sprintf("volume %s has %s%s", d.Volume, d.Size.Readable(),
				unchangedNote(out))
		})
	}
	return cmd
}

// newSize returns the size that a volume gets for the argument SIZE or +SIZE of resize, as the server parses it.
func newSize(ctx context.Context, a *cli.App, volume, text string) (string, error) {
	amount, isMore := strings.CutPrefix(text, "+")
	size, err := dataset.ParseSize(amount)
	if _, bytesErr := dataset.ParseSize(amount + "B"); isMore && err != nil && bytesErr == nil {
		return "", dataset.Errorf(dataset.ErrInvalid, "bad size %q: a bare number is ambiguous (use +%sGiB for "+
			"gibibytes or +%[2]sB for bytes)", dataset.Clip(text), dataset.Clip(amount))
	}
	if err != nil || !isMore {
		return text, err
	}
	c, err := a.Connect()
	if err != nil {
		return "", err
	}
	v, err := c.Volume(ctx, volume)
	switch {
	case err != nil:
		return "", err
	case v.Size == 0:
		return "", dataset.Errorf(dataset.ErrInvalid, "volume %s has no size limit, so %s cannot be added: use drover "+
			"volume resize %[1]s SIZE to set one", v.Volume, amount)
	}
	return (v.Size + size).String(), nil
}

// unchangedNote returns the end of a line about a change of a volume: " already" if nothing had to be changed,
// otherwise " now".
func unchangedNote(out api.Outcome) string {
	if out.Operation == nil {
		return " already"
	}
	return " now"
}
