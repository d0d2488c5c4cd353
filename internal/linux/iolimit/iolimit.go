// Package iolimit limits how fast control groups may read and write a block device, with the throttling of block I/O in
// cgroup version 1 (blkio.throttle.*, blkio-controller.rst of the kernel) and version 2 (io.max, cgroup-v2.rst). It
// knows files and numbers, but neither containers nor volumes. Package agent/throttle sets the limits of volumes with
// it. Packages agent/throttle and agent find the devices of volumes with it, the latter for the metrics. The guard
// (guard/hand) reads groups. The backend test suite and package backends/verify test limits. The package keeps no
// state: the rules are those in the kernel's files. How a hierarchy is found is in detect.go, the format of the
// kernel's files in v1.go and v2.go, and how a process limits itself in rungroup.go.
//
// The versions differ:
//
//   - A rule of version 1 limits only the processes of that group, not those of groups below it. A rule of the root
//     group limits its processes and everything that the kernel writes itself, for all groups.
//   - A rule of version 2 limits all groups below its group, and what the kernel writes for them. The root group
//     cannot have a rule. Another group can have one only if its parents enable the controller for their children.
//
// A rule applies to a device number, and remains when another device gets that number.
package iolimit

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNone means that nothing on this host limits block devices.
var ErrNone = errors.New("no control group hierarchy of this host limits block devices")

// Version is the cgroup version of the hierarchy with the controller.
type Version int

// The versions.
const (
	V1 Version = 1
	V2 Version = 2
)

// Hierarchy is the cgroup hierarchy that limits block devices.
type Hierarchy struct {
	Version Version
	Dir     string // directory of the root group
}

// Root is the name of the root group. The name of another group is its path below the root group.
const Root = "/"

// Device is the number of a block device.
type Device struct {
	Major uint32 `json:"major"`
	Minor uint32 `json:"minor"`
}

func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

func parseDevice(s string) (d Device, ok bool) {
	major, minor, ok := strings.Cut(s, ":")
	a, err1 := strconv.ParseUint(major, 10, 32)
	b, err2 := strconv.ParseUint(minor, 10, 32)
	return Device{uint32(a), uint32(b)}, ok && err1 == nil && err2 == nil
}

// DeviceOf returns the block device of the filesystem at path. It returns false if the filesystem has none.
func DeviceOf(path string) (Device, bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Device{}, false, fmt.Errorf("device of %s: %w", path, err)
	}
	d := Device{unix.Major(st.Dev), unix.Minor(st.Dev)}
	return d, d.Major != 0, nil
}

// Limits are the maximum rates of a group on a device: bytes (BPS) and operations (IOPS) per second. 0 means no limit.
type Limits struct {
	ReadBPS   int64 `json:"read_bps,omitempty"`
	WriteBPS  int64 `json:"write_bps,omitempty"`
	ReadIOPS  int64 `json:"read_iops,omitempty"`
	WriteIOPS int64 `json:"write_iops,omitempty"`
}

// Without returns a copy of l without the limits that also occur in others: a limit becomes 0 if one of others has the
// same value for it.
func (l Limits) Without(others ...Limits) Limits {
	for _, o := range others {
		for _, v := range []struct{ has, other *int64 }{
			{&l.ReadBPS, &o.ReadBPS}, {&l.WriteBPS, &o.WriteBPS}, {&l.ReadIOPS, &o.ReadIOPS},
			{&l.WriteIOPS, &o.WriteIOPS},
		} {
			if *v.has == *v.other {
				*v.has = 0
			}
		}
	}
	return l
}

// Or returns a copy of l in which each limit that is 0 has the value from other.
func (l Limits) Or(other Limits) Limits {
	return Limits{
		ReadBPS: cmp.Or(l.ReadBPS, other.ReadBPS), WriteBPS: cmp.Or(l.WriteBPS, other.WriteBPS),
		ReadIOPS: cmp.Or(l.ReadIOPS, other.ReadIOPS), WriteIOPS: cmp.Or(l.WriteIOPS, other.WriteIOPS),
	}
}

