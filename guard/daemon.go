package guard

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/socket"
)

// Daemon has the settings of a guard that runs as a separate process.
type Daemon struct {
	// Run and Root are the folders with which drover is started on this host.
	Run, Root string
	// Hand is the argument vector of a program that calls ServeHand with the same folders.
	Hand []string
	// Watchdog is the path of the watchdog device, which is opened once a dataset wants it.
	Watchdog string
	// Step is Options.Step. The interval at which a fence is checked depends on it.
	Step    time.Duration
	Version string
	Log     logrus.FieldLogger
	// Ready is called once the guard watches the deadlines and answers requests.
	Ready func()
}

// watchdogTimeout is the timeout that is requested of the watchdog device. It is long enough to replace the guard by
// another one, and short enough for a fence to wait for the reboot.
const watchdogTimeout = 10 * time.Second

// closeTime bounds the wait for the hand when the guard ends.
const closeTime = 2 * time.Second

// SocketPath returns the path of the socket of the guard, below the folder with which drover is started.
func SocketPath(run string) string { return filepath.Join(run, "guard.sock") }

func folders(run, root string) (guardRun, guardRoot string, err error) {
	guardRun, guardRoot = filepath.Join(run, "guard"), filepath.Join(root, "guard")
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{{run, 0o755}, {root, 0o755}, {guardRun, 0o700}, {guardRoot, 0o700}} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return "", "", fmt.Errorf("guard: %w", err)
		}
	}
	return guardRun, guardRoot, nil
}

// Serve runs the guard until ctx ends. It returns ErrInUse if another guard of this host runs.
func (p Daemon) Serve(ctx context.Context) (err error) {
	run, _, err := folders(p.Run, p.Root)
	if err != nil {
		return err
	}
	l, err := socket.Listen(ctx, SocketPath(p.Run), "root")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	missing := Tune()
	if kind, err := fsctl.KindOf(run); err != nil || kind != fsctl.Tmpfs {
		missing = append(missing, fmt.Sprintf("%s is not on a tmpfs (%s): a disk that hangs delays fencing", run, kind))
	}
	for _, m := range missing {
		p.Log.Warn("the guard has reduced protection: " + m)
	}
	h, err := hand.Start(p.Hand)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTime)
		defer cancel()
		err = errors.Join(err, h.Close(ctx))
	}()
	g, err := New(ctx, Options{
		Run: run, Hand: h, Step: p.Step, Recheck: p.Step, RetryPause: p.Step / 4, Missing: missing, Version: p.Version,
		Log: p.Log, Ready: p.Ready,
		OpenWatchdog: func() (Watchdog, error) { return OpenWatchdog(p.Watchdog, watchdogTimeout) },
	})
	if err != nil {
		return err
	}
	return g.Run(ctx, l)
}

// handThreads is the minimum number of goroutines of the hand that run at once.
const handThreads = 8

// ServeHand runs the hand of a guard with these folders until the guard ends.
func ServeHand(run, root string) error {
	guardRun, guardRoot, err := folders(run, root)
	if err != nil {
		return err
	}
	// With more threads, acts that can proceed do not wait for goroutines that examine processes.
	runtime.GOMAXPROCS(max(handThreads, runtime.NumCPU()))
	_ = Tune() // the guard has already reported the missing permissions of the host
	conn, err := hand.Accept()
	if err != nil {
		return err
	}
	defer conn.Close()
	return hand.Serve(conn, hand.New(hand.Options{
		Run:   guardRun,
		Root:  guardRoot,
		Spare: []int{os.Getpid(), os.Getppid()},
		Clock: clock.System{},
	}))
}
