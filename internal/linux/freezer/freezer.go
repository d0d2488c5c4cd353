// Package freezer freezes a filesystem for a moment. The kernel never thaws a filesystem by itself, so a child process
// holds the freeze: it thaws the filesystem when it is asked to, when its parent dies, and after MaxHold. The agent
// (agent/mounting) starts the child, and the hidden command drover freezer runs Serve in it. The package keeps no state
// outside of a Freezer, which is not safe for concurrent use.
package freezer

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/fsctl"
)

// MaxHold is how long the child holds a freeze at most.
const MaxHold = 5 * time.Second

// replyTime is how long the child may take for an answer: FIFREEZE flushes the filesystem.
const replyTime = 2 * MaxHold

// The messages between the parent and the child. Each is one byte, with which no text begins. After a failure, the
// child sends its error instead, and ends.
const (
	msgFreeze = 1 // request; the answer means that the filesystem is frozen
	msgThaw   = 2 // request; the answer means that the filesystem was frozen until this request
)

// Freezer is the parent's side of a child.
type Freezer struct {
	root    *os.File // of the filesystem
	process *os.Process
	conn    *os.File // to the child
	frozen  bool
}

// Start starts a child for the filesystem of root. args is the argument vector of a program that calls Serve, and
// args[0] is its path. Start does not wait for the child. The caller must call Close, and keeps root open until then.
func Start(args []string, root *os.File) (*Freezer, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("start the freezer: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "freezer"), os.NewFile(uintptr(fds[1]), "agent")
	// In a session of its own, no signal to the group of the parent kills the child.
	p, err := os.StartProcess(args[0], args, &os.ProcAttr{
		Dir: "/", Files: []*os.File{theirs, nil, nil, root}, Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err = errors.Join(err, theirs.Close()); err != nil {
		return nil, errors.Join(fmt.Errorf("start the freezer %q: %w", args[0], err), ours.Close())
	}
	return &Freezer{root: root, process: p, conn: ours}, nil
}

// Freeze freezes the filesystem. If it fails, the filesystem is not frozen, or will be thawed as soon as the kernel has
// frozen it. It fails with fsctl.ErrFrozen if another program has frozen the filesystem.
func (f *Freezer) Freeze() error {
	if err := f.ask(msgFreeze); err != nil {
		return err
	}
	f.frozen = true
	return nil
}

// Thaw thaws the filesystem. held reports whether it was frozen since Freeze. If the child died, Thaw thaws the
// filesystem itself. It fails if the filesystem may still be frozen.
func (f *Freezer) Thaw() (held bool, err error) {
	err = f.ask(msgThaw)
	if f.frozen = false; err == nil {
		return true, nil
	}
	if errors.Is(err, errReleased) {
		return false, nil
	}
	if own := fsctl.Thaw(f.root); own == nil || errors.Is(own, fsctl.ErrNotFrozen) {
		return false, nil
	}
	return false, err
}

// Close ends the child, which thaws the filesystem if it is frozen.
func (f *Freezer) Close() {
	_ = f.conn.Close() // the child ends for this reason
	// If the child hangs in the kernel, this call never returns.
	go func() { _, _ = f.process.Wait() }()
}

// errReleased means that the filesystem was thawed before the parent asked for it.
var errReleased = errors.New("it was thawed too early")

// ask sends a request and waits for the answer.
func (f *Freezer) ask(request byte) error {
	if err := f.conn.SetDeadline(clock.Deadline(replyTime)); err != nil {
		return err
	}
	if _, err := f.conn.Write([]byte{request}); err != nil {
		return fmt.Errorf("ask the freezer: %w", err)
	}
	reply := make([]byte, 1)
	if _, err := io.ReadFull(f.conn, reply); err != nil {
		return fmt.Errorf("the freezer gave no answer: %w", err)
	}
	if reply[0] == request {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(f.conn, 4<<10))
	switch line := strings.TrimSpace(string(reply) + string(text)); line {
	case fsctl.ErrFrozen.Error():
		return fsctl.ErrFrozen
	case errReleased.Error():
		return errReleased
	default:
		return errors.New(line)
	}
}
