package guard_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// playStranger has this many descriptors, a user ID and a name. If a file is given, it writes to that file, which it
// opened before. It creates its last argument once it is ready.
func playStranger(args []string) error {
	n, err1 := strconv.Atoi(args[0])
	uid, err2 := strconv.Atoi(args[1])
	if err1 != nil || err2 != nil {
		return fmt.Errorf("stranger %q", args)
	}
	name, file, log, ready := args[2], args[3], args[4], args[5]
	var f, l *os.File
	var err error
	if file != "" {
		if f, err = os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return err
		}
		if l, err = os.OpenFile(log, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return err
		}
	}
	other, err := os.CreateTemp("", "stranger-")
	if err == nil {
		err = os.Remove(other.Name())
	}
	if err != nil {
		return err
	}
	for range n {
		if _, err := unix.Dup(int(other.Fd())); err != nil {
			return err
		}
	}
	if err := os.WriteFile("/proc/self/comm", []byte(name), 0); err != nil {
		return err
	}
	if err := os.WriteFile(ready, nil, 0o600); err != nil {
		return err
	}
	if err := syscall.Setgid(uid); err != nil {
		return err
	}
	if err := syscall.Setuid(uid); err != nil {
		return err
	}
	if f == nil {
		time.Sleep(time.Hour)
		return nil
	}
	return writeOn(f, l)
}

// playFreezer freezes or thaws a filesystem.
func playFreezer(act, path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	if act == "freeze" {
		return fsctl.Freeze(dir)
	}
	return fsctl.Thaw(dir)
}

// playLazy writes to a file through a mount that was detached after the file was opened: the mount is in no mount
// table.
func playLazy(source, target, logFile string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(target, "file"), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for _, at := range []string{target, source} {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			return err
		}
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return writeOn(f, log)
}

// playThread writes to a file that only one of its threads has open, and not the first thread. That thread makes only
// system calls: the descriptors of the Go runtime are not in its table.
func playThread(file, logFile string) error {
	runtime.LockOSThread()
	failed := make(chan error)
	go func() {
		if runtime.LockOSThread(); unix.Gettid() == os.Getpid() { // the caller is on another thread
			failed <- playThread(file, logFile)
			return
		}
		f, log := -1, -1
		err := unix.Unshare(unix.CLONE_FILES)
		const flags = unix.O_WRONLY | unix.O_CREAT | unix.O_APPEND
		if err == nil {
			f, err = unix.Open(file, flags, 0o600)
		}
		if err == nil {
			log, err = unix.Open(logFile, flags, 0o600)
		}
		for err == nil {
			if _, err = unix.Write(f, []byte("x")); err == nil {
				_, err = unix.Write(log, []byte(strconv.FormatInt(int64(clock.Boottime()), 10)+"\n"))
			}
			_ = unix.Nanosleep(&unix.Timespec{Nsec: int64(time.Millisecond)}, nil)
		}
		failed <- err
	}()
	return <-failed
}

// playDeep opens a file again for each write, in a mount namespace whose table has a line that is longer than 64 KiB.
func playDeep(dir, base, logFile string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	if err := os.Chdir(base); err != nil {
		return err
	}
	name := strings.Repeat("x", 250)
	for range 300 {
		if err := errors.Join(unix.Mkdir(name, 0o700), unix.Chdir(name)); err != nil {
			return err
		}
	}
	if err := unix.Mount("none", ".", "tmpfs", 0, "size=4k"); err != nil {
		return err
	}
	for {
		err := os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600)
		if err == nil {
			_, err = fmt.Fprintln(log, int64(clock.Boottime()))
		}
		if err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// privateMounts gives the calling thread a separate mount namespace.
func privateMounts() error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return err
	}
	return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
}
