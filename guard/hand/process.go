package hand

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/frame"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/mount"
)

// Conn is the descriptor on which a hand finds its guard.
const Conn = 3

// comm is the name of a hand's process, by which another hand knows it: while it freezes,
// it has a directory of the dataset open, and is no holder for all that.
const comm = "drover-hand"

// Accept makes this process a hand: it returns its end of the connection to the guard that
// started it.
func Accept() (net.Conn, error) {
	if err := os.WriteFile("/proc/self/comm", []byte(comm), 0); err != nil {
		return nil, fmt.Errorf("name of the hand: %w", err)
	}
	f := os.NewFile(Conn, "guard")
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("connection to the guard: %w", err)
	}
	return c, nil
}

// Hand is the guard's end. Safe for concurrent use.
type Hand struct {
	args []string

	mu     sync.Mutex
	link   *link // nil when the hand has died
	seq    uint64
	closed bool
	wg     sync.WaitGroup
}

// link is a process that is a hand, and who waits for it.
type link struct {
	conn    net.Conn
	process *os.Process
	waiting map[uint64]chan answer
}

// Start starts a hand: args is the argument vector of a program, by its path, that calls
// Accept and Serve. Close it.
func Start(args []string) (*Hand, error) {
	h := &Hand{args: args}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h, h.start()
}

// start starts a process; the lock is held.
func (h *Hand) start() error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("start the hand: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "hand"), os.NewFile(uintptr(fds[1]), "guard")
	conn, err := net.FileConn(ours)
	err = errors.Join(err, ours.Close())
	var p *os.Process
	if err == nil {
		p, err = os.StartProcess(h.args[0], h.args, &os.ProcAttr{Files: []*os.File{nil, os.Stderr, os.Stderr, theirs}})
	}
	if err = errors.Join(err, theirs.Close()); err != nil {
		if conn != nil {
			_ = conn.Close()
		}
		return fmt.Errorf("start the hand %q: %w", h.args[0], err)
	}
	l := &link{conn, p, map[uint64]chan answer{}}
	h.link = l
	h.wg.Go(func() { h.read(l) })
	return nil
}

// read hands out answers until the hand dies. Those that wait ask the next one.
func (h *Hand) read(l *link) {
	for {
		var a answer
		if frame.Read(l.conn, &a, maxMessage) != nil {
			break
		}
		h.mu.Lock()
		c := l.waiting[a.Seq]
		delete(l.waiting, a.Seq)
		h.mu.Unlock()
		if c != nil {
			c <- a
		}
	}
	_ = l.conn.Close()
	h.mu.Lock()
	if h.link == l {
		h.link = nil
	}
	for seq, c := range l.waiting {
		close(c)
		delete(l.waiting, seq)
	}
	h.mu.Unlock()
	// A zombie that nobody reaps is all that could be left of it; one that hangs in the
	// kernel is waited for as long as this guard lives.
	_, _ = l.process.Wait()
}

// Close lets the hand end, once it has done what it was asked for. It is waited for as
// long as ctx says: one that hangs in the kernel ends when that lets it.
func (h *Hand) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	if h.link != nil {
		_ = h.link.conn.(*net.UnixConn).CloseWrite() // of a socketpair
	}
	h.mu.Unlock()
	done := make(chan struct{})
	go func() { h.wg.Wait(); close(done) }()
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("the hand hangs in the kernel: %w", ctx.Err())
	}
}

var errDied = errors.New("the hand died")

// grace is how long an answer may be late that has a time of its own.
const grace = 100 * time.Millisecond

// ask sends a request and waits for its answer, until ctx ends: the hand may do it later.
// A hand that died is replaced.
func (h *Hand) ask(ctx context.Context, r request) (answer, error) {
	const tries = 2
	for try := 1; ; try++ {
		a, err := h.once(ctx, r)
		if err == nil && a.Code != "" {
			return answer{}, dataset.Errorf(dataset.KindByCode(a.Code), "%s", a.Error)
		}
		if !errors.Is(err, errDied) || try == tries {
			return a, err
		}
	}
}

func (h *Hand) once(ctx context.Context, r request) (answer, error) {
	l, c, seq, err := h.send(r)
	if err != nil {
		return answer{}, err
	}
	select {
	case a, ok := <-c:
		if !ok {
			return answer{}, errDied
		}
		return a, nil
	case <-ctx.Done():
		h.mu.Lock()
		delete(l.waiting, seq)
		h.mu.Unlock()
		return answer{}, ctx.Err()
	}
}

// sendTime bounds the writing of a request, which waits when the hand reads nothing.
const sendTime = time.Second

func (h *Hand) send(r request) (*link, chan answer, uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, nil, 0, errors.New("the hand is closed")
	}
	if h.link == nil {
		if err := h.start(); err != nil {
			return nil, nil, 0, err
		}
	}
	h.seq++
	r.Seq = h.seq
	l, c := h.link, make(chan answer, 1)
	l.waiting[r.Seq] = c
	err := l.conn.SetWriteDeadline(clock.Deadline(sendTime))
	if err == nil {
		err = frame.Write(l.conn, r, maxMessage)
	}
	if err != nil {
		delete(l.waiting, r.Seq)
		_ = l.conn.Close() // the reader sees that it is gone
		h.link = nil
		return nil, nil, 0, fmt.Errorf("%w: %w", errDied, err)
	}
	return l, c, r.Seq, nil
}

// act asks for an act that has so long.
func (h *Hand) act(ctx context.Context, op string, t Target, budget time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget+grace)
	defer cancel()
	a, err := h.ask(ctx, request{Op: op, Target: t, Budget: budget})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Outcome{Note: "it hangs in the kernel"}
	case err != nil:
		return Outcome{Note: note(err, "")}
	}
	return a.Outcome
}

// Freeze asks for Tool.Freeze. An act that the kernel keeps longer than its budget goes
// on, and what it did is found by the next.
func (h *Hand) Freeze(ctx context.Context, t Target, budget time.Duration) Outcome {
	return h.act(ctx, opFreeze, t, budget)
}

// Stop asks for Tool.Stop.
func (h *Hand) Stop(ctx context.Context, t Target, budget time.Duration) Outcome {
	return h.act(ctx, opStop, t, budget)
}

// Kill asks for Tool.Kill.
func (h *Hand) Kill(ctx context.Context, t Target, budget time.Duration) Outcome {
	return h.act(ctx, opKill, t, budget)
}

// Condemn asks for Tool.Condemn.
func (h *Hand) Condemn(ctx context.Context, t Target, budget time.Duration) Outcome {
	return h.act(ctx, opCondemn, t, budget)
}

// Undo asks for Tool.Undo.
func (h *Hand) Undo(ctx context.Context, t Target) error {
	_, err := h.ask(ctx, request{Op: opUndo, Target: t})
	return err
}

// Bind asks for Tool.Bind.
func (h *Hand) Bind(ctx context.Context, t Target) (mount.Filesystem, error) {
	a, err := h.ask(ctx, request{Op: opBind, Target: t})
	return a.Filesystem, err
}

// Save asks for Tool.Save.
func (h *Hand) Save(ctx context.Context, id uuid.UUID, record json.RawMessage) error {
	_, err := h.ask(ctx, request{Op: opSave, Target: Target{Dataset: id}, Record: record})
	return err
}

// Load asks for Tool.Load; a damaged record is null.
func (h *Hand) Load(ctx context.Context) (map[uuid.UUID]json.RawMessage, error) {
	a, err := h.ask(ctx, request{Op: opLoad})
	return a.Records, err
}
