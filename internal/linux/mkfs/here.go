package mkfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/run"
)

// Host is what of the filesystems that a volume can have there is on this host, the preferred
// one first.
type Host struct {
	Makes   []string // those that a new volume can have
	Mounts  []string // those that the kernel has: volumes that are there need no more
	Missing []error  // why the others cannot be made, each with the filesystem first and the command that mends it
}

// Look finds out which programs and filesystems this host has now. It starts nothing.
func Look() (h Host) {
	for _, fs := range []string{XFS, Ext4} {
		err := mounts(fs)
		if err == nil {
			h.Mounts = append(h.Mounts, fs)
			err = makes(fs)
		}
		if err != nil {
			h.Missing = append(h.Missing, err)
			continue
		}
		h.Makes = append(h.Makes, fs)
	}
	return h
}

// Usable fails with ErrUnsupported where a filesystem cannot be made and mounted here, now.
func Usable(fs string) error {
	err := mounts(fs)
	if err == nil {
		err = makes(fs)
	}
	if err != nil {
		err = dataset.Errorf(dataset.ErrUnsupported, "%w", err)
	}
	return err
}

func mounts(fs string) error {
	// Unlike a look at /proc/filesystems this loads the module.
	fd, err := unix.Fsopen(fs, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: mounting needs root (CAP_SYS_ADMIN)", fs)
	}
	if err != nil {
		return fmt.Errorf("%s: the kernel has it not (modprobe %s): %w", fs, fs, err)
	}
	unix.Close(fd)
	return nil
}

func makes(fs string) error {
	pkg := map[string]string{XFS: "xfsprogs", Ext4: "e2fsprogs"}[fs]
	if _, err := run.LookPath("mkfs." + fs); err != nil {
		return fmt.Errorf("%s needs mkfs.%s (apt-get install %s)", fs, fs, pkg)
	}
	return nil
}

// Cannot fails with ErrUnsupported if a list of filesystems is empty, and names the missing parts.
func (h Host) Cannot(list []string, what string) error {
	if len(list) > 0 {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported, "%s: %s", what, dataset.OneLine(errors.Join(h.Missing...)))
}

// Choose returns the filesystem of a new volume of a size, which is fs unless that is "": then XFS
// where it fits, as it takes several times as many small synced writes as ext4. ErrUnsupported: it
// cannot be made. have are the filesystems that could be made when the pool was opened; later ones are found.
func Choose(fs string, size dataset.Size, have []string) (string, error) {
	var now Host
	if len(have) == 0 || fs != "" && !slices.Contains(have, fs) {
		now = Look()
		have = now.Makes
	}
	switch {
	case fs == "" && len(have) == 0:
		return "", now.Cannot(have, "no filesystem can be made for a new volume")
	case fs == "" && size < MinXFS && slices.Contains(have, Ext4):
		return Ext4, nil
	case fs == "":
		return have[0], nil
	case slices.Contains(have, fs):
		return fs, nil
	}
	why := dataset.Errorf(dataset.ErrUnsupported, "no filesystem %q in volumes here (have: %s)", fs,
		strings.Join(have, ", "))
	for _, err := range now.Missing {
		if strings.HasPrefix(err.Error(), fs) {
			why = dataset.Errorf(dataset.ErrUnsupported, "no filesystem %q in a new volume: %w", fs, err)
		}
	}
	return fs, why
}
