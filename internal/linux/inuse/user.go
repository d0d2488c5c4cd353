package inuse

import (
	"fmt"
	"path/filepath"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// User is one user of a dataset that is not mounted on its mount point. It is an error, so that an error of a backend
// can wrap it, and the agent can list the user with errors.As.
type User struct {
	Holder dataset.Holder // the user; its name and its container are not known here
	// Unexamined reports whether the process could not be examined. It may use the dataset or not.
	Unexamined bool

	text string
}

// Error describes the user. It ends with the command that ends the use, unless Unexamined is set.
func (u *User) Error() string {
	if u.Unexamined || u.Holder == (dataset.Holder{}) {
		return u.text
	}
	return u.text + " (to free it: " + u.Holder.HowToFree("") + ")"
}

// MountUser returns the user for a mount in another mount namespace.
func MountUser(h mount.Holder) *User {
	return &User{
		Holder: dataset.Holder{
			Kind: dataset.HolderMount, PID: h.PID, Command: h.Comm, MountNamespace: h.Namespace, Path: h.Mountpoint,
		},
		Unexamined: h.Unexamined != nil,
		text:       h.String(),
	}
}

// FileUser returns the user for a process that has a file open.
func FileUser(o Opener) *User {
	return &User{
		Holder:     dataset.Holder{Kind: dataset.HolderProcess, PID: o.PID, Command: o.Comm, Path: o.Path},
		Unexamined: o.Unexamined != nil,
		text:       o.String(),
	}
}

// PathUser returns the user for a mount on the host. If the mount point is named after a UUID, Drover has made the
// mount. Then Error names no command, because only Drover may unmount it.
func PathUser(mountpoint string) *User {
	u := &User{text: "it is mounted at " + mountpoint}
	if _, err := uuid.Parse(filepath.Base(mountpoint)); err != nil {
		u.Holder = dataset.Holder{Kind: dataset.HolderMount, Path: mountpoint}
	}
	return u
}

// DeviceUser returns the user for a block device that is attached to the image of a dataset.
func DeviceUser(device string) *User {
	return &User{
		Holder: dataset.Holder{Kind: dataset.HolderDevice, Device: device},
		text:   fmt.Sprintf("it is attached to %s", device),
	}
}
