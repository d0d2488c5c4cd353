package btrfsctl

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	iocSend    = 0x40489426 // _IOW(0x94, 38, struct btrfs_ioctl_send_args)
	sendNoData = 1 << 0     // BTRFS_SEND_FLAG_NO_FILE_DATA
)

// sendArgs is struct btrfs_ioctl_send_args.
type sendArgs struct {
	fd, sources uint64
	clones      *uint64
	parent      uint64
	flags       uint64
	_           [32]byte
}

// ErrBusy means that the filesystem is being balanced or deduplicated. Retry later.
var ErrBusy = errors.New("the filesystem is being balanced or deduplicated: try again when that has ended")

// Send writes the read-only subvolume whose root is dir to w, as the kernel's stream of version 1. If base is not nil,
// the stream contains only the difference to the read-only subvolume base. If data is false, the stream contains the
// ranges of changed data, but not the data. An error of w ends Send, and is returned.
func Send(ctx context.Context, dir, base *os.File, data bool, w io.Writer) error {
	args := &sendArgs{}
	if !data {
		args.flags = sendNoData
	}
	var parent uint64
	if base != nil {
		var err error
		if parent, err = ID(base); err != nil {
			return err
		}
		args.parent, args.sources, args.clones = parent, 1, &parent
	}
	r, out, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	args.fd = uint64(out.Fd()) // blocking from now on
	_, _ = unix.FcntlInt(out.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	sent := make(chan error, 1)
	go func() {
		var pin runtime.Pinner
		pin.Pin(&parent)
		defer pin.Unpin()
		err := withoutSignals(func() error { return ioctl(dir, iocSend, unsafe.Pointer(args)) })
		_ = out.Close()
		sent <- err
	}()
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_, wErr := io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{r}, make([]byte, 256<<10))
	_ = r.Close() // the kernel gets EPIPE if it is not done
	switch err := <-sent; {
	case ctx.Err() != nil:
		return ctx.Err()
	case wErr != nil:
		return wErr
	case errors.Is(err, unix.EAGAIN):
		return fmt.Errorf("send %s: %w", dir.Name(), ErrBusy)
	case err != nil:
		return fmt.Errorf("send %s: %w", dir.Name(), err)
	}
	return nil
}

// withoutSignals calls a function on a thread that no signal interrupts. If a signal arrives while the kernel waits for
// space in the pipe, the kernel restarts the ioctl, and the output contains the beginning of the stream a second time.
// The Go runtime sends such signals to preempt goroutines.
func withoutSignals(call func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &all, &before); err != nil {
		return err
	}
	err := call()
	if mErr := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err == nil {
		err = mErr
	}
	return err
}
