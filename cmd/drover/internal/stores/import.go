package stores

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/servers"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

func newStoreImportCmd(a *cli.App) *cobra.Command {
	var f servers.Flags
	var force bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Put the records of an export into a store that is empty",
		Long: `Put the records of an export into the store that drover.yaml names, or into the
one in the state's folder, which is made where there is none. The whole file is
checked before anything is written, and the store has to be empty, unless
--force says that the file replaces all that it holds. No drover may work on it.
On a control host the file that names the store is another: say --config.

The cluster keeps its identity, so its nodes know the store for theirs. Cut
short, it goes on when it is run again; until then no drover starts on the store.`,
		Example: `  drover store import /var/backups/drover.jsonl
  drover store import /var/backups/drover.jsonl --config /etc/drover/control.yaml`,
		Args: cli.Args(1),
	}
	f.OfStore(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "replace all that the store holds")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		sum, where, err := importStore(ctx, a, f, args[0], force)
		if err != nil && ctx.Err() != nil {
			return dataset.Errorf(dataset.ErrCancelled, "interrupted: run it again, so that the store is whole")
		}
		if err != nil {
			return err
		}
		return a.Say("imported %s from %s into %s", described(sum), args[0], where)
	}
	return cmd
}

func importStore(ctx context.Context, a *cli.App, f servers.Flags, file string, force bool) (sum dump.Summary,
	where string, err error) {
	in, err := os.Open(file)
	if err != nil {
		return sum, "", err
	}
	defer in.Close()
	// Before a store is made for it.
	if _, err := dump.Check(in); err != nil {
		return sum, "", fmt.Errorf("%s: %w", file, err)
	}
	if _, err := in.Seek(0, 0); err != nil {
		return sum, "", fmt.Errorf("%s: %w (it is read twice: a pipe will not do)", file, err)
	}
	st, err := openStore(ctx, a, f, true)
	if err != nil {
		return sum, "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	sum, err = dump.Load(ctx, st, in, force)
	return sum, st.Where, err
}
