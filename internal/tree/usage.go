package tree

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
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
	err := walk(ctx, dir, fewNames, false, func(n *node, _ *place) error {
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

// walk calls visit for the root, and for everything below it: a directory before its content. With allNames, the names
// in a directory are sorted by their bytes. If strict is set, it fails if a directory is damaged: see checkGone.
func walk(ctx context.Context, dir *os.File, count int, strict bool, visit func(n *node, at *place) error) error {
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
	if err := visit(n, nil); err != nil {
		return wrapError("read", ".", err)
	}
	return walkDir(ctx, r.dir, nil, count, strict, visit)
}

func walkDir(ctx context.Context, dir *os.File, at *place, count int, strict bool,
	visit func(*node, *place) error) error {
	l := &opening{File: dir}
	for name, err := range names(dir, count) {
		if err != nil {
			return wrapError("read directory", at, err)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		child := &place{at, name}
		if err := walkEntry(ctx, l, child, count, strict, visit); err != nil {
			return wrapError("read", child, err)
		}
		if !strict {
			l.gone = nil
		}
	}
	return l.checkGone(at)
}

func walkEntry(ctx context.Context, dir *opening, at *place, count int, strict bool,
	visit func(*node, *place) error) error {
	n, err := dir.open(at.name)
	if isVanished(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer n.close()
	if err := visit(n, at); err != nil || n.format() != unix.S_IFDIR {
		return err
	}
	if err := at.tooDeep(); err != nil {
		return err
	}
	sub, err := n.openDir()
	if err != nil {
		return err
	}
	defer sub.Close()
	return walkDir(ctx, sub, at, count, strict, visit)
}
