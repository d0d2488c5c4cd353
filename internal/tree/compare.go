package tree

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// maxDifferences is the maximum number of differences that Compare returns. Trees with more are unrelated.
const maxDifferences = 1000

// Difference is one difference between two trees.
type Difference struct {
	Path string // below the roots; "." is the roots themselves
	What string // "missing", "mode", "owner", "content", "attribute user.x" …
	A, B string // the values in the first and second tree
}

// String returns the difference as one line, with its path quoted.
func (d Difference) String() string {
	return fmt.Sprintf("%s: %s: %s != %s", strconv.Quote(d.Path), d.What, d.A, d.B)
}

// errEnough ends a comparison that has found maxDifferences.
var errEnough = errors.New("enough differences")

// Compare returns the differences of two trees, in the order of their paths. It compares names, kinds, content, owners,
// modes, modification times, extended attributes, ACLs, hard links, targets of symbolic links, and device numbers. A
// hole equals zeros. It ignores access times, and does not change them. It stops after 1,000 differences. The trees
// should not change meanwhile: names that disappear are reported as missing. Safe for concurrent use.
func Compare(ctx context.Context, a, b *os.File, opts ...Option) ([]Difference, error) {
	ra, err := openRoot(a, readOnly)
	if err != nil {
		return nil, err
	}
	defer ra.close()
	rb, err := openRoot(b, readOnly)
	if err != nil {
		return nil, err
	}
	defer rb.close()
	c := &comparing{ctx: ctx, options: optionsOf(opts), links: [2]map[inode]*place{{}, {}}}
	err = c.entry(&opening{File: ra.dir}, &opening{File: rb.dir}, ".", nil)
	if err != nil && !errors.Is(err, errEnough) {
		return c.found, err
	}
	return c.found, nil
}

// comparing is one run of Compare.
type comparing struct {
	ctx context.Context
	options
	links [2]map[inode]*place // the first name of each inode that has several
	found []Difference
}

func (c *comparing) add(at *place, property, a, b string) error {
	c.found = append(c.found, Difference{at.String(), property, a, b})
	if len(c.found) >= maxDifferences {
		return errEnough
	}
	return nil
}

// differ adds a difference unless two values are equal.
func differ[T comparable](c *comparing, at *place, property, format string, a, b T) error {
	if a == b {
		return nil
	}
	return c.add(at, property, fmt.Sprintf(format, a), fmt.Sprintf(format, b))
}

func (c *comparing) dirs(a, b *os.File, at *place) error {
	inA, err := readNames(a)
	if err != nil {
		return wrapError("read directory", at, err)
	}
	inB, err := readNames(b)
	if err != nil {
		return wrapError("read directory", at, err)
	}
	la, lb := &opening{File: a}, &opening{File: b}
	both := slices.Concat(inA, inB)
	slices.Sort(both)
	for _, name := range slices.Compact(both) {
		if err := c.ctx.Err(); err != nil {
			return err
		}
		if err := c.entry(la, lb, name, &place{at, name}); err != nil {
			return err
		}
	}
	return errors.Join(la.checkGone(at), lb.checkGone(at))
}

func (c *comparing) entry(a, b *opening, name string, at *place) error {
	na, errA := a.open(name)
	if errA == nil {
		defer na.close()
	}
	nb, errB := b.open(name)
	if errB == nil {
		defer nb.close()
	}
	switch {
	case errA != nil && !isVanished(errA):
		return wrapError("open", at, errA)
	case errB != nil && !isVanished(errB):
		return wrapError("open", at, errB)
	case errA != nil && errB != nil:
		return nil
	case errA != nil:
		return c.add(at, "missing", "absent", kindName(nb))
	case errB != nil:
		return c.add(at, "missing", kindName(na), "absent")
	case na.format() != nb.format():
		return c.add(at, "kind", kindName(na), kindName(nb))
	}
	if err := c.compareMeta(na, nb, at); err != nil {
		return err
	}
	return c.content(na, nb, at)
}

// compareMeta compares the metadata of two inodes of the same kind.
func (c *comparing) compareMeta(a, b *node, at *place) error {
	ma, err := a.meta()
	if err != nil {
		return wrapError("read", at, err)
	}
	mb, err := b.meta()
	if err != nil {
		return wrapError("read", at, err)
	}
	links, err := c.compareLinks(a, b, at)
	if err != nil || links {
		return err
	}
	owner := func(m meta) string { return fmt.Sprintf("%d:%d", m.uid, m.gid) }
	stamp := func(m meta) string { return fmt.Sprintf("%d.%09d", m.mtime.Sec, m.mtime.Nsec) }
	return cmp.Or(
		differ(c, at, "owner", "%s", owner(ma), owner(mb)),
		differ(c, at, "mode", "%04o", ma.mode, mb.mode),
		differ(c, at, "modification time", "%s", stamp(ma), stamp(mb)),
		c.attributes(at, ma.xattrs, mb.xattrs),
	)
}

// compareLinks compares the first names of two inodes, and adds a difference if they are not the same. It returns true
// if both inodes have the same earlier name: they have been compared under that name.
func (c *comparing) compareLinks(a, b *node, at *place) (bool, error) {
	firstA, firstB := c.firstName(0, a, at), c.firstName(1, b, at)
	if err := differ(c, at, "hard link of", "%q", firstA, firstB); err != nil {
		return false, err
	}
	return firstA == firstB && firstA != at, nil
}

func (c *comparing) firstName(side int, n *node, at *place) *place {
	if !n.mayHaveLinks() {
		return at
	}
	if f, ok := c.links[side][n.inode()]; ok {
		return f
	}
	c.links[side][n.inode()] = at
	return at
}

func (c *comparing) attributes(at *place, a, b []xattr) error {
	values := map[string][2]*xattr{}
	var names []string
	for side, xs := range [2][]xattr{a, b} {
		for _, x := range xs {
			pair := values[x.name]
			if pair == [2]*xattr{} {
				names = append(names, x.name)
			}
			pair[side] = &x
			values[x.name] = pair
		}
	}
	slices.Sort(names)
	for _, n := range names {
		pair := values[n]
		if pair[0] != nil && pair[1] != nil && bytes.Equal(pair[0].value, pair[1].value) {
			continue
		}
		err := c.add(at, "attribute "+strconv.Quote(n), describeXattr(pair[0]), describeXattr(pair[1]))
		if err != nil {
			return err
		}
	}
	return nil
}

func describeXattr(x *xattr) string {
	if x == nil {
		return "absent"
	}
	return fmt.Sprintf("%.80q (%d bytes)", x.value, len(x.value))
}
