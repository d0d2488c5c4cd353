package guard_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
)

// role selects what this program does when a test starts it: it is a part of the guard, or a process that the guard
// has to handle.
const role = "DROVER_GUARD_TEST_ROLE"

func TestMain(m *testing.M) {
	if r := os.Getenv(role); r != "" {
		if err := play(r, os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, r+":", err)
			os.Exit(1)
		}
		return
	}
	status := scratch.Main(m)
	if status == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}
	os.Exit(status)
}

func play(role string, args []string) error {
	switch role {
	case "guard":
		return playGuard(args[0], args[1], args[2])
	case "hand":
		return guard.ServeHand(args[0], args[1])
	case "feeder":
		return playFeeder(args)
	case "agent":
		return playAgent(args[0], args[1], args[2])
	case "writer":
		return playWriter(args[0], args[1])
	case "mapper":
		return playMapper(args[0], args[1])
	case "later":
		return playLater(args[0], args[1], args[2], args[3])
	case "engine":
		return playEngine(args[0], args[1], args[2])
	case "inner":
		return playInner(args[0], args[1], args[2], args[3])
	case "sleeper":
		return playSleeper(args[0], args[1])
	case "container":
		return playContainer(args[0], args[1], args[2:])
	case "private":
		return playPrivate(args[0], args[1], args[2:])
	case "stranger":
		return playStranger(args)
	case "mappings":
		return playMappings(args)
	case "mounts":
		return playMounts(args)
	case "lazy":
		return playLazy(args[0], args[1], args[2])
	case "thread":
		return playThread(args[0], args[1])
	case "deep":
		return playDeep(args[0], args[1], args[2])
	case "fuse":
		return playFUSE(args)
	case "freezer":
		return playFreezer(args[0], args[1])
	}
	return fmt.Errorf("no role %q", role)
}

func playGuard(run, root, step string) error {
	d, err := time.ParseDuration(step)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM)
	defer stop()
	log := logrus.New()
	if err := os.Setenv("DROVER_GUARD_TEST_ROLE", "hand"); err != nil {
		return err
	}
	return guard.Daemon{
		Run: run, Root: root, Hand: []string{"/proc/self/exe", run, root}, Watchdog: run + "/watchdog",
		Step: d, Log: log, Version: "test",
	}.Serve(ctx)
}

// playFeeder feeds a dataset until it is killed. args are the socket, the dataset, the epoch, and how far ahead the
// deadline is.
func playFeeder(args []string) error {
	c, err := guard.NewClient(args[0])
	if err != nil {
		return err
	}
	feed, ahead, err := parseFeed(args[1:])
	for err == nil {
		feed.Deadline = clock.Boottime() + ahead
		_, err = c.Feed(context.Background(), []guard.Feed{feed})
		fmt.Println(int64(feed.Deadline))
		time.Sleep(ahead / 10)
	}
	return err
}

// playAgent registers a dataset while it has a file of the dataset open, and does not feed it.
func playAgent(path, id, dir string) error {
	f, err := os.Create(dir + "/import")
	if err != nil {
		return err
	}
	defer f.Close()
	c, err := guard.NewClient(path)
	if err != nil {
		return err
	}
	r := guard.Registration{Epoch: 1, Volume: "db", Paths: []string{dir}, Policy: guard.PolicyKill, Deadline: clock.Boottime() + ahead}
	if r.Dataset, err = uuid.Parse(id); err != nil {
		return err
	}
	if _, err := c.Register(context.Background(), r); err != nil {
		return err
	}
	time.Sleep(patience)
	return fmt.Errorf("it was not killed within %v", patience)
}

// playWriter appends to a file that it opened before and flushes the file. Then it writes a line to its log.
func playWriter(file, logFile string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	return writeOn(f, log)
}

func writeOn(f, log *os.File) error {
	for n := 0; ; n++ {
		if _, err := fmt.Fprintf(f, "%d\n", n); err != nil {
			return err
		}
		if err := f.Sync(); err != nil {
			return err
		}
		if _, err := log.WriteString(strconv.FormatInt(int64(clock.Boottime()), 10) + "\n"); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// playMapper writes through a shared mapping of a file that it has closed.
func playMapper(file, logFile string) error {
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := f.Truncate(4096); err != nil {
		return err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	for {
		b[0]++
		if _, err := log.WriteString(strconv.FormatInt(int64(clock.Boottime()), 10) + "\n"); err != nil {
			return err
		}
		time.Sleep(time.Millisecond)
	}
}

// playSleeper holds one file open and waits in a write to another, which is on a frozen
// filesystem (state D).
func playSleeper(file, frozen string) error {
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	other, err := os.OpenFile(frozen, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return err
	}
	_, err = other.Write([]byte("x"))
	return err
}

// playContainer does what an engine does for a container: it makes a mount namespace with the dataset on another
// path, and plays another role in it.
func playContainer(source, target string, args []string) error {
	if err := privateMounts(); err != nil {
		return err
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := os.Setenv("DROVER_GUARD_TEST_ROLE", args[0]); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", append(os.Args[:1:1], args[1:]...), os.Environ())
}

func parseFeed(args []string) (f guard.Feed, ahead time.Duration, err error) {
	if f.Dataset, err = uuid.Parse(args[0]); err != nil {
		return f, 0, err
	}
	if f.Epoch, err = strconv.ParseUint(args[1], 10, 64); err != nil {
		return f, 0, err
	}
	ahead, err = time.ParseDuration(args[2])
	return f, ahead, err
}

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
