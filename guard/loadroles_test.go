package guard_test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// playMappings has few descriptors, and the number of mappings that its first argument gives. It writes a line once
// it has them.
func playMappings(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	page := os.Getpagesize()
	b, err := unix.Mmap(-1, 0, n*page, unix.PROT_READ, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_NORESERVE)
	if err != nil {
		return err
	}
	for i := 0; i < n; i += 2 { // this splits the mapping
		if err := unix.Mprotect(b[i*page:(i+1)*page], unix.PROT_NONE); err != nil {
			return err
		}
	}
	return idle()
}

// playMounts has two to the power of its first argument lines in its mount table, in its own mount namespace. It
// writes a line once it has them.
func playMounts(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const top = "/mnt"
	if err := unix.Mount("none", top, "tmpfs", 0, "size=64k"); err != nil {
		return err
	}
	dir := top + "/" + "xxxxxxxxxxxx"
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	for range n { // each bind doubles the number of mounts
		if err := unix.Mount(top, dir, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
			return err
		}
	}
	return idle()
}

// idle writes a line, and returns when the standard input ends.
func idle() error {
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}

// beginUser starts this program in a role as another user, with a user and a mount namespace, and waits
// until it has written a line.
func beginUser(t *testing.T, r string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := as(t, r, args...)
	cmd.Stderr = os.Stderr
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: nobody, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{NoSetGroups: true}}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	end(t, cmd)
	t.Cleanup(func() { _ = in.Close() })
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	return cmd
}
