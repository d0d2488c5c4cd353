package main

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// box describes the mount namespace in which the writer runs. The zero value is the namespace in which it was
// started.
type box struct {
	root   string // an empty folder that becomes its root, as in a container
	volume string // with root: the folder that is mounted at /data
	logs   string // with root: the folder that is mounted at /logs
	beside int    // PID of a process in a container: a copy of its namespace is used
}

// enter moves this program into its mount namespace and starts it again there with args. It returns only if that
// fails, or if there is nothing to enter. It must run on the main thread.
func (b box) enter(args []string) error {
	var err error
	switch {
	case b.root != "":
		err = b.contain()
	case b.beside != 0:
		err = copyOf(b.beside)
	default:
		return nil
	}
	if err == nil {
		err = unix.Exec("/writer", append([]string{"/writer"}, args...), os.Environ())
	}
	return fmt.Errorf("enter a mount namespace: %w", err)
}

// contain makes a mount namespace as an engine does for a container: of the mounts of the host, it contains only
// the volume and the folder of logs.
func (b box) contain() error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", b.root, "tmpfs", 0, "size=64k,mode=0755"); err != nil {
		return err
	}
	for name, dir := range map[string]string{"data": b.volume, "logs": b.logs, "old": ""} {
		at := filepath.Join(b.root, name)
		if err := os.Mkdir(at, 0o755); err != nil {
			return err
		}
		if dir == "" {
			continue
		}
		if err := unix.Mount(dir, at, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %s: %w", dir, err)
		}
	}
	at := filepath.Join(b.root, "writer")
	if err := os.WriteFile(at, nil, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(program, at, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.PivotRoot(b.root, filepath.Join(b.root, "old")); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	return unix.Unmount("/old", unix.MNT_DETACH)
}

// copyOf enters a copy of the mount namespace of a process.
func copyOf(pid int) error {
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		return err
	}
	defer ns.Close()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS); err != nil {
		return err
	}
	return unix.Unshare(unix.CLONE_NEWNS)
}
