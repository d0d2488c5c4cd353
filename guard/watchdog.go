package guard

import (
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// Watchdog is a watchdog device. It reboots the host if it was not fed for its timeout: see the kernel's
// watchdog-api.rst.
type Watchdog interface {
	// Timeout returns how long after the last Feed the host is rebooted.
	Timeout() time.Duration
	Feed() error
	// Close closes the device. The device stays armed unless disarm is set. It also stays armed if the driver does
	// not allow a disarm (nowayout).
	Close(disarm bool) error
}

// watchdogKeeper keeps the watchdog device open while a dataset needs it. The Guard's lock protects it.
type watchdogKeeper struct {
	device         Watchdog
	timeout        time.Duration
	next           time.Duration // the time of the next feed
	feedingStopped bool
}

// open opens the device with the function how, unless it is open.
func (d *watchdogKeeper) open(how func() (Watchdog, error)) error {
	if d.device != nil {
		return nil
	}
	if how == nil {
		return dataset.Errorf(dataset.ErrUnsupported,
			"fence policy watchdog: there is no watchdog device (load its driver, or softdog)")
	}
	device, err := how()
	if err != nil {
		return dataset.Errorf(dataset.ErrUnsupported, "fence policy watchdog: %w (load its driver, or softdog)", err)
	}
	d.device, d.timeout, d.next = device, device.Timeout(), 0
	return nil
}

// feed feeds the device when that is due, four times per timeout. It returns the time of the next feed, or 0 if
// there is none.
func (d *watchdogKeeper) feed(now time.Duration) (next time.Duration, err error) {
	if d.device == nil || d.feedingStopped {
		return 0, nil
	}
	if now >= d.next {
		err = d.device.Feed()
		d.next = now + d.timeout/4
	}
	return d.next, err
}

func (d *watchdogKeeper) close(disarm bool) error {
	if d.device == nil {
		return nil
	}
	err := d.device.Close(disarm && !d.feedingStopped)
	d.device, d.timeout = nil, 0
	return err
}

// OpenWatchdog opens a watchdog device and arms it with a timeout, or with the nearest one that its driver
// supports.
func OpenWatchdog(path string, timeout time.Duration) (Watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("watchdog: %w", err)
	}
	w := &watchdogDevice{f: f}
	raw, err := f.SyscallConn()
	if err == nil {
		cerr := raw.Control(func(fd uintptr) {
			// A driver that supports only one timeout refuses to set it, and returns that timeout.
			_ = unix.IoctlSetPointerInt(int(fd), unix.WDIOC_SETTIMEOUT, int(timeout/time.Second))
			var seconds int
			seconds, err = unix.IoctlGetInt(int(fd), unix.WDIOC_GETTIMEOUT)
			w.timeout = time.Duration(seconds) * time.Second
		})
		err = errors.Join(err, cerr)
	}
	if err == nil && w.timeout <= 0 {
		err = errors.New("it has no timeout")
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watchdog %s: %w", path, err), w.Close(true))
	}
	return w, nil
}

type watchdogDevice struct {
	f       *os.File
	timeout time.Duration
}

func (w *watchdogDevice) Timeout() time.Duration { return w.timeout }

func (w *watchdogDevice) Feed() error {
	_, err := w.f.Write([]byte{'\n'})
	return err
}

// Close writes the magic character, without which the device stays armed.
func (w *watchdogDevice) Close(disarm bool) error {
	var err error
	if disarm {
		_, err = w.f.WriteString("V")
	}
	return errors.Join(err, w.f.Close())
}
