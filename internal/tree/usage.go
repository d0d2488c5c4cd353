package tree

import (
	"context"
	"os"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// Size is the size of a tree.
type Size struct {
	Bytes int64 // bytes on disk, including blocks that are shared with other files
	Files int64 // number of inodes, including the root directory
}

// Usage measures the tree below dir like du -s: hard links count once. Names that disappear meanwhile do not count. It
// reads every directory, so its duration grows with the number of files. Safe for concurrent use.
func Usage(ctx context.Context, dir *os.File) (Size, error) {
	var s Size
	seen := map[inode]bool{}
	err := walk(ctx, dir, func(n *node, _ string) error {
		if n.mayHaveLinks() {
			if seen[n.inode()] {
				return nil
			}
			seen[n.inode()] = true
		}
		s.Bytes += n.allocated()
		s.Files++
		return nil
	})
	return s, err
}

// walk calls visit for the root, whose name is ".", and for everything below it: a directory before its content, and
// names sorted by their bytes.
func walk(ctx context.Context, dir *os.File, visit func(n *node, name string) error) error {
	r, err := openRoot(dir, readOnly)
	if err != nil {
		return err
	}
	defer r.close()
	n, err := openNode(r.dir, ".")
	if err != nil {
		return wrapError("open", ".", err)
	}
	defer n.close()
	if err := visit(n, "."); err != nil {
		return wrapError("read", ".", err)
	}
	return walkDir(ctx, r.dir, ".", visit)
}

func walkDir(ctx context.Context, dir *os.File, name string, visit func(*node, string) error) error {
	names, err := readNames(dir)
	if err != nil {
		return wrapError("read directory", name, err)
	}
	for _, child := range names {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := walkEntry(ctx, dir, child, join(name, child), visit); err != nil {
			return wrapError("read", join(name, child), err)
		}
	}
	return nil
}

func walkEntry(ctx context.Context, dir *os.File, child, name string, visit func(*node, string) error) error {
	n, err := openNode(dir, child)
	if isVanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer n.close()
	if err := visit(n, name); err != nil || n.format() != unix.S_IFDIR {
		return err
	}
	if err := tooDeep(name); err != nil {
		return err
	}
	sub, err := n.openDir()
	if err != nil {
		return err
	}
	defer sub.Close()
	return walkDir(ctx, sub, name, visit)
}

// tooDeep fails for a directory whose content would be deeper than maxDepth.
func tooDeep(name string) error {
	if depthOf(name) < maxDepth {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported, "directories nest deeper than %d", maxDepth)
}
