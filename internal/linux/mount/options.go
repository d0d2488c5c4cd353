package mount

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

type option struct {
	key, value string
	hasValue   bool
}

func (o option) String() string {
	if o.hasValue {
		return o.key + "=" + o.value
	}
	return o.key
}

type options struct {
	fs    []option
	attrs int
}

// parseOptions separates the options of the mount point from those of the filesystem, as mount(8) does. If two options
// contradict each other, the last one counts.
func parseOptions(spec Spec) (options, error) {
	out := options{attrs: unix.MOUNT_ATTR_RELATIME}
	all := spec.Options
	if spec.ReadOnly {
		all = append(append([]string(nil), all...), "ro")
	}
	readOnly := false
	for _, text := range all {
		key, value, hasValue := strings.Cut(text, "=")
		if key == "" || strings.ContainsAny(text, ",\x00\n") {
			return options{}, fmt.Errorf(`%q is not a single mount option (expected "key" or "key=value")`, text)
		}
		if set, clear, ok := attribute(key); ok && !hasValue {
			out.attrs = out.attrs&^clear | set
			switch key {
			case "ro":
				readOnly = true
			case "rw":
				readOnly = false
			}
			continue
		}
		if key == "defaults" && !hasValue {
			continue
		}
		out.fs = append(out.fs, option{key, value, hasValue})
	}
	if readOnly {
		out.fs = append(out.fs, option{key: "ro"})
	}
	return out, nil
}

// attribute returns the bits that a mount point option sets and clears.
func attribute(key string) (set, clear int, ok bool) {
	const atime = unix.MOUNT_ATTR__ATIME
	switch key {
	case "ro":
		return unix.MOUNT_ATTR_RDONLY, 0, true
	case "rw":
		return 0, unix.MOUNT_ATTR_RDONLY, true
	case "nosuid":
		return unix.MOUNT_ATTR_NOSUID, 0, true
	case "suid":
		return 0, unix.MOUNT_ATTR_NOSUID, true
	case "nodev":
		return unix.MOUNT_ATTR_NODEV, 0, true
	case "dev":
		return 0, unix.MOUNT_ATTR_NODEV, true
	case "noexec":
		return unix.MOUNT_ATTR_NOEXEC, 0, true
	case "exec":
		return 0, unix.MOUNT_ATTR_NOEXEC, true
	case "nosymfollow":
		return unix.MOUNT_ATTR_NOSYMFOLLOW, 0, true
	case "symfollow":
		return 0, unix.MOUNT_ATTR_NOSYMFOLLOW, true
	case "noatime":
		return unix.MOUNT_ATTR_NOATIME, atime, true
	case "strictatime":
		return unix.MOUNT_ATTR_STRICTATIME, atime, true
	case "relatime", "atime":
		return unix.MOUNT_ATTR_RELATIME, atime, true
	case "nodiratime":
		return unix.MOUNT_ATTR_NODIRATIME, 0, true
	case "diratime":
		return 0, unix.MOUNT_ATTR_NODIRATIME, true
	}
	return 0, 0, false
}
