package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/audit"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// process has the parts of a process of Drover: its settings, and its clean-ups.
type process struct {
	Options
	clock    clock.System
	recorder *Recorder
	closers  []func() error
	mapped   []mappedFile // databases of the process
}

// newProcess creates the folders and takes the named lock in the root. Existing folders keep their mode.
func newProcess(o Options, lock string, folders ...string) (*process, error) {
	for _, dir := range folders {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, fmt.Errorf("create %s: %w", dir, err)
		}
	}
	if lock == hostLock {
		if err := checkKernel(); err != nil {
			return nil, err
		}
	}
	unlock, err := lockRoot(o.Root, lock)
	if err != nil {
		return nil, err
	}
	return &process{Options: o, recorder: NewRecorder(), closers: []func() error{unlock}}, nil
}

// checkKernel fails unless a mount can follow no links: MOUNT_ATTR_NOSYMFOLLOW of mount_setattr(2), which is EINVAL
// before Linux 5.14. The call changes nothing, because it names no mount.
func checkKernel() error {
	err := unix.MountSetattr(-1, "", 0, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSYMFOLLOW})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		return dataset.Errorf(dataset.ErrUnsupported, "drover needs Linux 5.14 or later on a host with volumes")
	}
	return nil
}

// addCloser adds a clean-up. The clean-ups run in reverse order when the process ends.
func (p *process) addCloser(f func() error) { p.closers = append(p.closers, f) }

func (p *process) closeAll() (err error) {
	for i := len(p.closers) - 1; i >= 0; i-- {
		err = errors.Join(err, p.closers[i]())
	}
	return err
}

// background runs f in a goroutine until the process ends. When the process ends, f is stopped before everything that
// was opened earlier is closed.
func (p *process) background(ctx context.Context, f func(context.Context)) {
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	p.addCloser(func() error { stop(); <-done; return nil })
}

// audit opens the log of the changes through this process.
func (p *process) audit(name string) (*audit.Log, error) {
	l, err := audit.Open(filepath.Join(p.Root, name), p.clock, func(err error) {
		p.Log.WithError(err).Error("could not write a change to the audit log")
	})
	if err != nil {
		return nil, err
	}
	p.addCloser(l.Close)
	return l, nil
}

// endpoint is one socket with its server.
type endpoint struct {
	what string
	net.Listener
	server connServer
}

// connServer answers the connections of a listener until it is shut down. An *http.Server implements it.
type connServer interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}

// stopTime is how long running requests may take to end when the process stops.
const stopTime = 20 * time.Second

// serve answers on all sockets until ctx ends or one of them fails, and then closes them.
func (p *process) serve(ctx context.Context, list []endpoint, fields logrus.Fields) (err error) {
	failed := make(chan error, len(list))
	for _, e := range list {
		fields[e.what] = e.Addr().String()
		go func() {
			if err := e.server.Serve(e.Listener); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", e.what, err)
				return
			}
			failed <- nil
		}()
	}
	p.Log.WithFields(fields).Info("drover is ready")
	if p.Ready != nil {
		p.Ready()
	}
	n := len(list)
	select {
	case <-ctx.Done():
		p.Log.Info("stopping; mounts stay")
	case err = <-failed:
		n--
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	for i := len(list) - 1; i >= 0; i-- {
		err = errors.Join(err, list[i].server.Shutdown(stopping))
	}
	for range n {
		err = errors.Join(err, <-failed)
	}
	return err
}
