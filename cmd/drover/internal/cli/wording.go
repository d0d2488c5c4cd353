package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/durable"
)

// AccessLine says how many hosts may mount a volume. It returns "" if only one may.
func AccessLine(a dataset.Access) string {
	if a != dataset.AccessMany {
		return ""
	}
	return "many hosts at once"
}

// LabelLines returns labels as KEY=VALUE, sorted.
func LabelLines(labels map[string]string) []string {
	var lines []string
	for _, k := range slices.Sorted(maps.Keys(labels)) {
		lines = append(lines, k+"="+labels[k])
	}
	return lines
}

// YesNo returns "yes" or "no".
func YesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// OnDelete describes what happens to the data of a volume when the volume is deleted.
func OnDelete(o dataset.OnDelete) string {
	switch o.Mode {
	case dataset.DeletePurge:
		return "destroyed at once"
	case dataset.DeleteKeep:
		return "in the trash until it is purged"
	case dataset.DeleteTrash:
		return "in the trash for " + strings.ToLower(units.HumanDuration(time.Duration(o.Trash)))
	}
	return string(o.Mode)
}

// ExactSize formats a size as SizeOr does. It adds the number of bytes if the text is rounded. A size of 0 is "no
// limit".
func ExactSize(s dataset.Size) string {
	words := SizeOr(s, "no limit")
	if s == 0 || words == s.String() {
		return words
	}
	return fmt.Sprintf("%s (%d bytes)", words, int64(s))
}

// SizeOr formats a size. It returns fallback if the size is 0.
func SizeOr(s dataset.Size, fallback string) string {
	if s == 0 {
		return fallback
	}
	return s.Readable()
}

// Limit returns a size for a comparison in which 0, which is no limit, is larger than all others.
func Limit(s dataset.Size) dataset.Size {
	if s == 0 {
		return math.MaxInt64
	}
	return s
}

// ShortName shortens the generated name of an anonymous Docker volume, which would take most of the width of a table.
// The dataset in the same row identifies the volume.
func ShortName(volume string) string {
	if (dataset.Spec{Name: volume}).Anonymous() {
		return volume[:anonymousShown] + "…"
	}
	return volume
}

// anonymousShown is the number of characters of such a name that are shown, as many as Docker shows of other IDs.
const anonymousShown = 12

// A Moment tells --older-than and --newer-than which time of an item to compare.
type Moment[T any] struct {
	Of   func(T) time.Time // zero if the item has no such time; it is then never selected
	Verb string            // what happened to the item at that time, for the help, such as "taken"
}

// ages are the values of --older-than and --newer-than.
type ages struct{ older, newer string }

// addFlags gives a command the two flags.
func (g *ages) addFlags(cmd *cobra.Command, verb string) {
	f := cmd.Flags()
	f.StringVar(&g.older, "older-than", "", "list only what was "+verb+" more than `AGE` ago, such as 3d or 12h")
	f.StringVar(&g.newer, "newer-than", "", "list only what was "+verb+" within the last `AGE`")
}

// selector returns a function that reports whether a time matches both flags. It is nil if neither was given.
func (g *ages) selector(cmd *cobra.Command, now func() time.Time) (func(time.Time) bool, error) {
	if g.older == "" && g.newer == "" {
		return nil, nil
	}
	var before, after time.Time
	for _, age := range []struct {
		flag, value string
		bound       *time.Time
	}{{"older-than", g.older, &before}, {"newer-than", g.newer, &after}} {
		if age.value == "" {
			continue
		}
		d, err := ParseAge(cmd, age.flag, age.value)
		if err != nil {
			return nil, err
		}
		*age.bound = now().Add(-d)
	}
	return func(t time.Time) bool {
		return !t.IsZero() && (before.IsZero() || t.Before(before)) && (after.IsZero() || t.After(after))
	}, nil
}

// ParseAge parses the value of a flag that is an age. It fails with a usage error.
func ParseAge(cmd *cobra.Command, flag, value string) (time.Duration, error) {
	d, err := dataset.ParseDuration(value)
	if err != nil {
		return 0, UsageError(cmd, "--%s: %w", flag, err)
	}
	return d, nil
}

// selectAges removes the items whose time does not match the flags.
func (l List[T]) selectAges(matches func(time.Time) bool, items []T) []T {
	if matches == nil {
		return items
	}
	return slices.DeleteFunc(items, func(item T) bool { return !matches(l.Moment.Of(item)) })
}

// Write writes file.tmp, and renames it to file when it is complete and on disk. It fails with dataset.ErrExists if
// file or file.tmp exists. After an error it removes the file.tmp that it has created. what names the content in
// errors, such as backup.
func Write(what, file string, write func(io.Writer) error) (err error) {
	if _, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) {
		return fileExistsError(what, file, err)
	}
	tmp := file + ".tmp"
	f, err := os.OpenFile(tmp, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
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