// Rules returns the limits of a group by device. It fails with fs.ErrNotExist if the group does not exist or if the
// controller is not enabled for it.
func (h Hierarchy) Rules(group string) (map[Device]Limits, error) {
	rules := map[Device]Limits{}
	var err error
	if h.Version == V1 {
		err = readV1(h.path(group), rules)
	} else {
		err = readV2(h.path(group), rules)
	}
	if err != nil {
		return nil, fmt.Errorf("limits of group %s: %w", group, err)
	}
	return rules, nil
}

// Get returns the limits of a group on a device. It returns no limits if the group does not exist.
func (h Hierarchy) Get(group string, d Device) (Limits, error) {
	rules, err := h.Rules(group)
	if err != nil && !isAbsent(err) {
		return Limits{}, err
	}
	return rules[d], nil
}

// Set sets the limits of a group on a device. Other rules of the group do not change. It fails with fs.ErrNotExist if
// the group does not exist or cannot have limits (see Has), and with ENODEV or ENXIO if the device does not exist.
// Version 1 needs a write for each of the four limits, so an error can leave some of them set.
func (h Hierarchy) Set(group string, d Device, l Limits) error {
	var err error
	if h.Version == V1 {
		err = setV1(h.path(group), d, l)
	} else {
		err = setV2(h.path(group), d, l)
	}
	if err != nil {
		return fmt.Errorf("limit group %s on device %s: %w", group, d, err)
	}
	return nil
}

// Clear removes all limits of a group on a device. It returns nil if the group or the device does not exist, because
// its rules do not exist then either.
func (h Hierarchy) Clear(group string, d Device) error {
	if err := h.Set(group, d, Limits{}); err != nil && !isAbsent(err) {
		return err
	}
	return nil
}

// LimitsOn returns the limits of all groups on a device, by group.
func (h Hierarchy) LimitsOn(d Device) (map[string]Limits, error) {
	found := map[string]Limits{}
	var errs []error
	err := filepath.WalkDir(h.Dir, func(path string, e fs.DirEntry, err error) error {
		if isAbsent(err) { // removed meanwhile
			return nil
		}
		if err != nil || !e.IsDir() {
			return err
		}
		group := Root + strings.TrimPrefix(strings.TrimPrefix(path, h.Dir), "/")
		rules, err := h.Rules(group)
		if l := rules[d]; l != (Limits{}) {
			found[group] = l
		}
		if err != nil && !isAbsent(err) {
			errs = append(errs, err)
		}
		return nil
	})
	return found, errors.Join(append(errs, err)...)
}

// isAbsent reports whether an error means that a group or a device does not exist any more.
func isAbsent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

// Exists reports whether a group exists.
func (h Hierarchy) Exists(group string) bool {
	_, err := os.Stat(h.path(group))
	return err == nil
}

// Has reports whether a group exists and can have limits.
func (h Hierarchy) Has(group string) bool {
	_, err := os.Stat(filepath.Join(h.path(group), h.file()))
	return err == nil
}

func (h Hierarchy) file() string {
	if h.Version == V1 {
		return v1Files()[0].name
	}
	return maxFile
}

func (h Hierarchy) path(group string) string { return filepath.Join(h.Dir, group) }

// GroupOf returns the group of a process. It returns false if the process has ended, or if its group is not visible to
// this process.
func (h Hierarchy) GroupOf(pid int) (string, bool) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		return "", false
	}
	return h.groupIn(string(b))
}

// groupIn returns the group that a file in the format of proc_pid_cgroup(5) names.
func (h Hierarchy) groupIn(file string) (string, bool) {
	for line := range strings.Lines(file) {
		f := strings.SplitN(strings.TrimSuffix(line, "\n"), ":", 3)
		if len(f) != 3 {
			continue
		}
		matches := f[0] == "0" && f[1] == ""
		if h.Version == V1 {
			matches = slices.Contains(strings.Split(f[1], ","), v1Controller)
		}
		// A path that begins with /.. is outside of this cgroup namespace (cgroup_namespaces(7)).
		if matches && strings.HasPrefix(f[2], "/") && !strings.HasPrefix(f[2], "/..") {
			return f[2], true
		}
	}
	return "", false
}

// Below reports whether group equals other or is below it.
func Below(group, other string) bool {
	return group == other || other == Root || strings.HasPrefix(group, other+"/")
}

// write writes one rule with one write(2), because the kernel accepts one rule at a time.
func write(file, rule string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteString(rule)
	return errors.Join(err, f.Close())
}
