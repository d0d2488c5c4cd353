// Package facts reads properties and load of this host from files of the kernel: architecture, kernel version, CPUs,
// memory, load, and whether the host is a virtual machine. It also formats facts for Swarm and Consul (Published, Tags,
// Meta). The agent (agent/controlsync) reads the facts of its host. Control (control/membership) and the Swarm watcher
// (cmd/drover/internal/daemon) publish them. Tests (internal/scratch) ask how much memory is free. The package starts
// no process and uses no service. Only [Average] has state, which its caller protects.
//
// A new fact also needs a field of dataset.Facts. If its changes must be recorded, it needs a comparison in
// Facts.Differ, and if a placement may use it, an entry in package selector. publish.go decides which facts are
// published. drover node inspect shows those in factLines (nodes/node.go).
package facts

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// Host reads facts from the files of one host.
type Host struct {
	FS      fs.FS // the root directory of the host
	Machine func() (string, error)
}

// Machine returns the architecture as uname(2) reports it, such as x86_64 or aarch64.
func Machine() (string, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", fmt.Errorf("uname: %w", err)
	}
	return unix.ByteSliceToString(u.Machine[:]), nil
}

// ReadStatic returns the facts that do not change while the host runs. Safe for concurrent use.
func (h Host) ReadStatic() (f dataset.Facts, err error) {
	if f.Architecture, err = h.Machine(); err != nil {
		return f, err
	}
	if f.Kernel, err = h.readLine("proc/sys/kernel/osrelease"); err != nil {
		return f, err
	}
	if f.Virtual, err = h.isVirtual(); err != nil {
		return f, err
	}
	f.OS, f.OSVersion, err = h.release()
	return f, err
}

// ReadDynamic fills in the facts that change: CPUs, memory and load. The kernel has no load of ten minutes, so Load10
// gets the mean of the loads of 5 and 15 minutes: the initial value for Average. Safe for concurrent use.
func (h Host) ReadDynamic(f *dataset.Facts) (err error) {
	online, err := h.readLine("sys/devices/system/cpu/online")
	if err != nil {
		return err
	}
	if f.CPUs, err = count(online); err != nil {
		return fmt.Errorf("/sys/devices/system/cpu/online: %w", err)
	}
	load, err := h.readLine("proc/loadavg")
	if err != nil {
		return err
	}
	var five float64
	if _, err := fmt.Sscan(load, &f.Load1, &five, &f.Load15); err != nil {
		return fmt.Errorf("/proc/loadavg contains %q: %w", dataset.Clip(load), err)
	}
	f.Load10 = (five + f.Load15) / 2
	return h.memory(f)
}

// memory reads proc_meminfo(5), where the unit kB means 1,024 bytes.
func (h Host) memory(f *dataset.Facts) error {
	b, err := fs.ReadFile(h.FS, "proc/meminfo")
	if err != nil {
		return err
	}
	want := map[string]*dataset.Size{"MemTotal": &f.MemoryTotal, "MemAvailable": &f.MemoryFree}
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(line, ":")
		into := want[key]
		if into == nil {
			continue
		}
		var kB int64
		if _, err := fmt.Sscan(value, &kB); err != nil {
			return fmt.Errorf("/proc/meminfo: %s: %w", key, err)
		}
		*into = dataset.Size(kB) << 10
		delete(want, key)
	}
	for key := range want {
		return fmt.Errorf("/proc/meminfo: no %s", key)
	}
	return nil
}

// count returns the number of CPUs in a list of the kernel such as 0-3,6 (cpulist_parse in lib/bitmap.c).
func count(list string) (n int, err error) {
	for part := range strings.SplitSeq(list, ",") {
		first, last, several := strings.Cut(part, "-")
		if !several {
			last = first
		}
		a, errA := strconv.Atoi(first)
		b, errB := strconv.Atoi(last)
		if err := errors.Join(errA, errB); err != nil || b < a {
			return 0, fmt.Errorf("%q is not a list of CPUs", dataset.Clip(list))
		}
		n += b - a + 1
	}
	return n, nil
}

// release reads os-release(5). ID and VERSION_ID may be absent. Without the file, it returns ID "linux".
func (h Host) release() (id, version string, err error) {
	b, err := fs.ReadFile(h.FS, "etc/os-release")
	if errors.Is(err, fs.ErrNotExist) {
		b, err = fs.ReadFile(h.FS, "usr/lib/os-release")
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", "", err
	}
	id = "linux" // os-release(5) defines this as the default
	for line := range strings.Lines(string(b)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		value = strings.Trim(value, `"'`)
		switch key {
		case "ID":
			id = value
		case "VERSION_ID":
			version = value
		}
	}
	return id, version, nil
}

func (h Host) readLine(name string) (string, error) {
	b, err := fs.ReadFile(h.FS, name)
	return strings.TrimSpace(string(b)), err
}

// isVirtual reports whether the host is a virtual machine: its CPUs report a hypervisor (x86), or its firmware or
// device tree names one. The first domain of Xen reports a hypervisor as well, but it is the real machine. The rules
// are those of src/basic/virt.c of systemd.
func (h Host) isVirtual() (bool, error) {
	if caps, err := h.readLine("proc/xen/capabilities"); err == nil && strings.Contains(caps, "control_d") {
		return false, nil
	}
	if flagged, err := h.hasHypervisorFlag(); err != nil || flagged {
		return flagged, err
	}
	if _, err := fs.Stat(h.FS, "proc/device-tree/hypervisor"); err == nil {
		return true, nil
	}
	if product, err := h.readLine("sys/class/dmi/id/product_name"); err == nil && strings.HasSuffix(product, ".metal") {
		return false, nil // bare metal and virtual machines of Amazon EC2 have the same vendor
	}
	for _, file := range []string{"product_name", "sys_vendor", "board_vendor", "bios_vendor", "product_version"} {
		text, err := h.readLine("sys/class/dmi/id/" + file)
		for _, maker := range virtualVendors() {
			if err == nil && strings.HasPrefix(text, maker) {
				return true, nil
			}
		}
	}
	return false, nil
}

// virtualVendors returns prefixes of the vendor names in the firmware of virtual machines.
func virtualVendors() []string {
	return []string{
		"KVM", "OpenStack", "KubeVirt", "Amazon EC2", "QEMU", "VMware", "VMW", "innotek GmbH", "VirtualBox", "Xen",
		"Bochs",
		"Parallels", "BHYVE", "Hyper-V", "Virtual Machine", "Apple Virtualization", "Google Compute Engine",
		"Alibaba Cloud ECS",
	}
}

// hasHypervisorFlag reports whether the first CPU has the flag "hypervisor" (CPUID leaf 1, ECX bit 31).
func (h Host) hasHypervisorFlag() (bool, error) {
	b, err := fs.ReadFile(h.FS, "proc/cpuinfo")
	if err != nil {
		return false, err
	}
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if key, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(key) == "flags" {
			for flag := range strings.FieldsSeq(value) {
				if flag == "hypervisor" {
					return true, nil
				}
			}
			return false, nil
		}
	}
	return false, lines.Err()
}
