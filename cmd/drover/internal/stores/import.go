package stores

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/confirm"
	"github.com/droverhq/drover/cmd/drover/internal/servers"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/store/dump"
	"github.com/droverhq/drover/dataset"
)

func newStoreImportCmd(a *cli.App) *cobra.Command {
	var f servers.Flags
	var force, dryRun, keepGrants bool
	cmd := &cobra.Command{
		Use:   "import FILE",
		Short: "Import exported records into an empty store",
		Long: `Import exported records into the store that drover.yaml names, or into the one
in the state folder, which is created if needed. The whole file is checked
before anything is written. The store must be empty, unless --force allows the
file to replace everything in it. The word replace must be typed to confirm
that, unless --yes is given. No drover may be running on the store. On a control
host the store is named in another file: use --config.

Grants for other clusters are left out: the file can have grants that were
removed since, and their tokens would be valid again. If you know that none was
removed, for example while you move the store, --keep-grants imports them, too.

The cluster keeps its identity, so its nodes accept the new store. If the import
is interrupted, run it again to complete it; no drover starts on the store
before.`,
		Example: `  drover store import /var/backups/drover.jsonl
  drover store import /var/backups/drover.jsonl --config /etc/drover/control.yaml`,
		Args: cli.Args(1),
	}
	f.OfStore(cmd.Flags())
	cmd.Flags().BoolVar(&force, "force", false, "replace everything in the store")
	cmd.Flags().BoolVar(&keepGrants, "keep-grants", false, "import the grants for other clusters, too")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "show what would happen, and change nothing")
	yes := confirm.AddFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if dryRun {
			return previewImport(cmd.Context(), a, f, args[0], force, keepGrants)
		}
		if force {
			if err := yes.Ask(a, confirm.Question{
				Action:  "import " + args[0],
				Effects: []string{"replaces every record in the store with those of the file"},
				Name:    "replace",
			}); err != nil {
				return err
			}
		}
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		sum, place, grants, err := importStore(ctx, a, f, args[0], force, keepGrants)
		if err != nil && ctx.Err() != nil {
			return dataset.Errorf(dataset.ErrCancelled, "interrupted: run the import again to complete the store")
		}
		if err != nil {
			return err
		}
		if err := a.PrintLine("imported %s from %s into %s", describeDump(sum), args[0], place); err != nil {
			return err
		}
		return printLeftOut(a, grants, "left out")
	}
	return cmd
}

// printLeftOut prints which grants an import leaves out.
func printLeftOut(a *cli.App, grants []string, what string) error {
	if len(grants) == 0 {
		return nil
	}
	return a.PrintLine("%s grants for other clusters, because some may have been removed since the export: %s (create "+
		"them again: drover remote grant create; or import with --keep-grants)", what, strings.Join(grants, ", "))
}

// checkDump checks the whole file. It returns the names of the grants that the import leaves out. The file can be read
// from its beginning afterwards.
func checkDump(in *os.File, keepGrants bool) (grants []string, err error) {
	if grants, err = dump.Names(in, record.GrantsPrefix); err != nil {
		return nil, fmt.Errorf("%s: %w", in.Name(), err)
	}
	if keepGrants {
		grants = nil
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("%s: %w (the file is read twice, so it cannot be a pipe)", in.Name(), err)
	}
	return grants, nil
}

// previewImport checks the file and the store as an import does. It creates no store.
func previewImport(ctx context.Context, a *cli.App, f servers.Flags, file string, force, keepGrants bool) (err error) {
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	grants, err := checkDump(in, keepGrants)
	if err != nil {
		return err
	}
	st, err := openStore(ctx, a, f, false)
	if errors.Is(err, dataset.ErrNotFound) {
		sum, err := dump.Check(in)
		if err != nil {
			return fmt.Errorf("%s: %w", file, err)
		}
		err = a.PrintLine("dry run: would import %s from %s into a new store", describeDump(sum), file)
		if err != nil {
			return err
		}
		return printLeftOut(a, grants, "dry run: would leave out")
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	sum, err := dump.PreviewLoad(ctx, st, in, force)
	if err != nil {
		return err
	}
	what := "import"
	if force {
		what = "replace every record in the store, and import"
	}
	err = a.PrintLine("dry run: would %s %s from %s into %s", what, describeDump(sum), file, st.Where)
	if err != nil {
		return err
	}
	return printLeftOut(a, grants, "dry run: would leave out")
}

// importStore imports a file. It returns the names of the grants that it has left out.
func importStore(ctx context.Context, a *cli.App, f servers.Flags, file string, force, keepGrants bool) (
	sum dump.Summary, place string, grants []string, err error) {
	in, err := os.Open(file)
	if err != nil {
		return sum, "", nil, err
	}
	defer in.Close()
	// Check the dump before a store is created for it.
	if grants, err = checkDump(in, keepGrants); err != nil {
		return sum, "", nil, err
	}
	st, err := openStore(ctx, a, f, true)
	if err != nil {
		return sum, "", nil, err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	without := record.GrantsPrefix
	if keepGrants {
		without = ""
	}
	sum, err = dump.LoadWithout(ctx, st, in, force, without)
	return sum, st.Where, grants, err
}
