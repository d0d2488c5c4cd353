package mount

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// InMemory returns the memory of this host that a path is in, such as "tmpfs" or "zram0": its content is lost
// at a reboot. "": no known one. Of a filesystem on a device it looks at what that is made of, whether by
// device mapper, RAID, or a file behind a loop device.
func (m Mounts) InMemory(path string) string { return m.fileIn(path, maxLayers) }

const maxLayers = 8 // of devices and files above each other

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
	// Its source, and not its number: a btrfs has another one than its device.
	var st unix.Stat_t
	if !filepath.IsAbs(e.Source) || unix.Stat(e.Source, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return ""
	}
	return m.deviceIn(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)), layers-1)
}

// memoryDevice are those of zram and brd.
var memoryDevice = regexp.MustCompile(`^z?ram[0-9]+$`)

// deviceIn is fileIn for a device, by its folder in sysfs.
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
