package btrfsctl

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
)

// execute executes a command. If that fails because a file is immutable or append-only (chattr +i, +a), execute clears
// these flags and tries again. Streams do not contain the flags, so a copy does not keep them anyway.
func (a *applying) execute(ctx context.Context, c *command) error {
	err := a.act(ctx, c)
	if errors.Is(err, unix.EPERM) {
		a.unprotect(c)
		err = a.act(ctx, c)
	}
	return err
}

// unprotect clears the flags immutable and append-only of every file that a command names, and of the directories that
// contain these files.
func (a *applying) unprotect(c *command) {
	paths := []string{string(c.attr[attrPath]), string(c.attr[attrPathTo])}
	if c.kind == cmdLink {
		paths = append(paths, string(c.attr[attrPathLink]))
	}
	for _, path := range paths {
		for _, name := range []string{filepath.Clean(path), filepath.Dir(path)} {
			f, err := openBeneath(a.dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if errors.Is(err, unix.ENOTDIR) {
				f, err = openRegular(a.dir, name, os.O_RDONLY)
			}
			if err == nil { // if the file does not exist, the command itself reports that
				_ = fsctl.Unprotect(f)
				_ = f.Close()
			}
		}
	}
}
