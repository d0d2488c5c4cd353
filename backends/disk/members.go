package disk

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// member is a device that has the UUID of a filesystem.
type member struct {
	node   string
	number uint64
	superblock
}

// filesystemUUID returns the UUID of the pool's filesystem on a device.
func filesystemUUID(device string, kind fsctl.Kind) (uuid.UUID, error) {
	if _, err := resolve(device); err != nil {
		return uuid.Nil, err
	}
	sb, err := readSuperblock(device)
	switch {
	case err != nil:
		return uuid.Nil, err
	case sb.kind != kind:
		return uuid.Nil, dataset.Errorf(dataset.ErrInvalid, "%s has no %s", device, kind)
	case sb.label != label || sb.unfinished:
		return uuid.Nil, dataset.Errorf(dataset.ErrInvalid,
			"%s has a %s that drover did not create: mount it, and adopt the path of the pool in it", device, kind)
	}
	return sb.id, nil
}

// PoolOn returns the UUID of the pool that a device belongs to according to its content, or uuid.Nil if the content
// names none. It changes nothing.
func PoolOn(device string) uuid.UUID {
	sb, err := readSuperblock(device)
	if err != nil || sb.label != label || sb.unfinished {
		return uuid.Nil
	}
	return sb.id
}

// members returns the present names of all devices on this host that belong to a filesystem. It fails with ErrOffline
// if a device is missing or has a copy. It reads no device that others use, unless it is configured: the read can wait
// for them for ever.
func members(id uuid.UUID, kind fsctl.Kind, configured []string) ([]string, error) {
	var found []member
	var reasons []string
	for _, device := range configured {
		m, err := memberOn(device, id, kind)
		if errors.Is(err, errOtherContent) {
			err = contentError(device, m.node)
		}
		if err != nil {
			reasons = append(reasons, err.Error())
			continue
		}
		found = addMember(found, m)
	}
	all, err := names("/sys/class/block")
	if err != nil {
		return nil, err
	}
	for _, device := range nodesOf(all) {
		st, err := statBlockDevice(device)
		if err != nil {
			continue
		}
		if errors.Is(checkNoOtherUse(device, device, st), dataset.ErrInUse) {
			continue
		}
		if m, err := memberOn(device, id, kind); err == nil {
			found = addMember(found, m)
		}
	}
	if err := checkComplete(found); err != nil {
		return nil, dataset.Errorf(dataset.ErrOffline, "%w (it was created with UUID %s on %s: %s)", err, id,
			strings.Join(configured, " and "), cmp.Or(strings.Join(reasons, "; "), "they are present"))
	}
	return nodes(found), nil
}

// addMember adds a device, unless it is known by another name.
func addMember(found []member, m member) []member {
	if slices.ContainsFunc(found, func(o member) bool { return o.number == m.number }) {
		return found
	}
	return append(found, m)
}

// mountedDevices returns the devices of a pool if the pool is mounted at a path. Their names can differ from the
// configured ones. It does not look for copies that appeared later, because they do not affect the mount.
func mountedDevices(id uuid.UUID, kind fsctl.Kind, path string) []string {
	table, err := mount.Table()
	if err != nil {
		return nil
	}
	e := table.At(path)
	if e == nil {
		return nil
	}
	devices, err := names(fmt.Sprintf("/sys/fs/btrfs/%s/devices", id)) // all, if it is a btrfs
	if err != nil {
		return nil
	}
	var found []member
	for _, device := range append(nodesOf(devices), e.Source) {
		if m, err := memberOn(device, id, kind); err == nil {
			found = addMember(found, m)
		}
	}
	node, err := resolve(e.Source)
	if err != nil || checkComplete(found) != nil || !slices.Contains(nodes(found), node) {
		return nil
	}
	return nodes(found)
}

// checkComplete fails unless found contains each device of one filesystem exactly once.
func checkComplete(found []member) error {
	if len(found) == 0 {
		return errors.New("no device of this host has the pool's filesystem: is its disk connected, and not " +
			"mounted elsewhere?")
	}
	slices.SortFunc(found, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.device, b.device), cmp.Compare(a.node, b.node))
	})
	for i, m := range found[1:] {
		if m.device == found[i].device {
			return fmt.Errorf("both %s and %s have the pool's filesystem: one is a copy, or another path to the "+
				"same disk; disconnect one", found[i].node, m.node)
		}
	}
	if want := found[0].devices; uint64(len(found)) != want {
		return fmt.Errorf("%d of the %d devices of the pool's filesystem are present (%s): it is not mounted "+
			"while a device is missing", len(found), want, strings.Join(nodes(found), ", "))
	}
	return nil
}

// nodesOf returns the paths of devices with some names in sysfs.
func nodesOf(names []string) (paths []string) {
	for _, name := range names {
		paths = append(paths, filepath.Join("/dev", strings.ReplaceAll(name, "!", "/")))
	}
	return paths
}

func nodes(found []member) (out []string) {
	for _, m := range found {
		out = append(out, m.node)
	}
	return out
}

// errOtherContent is returned by memberOn for a device with other content than a filesystem of the pool's kind.
var errOtherContent = errors.New("the device has other content")

// memberOn returns the member on a device, or an error if the device does not have the filesystem's UUID. If the device
// has no filesystem of this kind, the error is errOtherContent, and m.node is set. memberOn does not identify the
// content, because members calls it for each device of the host.
func memberOn(device string, id uuid.UUID, kind fsctl.Kind) (m member, err error) {
	if m.node, err = filepath.EvalSymlinks(device); err != nil {
		return m, fmt.Errorf("%s is absent", device)
	}
	st, err := statBlockDevice(m.node)
	if err != nil {
		return m, err
	}
	if size, err := sizeOf(m.node); err != nil || size == 0 {
		return member{}, fmt.Errorf("%s is absent", device) // a drive without a disk
	}
	if m.superblock, err = readSuperblock(m.node); err != nil {
		return m, err
	}
	switch {
	case m.kind == kind && m.id == id && !m.unfinished:
		m.number = st.Rdev
		// If a disk has several paths, the device that combines the paths is mounted.
		in := fmt.Sprintf("%s/%d:%d/holders", sysBlock, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		holders, err := names(in)
		if err == nil && len(holders) > 0 {
			err = fmt.Errorf("%s is part of %s", device, shortList(holders))
		}
		return m, err
	case m.kind == kind:
		return m, fmt.Errorf("%s has a %s of UUID %s", device, kind, m.id)
	}
	return m, errOtherContent
}

// contentError returns an error that names the content of a device. node is the path of the device without symlinks.
func contentError(device, node string) error {
	content, err := fsctl.Identify(node)
	if err != nil {
		return fmt.Errorf("%s has other content: %w", device, err)
	}
	return fmt.Errorf("%s has %s", device, content)
}
