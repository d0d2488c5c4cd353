package btrfsctl

import (
	"context"
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
)

// one carries out a command. Files that nobody may change (chattr +i, +a) are so no more where the
// stream changes them: a stream has no such flags, so what its base came back from has none.
func (a *applying) one(ctx context.Context, c *command) error {
	err := a.act(ctx, c)
	if errors.Is(err, unix.EPERM) {
		a.unprotect(c)
		err = a.act(ctx, c)
	}
	return err
}

// unprotect takes those flags from all that a command names, and from where that is.
func (a *applying) unprotect(c *command) {
	paths := []string{string(c.attr[attrPath]), string(c.attr[attrPathTo])}
	if c.kind == cmdLink {
		paths = append(paths, string(c.attr[attrPathLink]))
	}
	for _, path := range paths {
		for _, name := range []string{filepath.Clean(path), filepath.Dir(path)} {
			f, err := beneath(a.dir, name, unix.O_RDONLY|unix.O_DIRECTORY)
			if errors.Is(err, unix.ENOTDIR) {
				f, err = regular(a.dir, name, os.O_RDONLY)
			}
			if err == nil { // otherwise there is none, and the command says so again
				_ = fsctl.Unprotect(f)
				_ = f.Close()
			}
		}
	}
}
