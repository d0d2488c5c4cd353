package mounting

import (
	"context"
	"errors"
	"os"
	"strings"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/loopdev"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/process"
)

// examineTime is how long Examine waits for the pool or for the look at open files. A person waits for the result.
const examineTime = 3 * time.Second

// Examine finds out who uses a dataset on this host, so that a person can end that use. It never fails: the result
// lists what could not be examined. Unlike Describe, it decides nothing. It needs no lock, so a holder can appear or
// end meanwhile.
//
// While the dataset is mounted, copies of its mount in other mount namespaces are left out, because they do not prevent
// the unmount. Once it is unmounted, they are holders.
func (l *Holders) Examine(ctx context.Context, d dataset.Dataset) dataset.Holders {
	out := dataset.Holders{Node: l.NodeName, List: []dataset.Holder{}}
	look, err := l.ScanMounts()
	if err != nil {
		out.AddUnexamined("the mounts of the processes: " + dataset.OneLine(err))
		return out
	}
	path := l.MountPath(d.ID)
	tree, mounted := look.foreign.FilesystemAt(path)
	// A user can mount anything at this path in a mount namespace of his own. If it is a filesystem of the host, it is
	// not the dataset, which is not mounted here.
	mounted = mounted && len(look.own.Of(tree.Major, tree.Minor)) == 0
	if m := look.own.At(path); m != nil {
		tree, mounted = treeOf(m), true
	}
	ctx, cancel := context.WithTimeout(ctx, examineTime)
	defer cancel()
	if !mounted {
		l.addPoolUser(ctx, &out, d)
		return out
	}
	if look.files, err = l.Files(ctx, []mount.Filesystem{tree}); err != nil {
		out.AddUnexamined("the open files of the processes: " + dataset.OneLine(err))
	}
	l.addHolders(&out, look, d, tree)
	addDevices(&out, path)
	return out
}

// addPoolUser adds the user that the pool of a dataset finds. The dataset is not mounted here. A pool returns one user,
// even if there are several.
func (l *Holders) addPoolUser(ctx context.Context, out *dataset.Holders, d dataset.Dataset) {
	err := l.CheckPool(ctx, d)
	var user *inuse.User
	switch {
	case err == nil:
	case errors.As(err, &user) && !user.Unexamined && user.Holder != dataset.Holder{}:
		out.Add(identify(out, user.Holder))
	default: // the text of the error names the user, if there is one
		out.AddUnexamined("the filesystem is not mounted on this node; its pool says: " + dataset.OneLine(err))
	}
}

// addDevices adds the loop devices that are attached to files of the dataset mounted at path. The devices that are
// built on a loop device precede it, because they must be removed first.
func addDevices(out *dataset.Holders, path string) {
	devices, err := loopdev.List()
	if err != nil {
		out.AddUnexamined("the loop devices: " + dataset.OneLine(err))
	}
	for _, info := range devices {
		file, within := strings.CutPrefix(info.Backing, path+"/")
		if !within {
			continue
		}
		stacked, err := loopdev.Stacked(info.Number)
		if err != nil {
			out.AddUnexamined(dataset.OneLine(err))
		}
		for _, device := range append(stacked, info.Path) {
			out.Add(dataset.Holder{Kind: dataset.HolderDevice, Device: device, Path: file})
		}
	}
}

// addHolders adds the mounts and the processes of a look. Mounts come first: a container with a mount and an open file
// is shown with the mount point.
func (l *Holders) addHolders(out *dataset.Holders, look Scan, d dataset.Dataset, tree mount.Filesystem) {
	for _, e := range l.furtherMounts(look, d, tree) {
		out.Add(dataset.Holder{Kind: dataset.HolderMount, Path: e.Mountpoint})
	}
	for _, h := range look.foreign.Holders(tree, l.MountPath(d.ID)) {
		if h.Unexamined != nil {
			out.AddUnexamined(h.String())
			continue
		}
		out.Add(identify(out, dataset.Holder{
			Kind: dataset.HolderMount, PID: h.PID, Command: h.Comm, MountNamespace: h.Namespace, Path: h.Mountpoint,
		}))
	}
	for _, o := range l.openers(look, d, tree) {
		if o.Unexamined != nil {
			out.AddUnexamined(o.String())
			continue
		}
		out.Add(identify(out, dataset.Holder{
			Kind: dataset.HolderProcess, PID: o.PID, Command: o.Comm, Path: o.Path,
		}))
	}
}

// identify adds the user and the container of the holder's process. A value that cannot be read stays
// unknown: the process may have ended. It reads nothing about a holder for which the list has no room.
func identify(out *dataset.Holders, h dataset.Holder) dataset.Holder {
	if len(out.List) >= dataset.MaxHolders {
		return h
	}
	var err error
	if h.User, err = process.User(h.PID); err != nil {
		h.User = "unknown user"
	}
	id, engine, err := process.Container(h.PID)
	if own, _, ownErr := process.Container(os.Getpid()); ownErr == nil && own == id {
		return h // Drover runs in the same container: it counts as the host
	}
	if err == nil && id != "" {
		h.Kind, h.Container, h.Engine = dataset.HolderContainer, id, engine
	}
	return h
}
