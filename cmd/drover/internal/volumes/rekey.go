package volumes

import (
	"errors"
	"fmt"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func newVolumeRekeyCmd(a *cli.App) *cobra.Command {
	var oldKey string
	cmd := &cobra.Command{
		Use:   "rekey NAME",
		Short: "Encrypt a volume's data key with the current key of its profile",
		Long: `Encrypt (wrap) the data key of a volume with the current key of its profile. The
data itself is not touched, the volume may be in use, and its copies get the new
key with the record. The old key is read from the file that the profile named
when the volume was created or last rekeyed. If that file was overwritten, use
--old-key-file with a copy of it on the volume's home. Keep the old key as long
as you keep backups of the records.`,
		Example:           `  drover volume rekey db --old-key-file /root/gold.old`,
		Args:              cli.Args(1),
		ValidArgsFunction: cli.Complete(a, cli.VolumeWords),
	}
	cmd.Flags().StringVar(&oldKey, "old-key-file", "", "`FILE` with the old key on the volume's home")
	o := cli.WorkFlags(cmd, false)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if oldKey != "" && !filepath.IsAbs(oldKey) {
			return dataset.Errorf(dataset.ErrInvalid, "--old-key-file %s: expected an absolute path", oldKey)
		}
		if oldKey != "" {
			oldKey = filepath.Clean(oldKey)
		}
		c, err := a.Connect()
		if err != nil {
			return err
		}
		before, err := c.Volume(cmd.Context(), args[0])
		if err != nil && !errors.Is(err, dataset.ErrNotFound) { // control names volumes in the trash
			return err
		}
		req := api.Request{Kind: dataset.OpRekey, Volume: args[0], Path: oldKey}
		return a.Change(cmd, o, req, func(out api.Outcome) (uuid.UUID, string) {
			d := cli.MadeDataset(out)
			if before.Encryption == nil || out.Operation == nil || out.Operation.DatasetRecord == nil ||
				out.Operation.DatasetRecord.Encryption == nil {
				return d.ID, fmt.Sprintf("volume %s now has another key", d.Volume)
			}
			previousKey, newKey := before.Encryption.KeyID, out.Operation.DatasetRecord.Encryption.KeyID
			if previousKey == newKey {
				return d.ID, fmt.Sprintf("volume %s: its data key is wrapped by key %s, as before, because its "+
					"profile has no other key (replace the key file of the profile, and retry)", d.Volume, newKey)
			}
			return d.ID, fmt.Sprintf("volume %s: its data key was wrapped by key %s, and is now wrapped by key "+
				"%s", d.Volume,
				previousKey, newKey)
		})
	}
	return cmd
}
