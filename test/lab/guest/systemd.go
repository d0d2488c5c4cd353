package main

import (
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/lab/inside"
)

const unit = `[Unit]
Description=what serves the lab's host
After=local-fs.target
[Service]
Environment=HOME=/root LC_ALL=C TMPDIR=/tmp
ExecStart=` + inside.Guest + ` serve
StandardOutput=journal+console
`

// toSystemd makes this program a service, and systemd process 1.
func toSystemd() error {
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	// Renamed, since a container of the previous boot may run the program.
	if err := os.WriteFile(inside.Guest+".new", program, 0o755); err != nil {
		return err
	}
	if err := os.Rename(inside.Guest+".new", inside.Guest); err != nil {
		return err
	}
	if err := os.WriteFile("/etc/systemd/system/lab.service", []byte(unit), 0o600); err != nil {
		return err
	}
	// The unit is not enabled, which would create another file. A target of this boot wants it.
	if out, err := exec.Command("systemctl", "add-wants", "multi-user.target",
		"lab.service").CombinedOutput(); err != nil {
		return fmt.Errorf("add-wants: %w: %s", err, out)
	}
	return unix.Exec("/sbin/init", []string{"/sbin/init"}, os.Environ())
}

// witness runs in a container. It writes the number of the boot in which it was started to its volume, and then
// waits.
func witness() error {
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return err
	}
	f, err := os.OpenFile("/data/boots", os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(boot); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return unix.Pause()
}
