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

// Host lists the filesystems for volumes that this host supports. In each list, the preferred one comes first.
type Host struct {
	Makes  []string // filesystems for new volumes
	Mounts []string // filesystems that the kernel can mount, which is sufficient for existing volumes
	// Missing has the reason why each of the other filesystems cannot be created. Each reason begins with the
	// filesystem, and names the command that fixes the problem.
	Missing []error
}

// DetectHost finds the programs and filesystems that this host has now. It starts no process.
func DetectHost() (h Host) {
	for _, fs := range []string{XFS, Ext4} {
		err := checkMount(fs)
		if err == nil {
			h.Mounts = append(h.Mounts, fs)
			err = checkMkfs(fs)
		}
		if err != nil {
			h.Missing = append(h.Missing, err)
			continue
		}
		h.Makes = append(h.Makes, fs)
	}
	return h
}

// CheckUsable fails with ErrUnsupported if a filesystem cannot be created and mounted on this host now.
func CheckUsable(fs string) error {
	err := checkMount(fs)
	if err == nil {
		err = checkMkfs(fs)
	}
	if err != nil {
		err = dataset.Errorf(dataset.ErrUnsupported, "%w", err)
	}
	return err
}

func checkMount(fs string) error {
	// Unlike reading /proc/filesystems, this loads the module.
	fd, err := unix.Fsopen(fs, unix.FSOPEN_CLOEXEC)
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%s: mounting needs root (CAP_SYS_ADMIN)", fs)
	}
	if err != nil {
		return fmt.Errorf("%s: the kernel does not support it (modprobe %s): %w", fs, fs, err)
	}
	unix.Close(fd)
	return nil
}

func checkMkfs(fs string) error {
	pkg := map[string]string{XFS: "xfsprogs", Ext4: "e2fsprogs"}[fs]
	if _, err := run.LookPath("mkfs." + fs); err != nil {
		return fmt.Errorf("%s needs mkfs.%s (apt-get install %s)", fs, fs, pkg)
	}
	return nil
}

// CheckAny fails with ErrUnsupported if a list of filesystems is empty. The error begins with the text in what, and
// names the missing parts.
func (h Host) CheckAny(list []string, what string) error {
	if len(list) > 0 {
		return nil
	}
	return dataset.Errorf(dataset.ErrUnsupported, "%s: %s", what, dataset.OneLine(errors.Join(h.Missing...)))
}

// Choose returns the filesystem for a new volume of a size. If fs is not empty, that is fs. Otherwise it is XFS if the
// volume is large enough, because XFS handles several times as many small synchronous writes as ext4. If only one
// filesystem is available, Choose returns that one even if it does not fit the size: Check refuses the volume.
// filesystems are those that could be created when the pool was opened. Choose also finds filesystems whose programs
// were installed later. It fails with ErrUnsupported if the filesystem cannot be created.
func Choose(fs string, size dataset.Size, filesystems []string) (string, error) {
	var host Host
	if len(filesystems) == 0 || fs != "" && !slices.Contains(filesystems, fs) {
		host = DetectHost()
		filesystems = host.Makes
	}
	switch {
	case fs == "" && len(filesystems) == 0:
		return "", host.CheckAny(filesystems, "no filesystem can be created for a new volume")
	case fs == "" && size < MinXFS && slices.Contains(filesystems, Ext4):
		return Ext4, nil
	case fs == "":
		return filesystems[0], nil
	case slices.Contains(filesystems, fs):
		return fs, nil
	}
	problem := dataset.Errorf(dataset.ErrUnsupported,
		"filesystem %q is not available for volumes here (available: %s)", fs, strings.Join(filesystems, ", "))
	for _, err := range host.Missing {
		if strings.HasPrefix(err.Error(), fs) {
			problem = dataset.Errorf(dataset.ErrUnsupported,
				"filesystem %q is not available for a new volume: %w", fs, err)
		}
	}
	return fs, problem
}
