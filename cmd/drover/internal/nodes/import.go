package nodes

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/daemon"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

func newStoreImportCmd(a *cli.App) *cobra.Command {
	var f daemon.Flags
	var force, dryRun bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import exported records into an empty store",
		Long: `Import exported records into the store that drover.yaml names, or into the one
in the state folder, which is created if needed. The whole file is checked
before anything is written. The store must be empty, unless --force allows the
file to replace everything in it. The word replace must be typed to confirm
that, unless --yes is given. No drover may be running on the store. On a control
host the store is named in another file: use --config.

The cluster keeps its identity, so its nodes accept the new store. If the import
is interrupted, run it again to complete it; no drover starts on the store
before.`,
		Example: `  drover store import /var/backups/drover.jsonl
  drover store import /var/backups/drover.jsonl --config /etc/drover/control.yaml`,
		Args: cli.Args(1),
	}
	f.OfStore(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "replace everything in the store")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would happen, and change nothing")
	yes := cli.AddFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dryRun {
			return previewImport(cmd.Context(), a, f, args[0], force)
		}
		if force {
			if err := yes.Ask(a, cli.Question{
				Action:  "import " + args[0],
				Effects: []string{"replaces every record in the store with those of the file"},
				Name:    "replace",
			}); err != nil {
				return err
			}
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		sum, place, err := importStore(ctx, a, f, args[0], force)
		if err != nil && ctx.Err() != nil {
			return dataset.Errorf(dataset.ErrCancelled, "interrupted: run the import again to complete the store")
		}
		if err != nil {
			return err
		}
		return a.PrintLine("imported %s from %s into %s", describeDump(sum), args[0], place)
	}
	return cmd
}

// previewImport checks the file and the store as an import does. It creates no store.
func previewImport(ctx context.Context, a *cli.App, f daemon.Flags, file string, force bool) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	sum, err := dump.Check(in)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	st, err := openStore(ctx, a, f, false)
	if errors.Is(err, dataset.ErrNotFound) {
		return a.PrintLine("dry run: would import %s from %s into a new store", describeDump(sum), file)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	if _, err := in.Seek(0, 0); err != nil {
		return fmt.Errorf("%s: %w (the file is read twice, so it cannot be a pipe)", file, err)
	}
	if sum, err = dump.PreviewLoad(ctx, st, in, force); err != nil {
		return err
	}
	what := "import"
	if force {
		what = "replace every record in the store, and import"
	}
	return a.PrintLine("dry run: would %s %s from %s into %s", what, describeDump(sum), file, st.Where)
}

func importStore(ctx context.Context, a *cli.App, f daemon.Flags, file string, force bool) (sum dump.Summary,
	place string, err error) {
	in, err := os.Open(file)
	if err != nil {
		return sum, "", err
	}
	defer in.Close()
	// Check the dump before a store is created for it.
	if _, err := dump.Check(in); err != nil {
		return sum, "", fmt.Errorf("%s: %w", file, err)
	}
	if _, err := in.Seek(0, 0); err != nil {
		return sum, "", fmt.Errorf("%s: %w (the file is read twice, so it cannot be a pipe)", file, err)
	}
	st, err := openStore(ctx, a, f, true)
	if err != nil {
		return sum, "", err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	sum, err = dump.Load(ctx, st, in, force)
	return sum, st.Where, err
}
