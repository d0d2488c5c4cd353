package tree

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// Hoist moves the content of the directory name in dir to dir, gives dir the owner, mode, times and attributes of the
// directory, and removes the directory. Nothing is copied. It is for a program that can write a tree only below a
// directory of its own.
//
// Nothing else may be in dir, and nothing else may change it meanwhile. Hoist fails with dataset.ErrExists if dir
// contains another name, before it changes anything. After another error, dir contains a part of the tree. The result
// is not durable. Needs root.
func Hoist(ctx context.Context, dir *os.File, name string) error {
	to, err := openRoot(dir, writable)
	if err != nil {
		return err
	}
	defer to.close()
	names, err := readNames(to.dir)
	if err != nil {
		return wrapError("read directory", ".", err)
	}
	if len(names) != 1 || names[0] != name {
		return dataset.Errorf(dataset.ErrExists,
			"destination %q contains %q: expected only the directory %q", dir.Name(), names, name)
	}
	from, err := openNode(to.dir, name)
	if err != nil {
		return wrapError("open", name, err)
	}
	defer from.close()
	sub, err := from.openDir() // fails for a symbolic link
	if err != nil {
		return wrapError("open", name, err)
	}
	defer sub.Close()
	if err := moveAll(ctx, sub, to.dir, name); err != nil {
		return err
	}
	m, err := from.meta()
	if err != nil {
		return wrapError("read", name, err)
	}
	if err := unix.Unlinkat(int(to.dir.Fd()), name, unix.AT_REMOVEDIR); err != nil {
		return wrapError("remove", name, err)
	}
	root, err := openNode(to.dir, ".")
	if err != nil {
		return wrapError("open", ".", err)
	}
	defer root.close()
	if err := root.replace(m); err != nil {
		return wrapError("change", ".", err)
	}
	return nil
}

// moveAll moves the content of the directory from, which is named name in to, to the directory to.
func moveAll(ctx context.Context, from, to *os.File, name string) error {
	for child, err := range names(from, allNames) {
		if err != nil {
			return wrapError("read directory", name, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		if child == name {
			return wrapError("move", child, fmt.Errorf("the tree has the name of its own directory"))
		}
		if err := unix.Renameat(int(from.Fd()), child, int(to.Fd()), child); err != nil {
			return wrapError("move", child, err)
		}
	}
	return nil
}

// CountNames returns the number of names below dir. Each hard link counts, and dir does not. Safe for concurrent use.
func CountNames(ctx context.Context, dir *os.File) (n int64, err error) {
	err = walk(ctx, dir, fewNames, func(*node, *place) error {
		n++
		return nil
	})
	return n - 1, err
}
