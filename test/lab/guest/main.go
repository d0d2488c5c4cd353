// Command guest is process 1 of the lab's machine, and runs the host's commands there. Package test/lab builds it for
// each run and puts it into the initramfs, which has only this program and the modules that are needed for the disk. It
// runs one command at a time, and keeps no state between commands.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/test/lab/inside"
)

// self is the path of this program, which is valid after a change of the root.
const self = "/proc/self/exe"

func main() {
	stage := "initramfs"
	if len(os.Args) > 1 {
		stage = os.Args[1]
	}
	stages := map[string]func() error{"initramfs": fromInitramfs, "root": fromRoot, "serve": serve, "witness": witness}
	err := stages[stage]()
	if err != nil {
		fmt.Fprintf(os.Stderr, "lab: %s: %v\n", stage, err)
	}
	if os.Getpid() == 1 {
		unix.Sync()
		_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	}
	os.Exit(1)
}

// A filesystem is mounted in the order of the list.
type filesystem struct{ source, target, fstype, data string }

func mount(list ...filesystem) error {
	for _, f := range list {
		if err := os.MkdirAll(f.target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(f.source, f.target, f.fstype, 0, f.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", f.fstype, f.target, err)
		}
	}
	return nil
}

// fromInitramfs loads the modules, and continues in the root of the disk.
func fromInitramfs() error {
	err := mount(filesystem{"dev", "/dev", "devtmpfs", ""}, filesystem{"proc", "/proc", "proc", ""},
		filesystem{"sys", "/sys", "sysfs", ""})
	if err != nil {
		return err
	}
	modules, err := filepath.Glob("/modules/*.ko") // sorted
	if err != nil {
		return err
	}
	for _, m := range modules {
		f, err := os.Open(m)
		if err != nil {
			return err
		}
		if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("load %s: %w", m, err)
		}
		f.Close()
	}
	root, err := disk("root")
	if err != nil {
		return err
	}
	if err := mount(filesystem{root, "/root", "ext4", ""}); err != nil {
		return err
	}
	for _, dir := range []string{"/dev", "/proc", "/sys"} {
		if err := unix.Mount(dir, "/root"+dir, "", unix.MS_MOVE, ""); err != nil {
			return err
		}
	}
	if err := errors.Join(unix.Chdir("/root"), unix.Mount(".", "/", "", unix.MS_MOVE, ""), unix.Chroot("."),
		unix.Chdir("/")); err != nil {
		return err
	}
	return unix.Exec(self, []string{"guest", "root"}, []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C", "TMPDIR=/tmp",
	})
}

// disk returns the device of a disk with a serial number. It waits, since the kernel may not have found the disk
// yet.
func disk(serial string) (string, error) {
	for range 1000 {
		files, _ := filepath.Glob("/sys/block/*/serial")
		for _, f := range files {
			if b, _ := os.ReadFile(f); strings.TrimSpace(string(b)) == serial {
				return "/dev/" + filepath.Base(filepath.Dir(f)), nil
			}
		}
		time.Sleep(10 * time.Millisecond)
	}
	return "", fmt.Errorf("no disk has the serial number %q", serial)
}

// fromRoot prepares what an init prepares, starts the program that serves the host, and reaps orphans until that
// program ends.
func fromRoot() error {
	if err := prepare(); err != nil {
		return err
	}
	if line, err := os.ReadFile("/proc/cmdline"); err != nil || strings.Contains(string(line), inside.Systemd) {
		return errors.Join(err, toSystemd())
	}
	server := exec.Command(self, "serve")
	server.Stdout, server.Stderr = os.Stdout, os.Stderr
	if err := server.Start(); err != nil {
		return err
	}
	for {
		pid, err := unix.Wait4(-1, nil, 0, nil)
		if pid == server.Process.Pid || errors.Is(err, unix.ECHILD) {
			return nil
		}
	}
}

func prepare() error {
	modules := []string{"9pnet_virtio", "9p", "virtio_console", "virtio_rng", "loop", "dm_mod", "fuse", "tun"}
	if out, err := exec.Command("modprobe", append([]string{"-a"}, modules...)...).CombinedOutput(); err != nil {
		return fmt.Errorf("modprobe: %w: %s", err, out)
	}
	const share = "trans=virtio,version=9p2000.L,msize=512000"
	err := mount(
		filesystem{"pts", "/dev/pts", "devpts", "ptmxmode=666"},
		filesystem{"shm", "/dev/shm", "tmpfs", ""},
		filesystem{"run", "/run", "tmpfs", "mode=755"},
		filesystem{"cgroup", "/sys/fs/cgroup", "cgroup2", ""},
		filesystem{"debug", "/sys/kernel/debug", "debugfs", ""},
		filesystem{filepath.Base(inside.Share), inside.Share, "9p", share},
		filesystem{filepath.Base(inside.Source), inside.Source, "9p", share + ",ro"},
	)
	if err != nil {
		return err
	}
	for path, text := range map[string]string{
		"/sys/fs/cgroup/cgroup.subtree_control": "+cpu +io +memory +pids",
		"/proc/sys/kernel/hostname":             "lab",
	} {
		if err := os.WriteFile(path, []byte(text), 0); err != nil {
			return err
		}
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("lo: %w: %s", err, out)
	}
	return nil
}
