package clock

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Boottime is how long ago this host was booted, its sleep included: CLOCK_BOOTTIME of
// clock_gettime(2), which cannot fail for it. It means something together with BootID.
func Boottime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// BootID names this boot of the host: random(4), the same in all namespaces.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Alarm wakes at moments of Boottime, a host's sleep included: timerfd_create(2). It
// does not wake a host that sleeps. Set is safe for concurrent use.
type Alarm struct {
	file *os.File
	c    chan struct{}
	done chan struct{}
}

// NewAlarm returns an alarm that is not set. Close it.
func NewAlarm() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	a := &Alarm{os.NewFile(uintptr(fd), "timerfd"), make(chan struct{}, 1), make(chan struct{})}
	go a.read()
	return a, nil
}

// C receives a value each time that the alarm rings; one value for several that were not received.
func (a *Alarm) C() <-chan struct{} { return a.c }

// Set makes the alarm ring at a moment, or at once if that has passed, and replaces the earlier setting. With
// 0 it does not ring.
func (a *Alarm) Set(at time.Duration) error {
	raw, err := a.file.SyscallConn()
	if err != nil {
		return err
	}
	spec := unix.ItimerSpec{Value: unix.NsecToTimespec(int64(at))}
	cerr := raw.Control(func(fd uintptr) {
		err = unix.TimerfdSettime(int(fd), unix.TFD_TIMER_ABSTIME, &spec, nil)
	})
	if err = errors.Join(err, cerr); err != nil {
		return fmt.Errorf("timerfd_settime: %w", err)
	}
	return nil
}

// Close closes the alarm; C receives nothing after that.
func (a *Alarm) Close() error {
	err := a.file.Close()
	<-a.done
	return err
}

func (a *Alarm) read() {
	defer close(a.done)
	for {
		var rang uint64
		if err := binary.Read(a.file, binary.NativeEndian, &rang); err != nil {
			return // closed
		}
		select {
		case a.c <- struct{}{}:
		default:
		}
	}
}
