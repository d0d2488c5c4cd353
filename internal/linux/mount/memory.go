package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// InMemory returns the kind of memory that contains a path, such as "tmpfs" or "zram0". Its content is lost at a
// reboot. It returns "" if the path is on no known kind of memory. For a filesystem on a block device, it follows
// device mapper, RAID and loop devices down to the underlying devices and files.
func (m Mounts) InMemory(path string) string { return m.fileIn(path, maxLayers) }

const maxLayers = 8 // maximum number of devices and files that are followed

func (m Mounts) fileIn(path string, layers int) string {
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	}
	e := m.On(path)
	switch {
	case e == nil || layers == 0:
		return ""
	case e.FSType == "tmpfs" || e.FSType == "ramfs":
		return e.FSType
	}
	// Use the source and not the device number: the number of a btrfs is not that of its device.
	var st unix.Stat_t
	if !filepath.IsAbs(e.Source) || unix.Stat(e.Source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return m.deviceIn(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), layers-1)
}

// memoryDevice matches the names of the devices of zram and brd.
var memoryDevice = regexp.MustCompile(`^z?ram[0-9]+$`)

// deviceIn is like fileIn for a block device, given its directory in sysfs.
func (m Mounts) deviceIn(sys string, layers int) string {
	dir, err := filepath.EvalSymlinks(sys)
	if err != nil || layers == 0 {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "partition")); err == nil {
		dir = filepath.Dir(dir)
	}
	if name := filepath.Base(dir); memoryDevice.MatchString(name) {
		return name
	}
	if file, err := os.ReadFile(filepath.Join(dir, "loop/backing_file")); err == nil {
		return m.fileIn(strings.TrimSuffix(strings.TrimSuffix(string(file), "\n"), " (deleted)"), layers-1)
	}
	parts, _ := os.ReadDir(filepath.Join(dir, "slaves"))
	for _, part := range parts {
		if in := m.deviceIn(filepath.Join(dir, "slaves", part.Name()), layers-1); in != "" {
			return in
		}
	}
	return ""
}
