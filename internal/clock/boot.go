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

// Boottime returns the time since the boot of this host, including the time that the host slept: CLOCK_BOOTTIME of
// clock_gettime(2), which cannot fail. Compare such times only within one boot: see BootID.
func Boottime() time.Duration {
	var ts unix.Timespec
	_ = unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts)
	return time.Duration(ts.Nano())
}

// BootID identifies this boot of the host (random(4)). It is the same in all namespaces.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read the boot ID: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Alarm rings at a time of Boottime (timerfd_create(2)). It does not wake a sleeping host. Its methods are safe for
// concurrent use, but Set fails after Close.
type Alarm struct {
	file *os.File
	c    chan struct{}
	done chan struct{}
}

// NewAlarm returns an alarm that is not set. The caller must close it.
func NewAlarm() (*Alarm, error) {
	fd, err := unix.TimerfdCreate(unix.CLOCK_BOOTTIME, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("timerfd_create: %w", err)
	}
	a := &Alarm{os.NewFile(uintptr(fd), "timerfd"), make(chan struct{}, 1), make(chan struct{})}
	go a.read()
	return a, nil
}

// C returns a channel that receives a value when the alarm rings. If the alarm rings several times before a value is
// received, the channel delivers one value.
func (a *Alarm) C() <-chan struct{} { return a.c }

// Set makes the alarm ring at a time, or at once if that time has passed. It replaces the earlier setting. 0 turns the
// alarm off.
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
