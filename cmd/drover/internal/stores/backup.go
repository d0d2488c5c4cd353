package stores

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/progress"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

func newStoreBackupCmd(a *cli.App) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "backup FILE",
		Short: "Back up the running store to a file",
		Long: `Back up the running store to a new file on this host. The copy is consistent. It
contains records, but no data of volumes.`,
		Args: cli.Args(1),
	}
	cmd.RunE = a.Connected(func(cmd *cobra.Command, c cli.Remote, args []string) error {
		ctx, stop := a.Signals(cmd.Context())
		defer stop()
		n, err := backUp(ctx, a, c, args[0])
		if err != nil && ctx.Err() != nil {
			return dataset.Errorf(dataset.ErrCancelled, "interrupted: no backup was written")
		}
		if err != nil {
			return err
		}
		return a.PrintLine("wrote %s (%s)", args[0], dataset.Size(n).Human())
	})
	return cmd
}

func backUp(ctx context.Context, a *cli.App, c cli.Remote, file string) (n int64, err error) {
	m := a.Meter("backup", !cli.IsTerminal(a.ErrOut))
	defer m.Close()
	w := &progress.Writer{Meter: m, At: dataset.Progress{Step: "copy the store"}}
	err = writeFile("backup", file, func(f io.Writer) error {
		w.W = f
		if err := c.Backup(ctx, w); err != nil {
			return err
		}
		if w.At.Done == 0 {
			return dataset.Errorf(dataset.ErrCorrupt, "the server sent an empty backup")
		}
		return nil
	})
	return w.At.Done, err
}

// writeFile writes FILE.tmp, and renames it to FILE when it is complete and on disk.
func writeFile(what, file string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return fileExistsError(what, file, err)
	}
	tmp := file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return dataset.Errorf(dataset.ErrExists,
			"%s exists: another %s is running, or one was killed (remove the file then)", tmp, what)
	}
	if err != nil {
		return err
	}
	placed := false
	defer func() {
		if !placed {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	if err = write(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err := renameNew(what, tmp, file); err != nil {
		return err
	}
	placed = true
	return durable.SyncDir(filepath.Dir(file))
}

func fileExistsError(what, file string, err error) error {
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrExists, "%s exists: a new %s overwrites nothing (choose another name)", file, what)
}

// renameNew renames tmp to file. It fails if file exists. On filesystems without such a rename (NFS, see rename(2)), it
// links and unlinks instead.
func renameNew(what, tmp, file string) error {
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, file, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if err = os.Link(tmp, file); err == nil {
			return os.Remove(tmp)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fileExistsError(what, file, nil)
	}
	return err
}
