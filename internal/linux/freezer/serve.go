package freezer

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/linux/fsctl"
)

// Serve runs in the child that Start starts. It freezes the filesystem when it is asked to, and thaws it again: on
// request, when the parent ends, after MaxHold, and when the child is told to stop.
func Serve() {
	conn, root := os.Stdin, os.NewFile(3, "the filesystem")
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, unix.SIGTERM, unix.SIGINT, unix.SIGHUP)
	requests := make(chan byte)
	go func() {
		defer close(requests)
		for b := make([]byte, 1); ; {
			if _, err := conn.Read(b); err != nil {
				return // the parent has ended
			}
			requests <- b[0]
		}
	}()
	if err := serve(root, requests, stop, func(b byte) { _, _ = conn.Write([]byte{b}) }); err != nil {
		fmt.Fprintln(conn, err)
	}
}

// awaitTick waits until the clock of file times is later than a moment. It advances once in a tick of the kernel, 1 to
// 10 ms (CLOCK_REALTIME_COARSE, clock_gettime(2)). Otherwise a file could be changed before the freeze and after the
// thaw with the same ctime, and a comparison of times would not see the second change.
func awaitTick(moment int64) {
	for range 20 {
		if read(unix.CLOCK_REALTIME_COARSE) > moment {
			return
		}
		<-time.After(time.Millisecond)
	}
}

// read returns the time of one of the kernel's clocks, in nanoseconds.
func read(clock int32) int64 {
	var now unix.Timespec
	_ = unix.ClockGettime(clock, &now) // both clocks exist in every kernel since 2.6.32
	return now.Nano()
}

// serve answers the requests.
func serve(root *os.File, requests <-chan byte, stop <-chan os.Signal, answer func(byte)) error {
	select {
	case r := <-requests:
		if r != msgFreeze {
			return nil
		}
	case <-stop:
		return nil
	}
	late := time.After(MaxHold) // includes the time of the freeze, in which writers are blocked as well
	if err := fsctl.Freeze(root); err != nil {
		if errors.Is(err, fsctl.ErrFrozen) {
			return fsctl.ErrFrozen
		}
		return err
	}
	frozen := read(unix.CLOCK_REALTIME)
	answer(msgFreeze)
	asked := false
	select {
	case _, asked = <-requests:
	case <-stop:
	case <-late:
	}
	awaitTick(frozen)
	err := fsctl.Thaw(root)
	if errors.Is(err, fsctl.ErrNotFrozen) { // another program has thawed it
		return errReleased
	}
	if err != nil {
		return err
	}
	if !asked {
		return errReleased
	}
	answer(msgThaw)
	return nil
}
