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
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/inuse"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Conn is the number of the descriptor that connects a hand to its guard.
const Conn = 3

// Accept makes this process a hand. It sets the name of the process and returns the connection to the
// guard that started it. Call it once.
func Accept() (net.Conn, error) {
	if err := os.WriteFile("/proc/self/comm", []byte(inuse.CommHand), 0); err != nil {
		return nil, fmt.Errorf("name of the hand: %w", err)
	}
	f := os.NewFile(Conn, "guard")
	c, err := net.FileConn(f)
	if err = errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("connection to the guard: %w", err)
	}
	return c, nil
}

// Hand is the guard's side of a hand: each method sends a request and waits for the answer. A hand that
// died is restarted by the next request. Safe for concurrent use.
type Hand struct {
	args []string

	mu     sync.Mutex
	link   *link // nil if the hand has died
	seq    uint64
	closed bool
	wg     sync.WaitGroup
}

// link is the process of a hand and the connection to it.
type link struct {
	conn    net.Conn
	process *os.Process
	waiting map[uint64]chan answer // the requests without an answer, by request.Seq
}

// Start starts a hand. args is the argument vector of a program that calls Accept and Serve; args[0] is
// the path of the program. The caller must call Close.
func Start(args []string) (*Hand, error) {
	h := &Hand{args: args}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h, h.start()
}

// start starts the process of a hand. The lock is held.
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

// read passes answers to the goroutines that wait for them, until the hand dies. Then it closes their channels, and the
// goroutines send their requests again, to the next hand.
func (h *Hand) read(l *link) {
	for {
		var a answer
		if ReadFrame(l.conn, &a, maxMessage) != nil {
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
	// Reap the process. If it hangs in the kernel, this call never returns.
	_, _ = l.process.Wait()
}

// Close ends the hand after the hand has finished its acts. Close waits until the hand has ended. If the hand still
// waits in the kernel when ctx ends, Close fails; the hand then ends as soon as the kernel returns.
func (h *Hand) Close(ctx context.Context) error {
	h.mu.Lock()
	h.closed = true
	if h.link != nil {
		_ = h.link.conn.(*net.UnixConn).CloseWrite() // the connection is one end of a socketpair
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

// answerGrace is the additional time, after the budget of an act, that the answer to the act may take.
const answerGrace = 100 * time.Millisecond

// ask sends a request and waits for the answer until ctx ends. The hand may still perform the request
// after that. If the hand dies, ask sends the request once more, to a new hand.
func (h *Hand) ask(ctx context.Context, r request) (answer, error) {
	const tries = 2
	for try := 1; ; try++ {
		a, err := h.askOnce(ctx, r)
		if err == nil && a.Code != "" {
			return answer{}, dataset.Errorf(dataset.KindByCode(a.Code), "%s", a.Error)
		}
		if !errors.Is(err, errDied) || try == tries {
			return a, err
		}
	}
}

func (h *Hand) askOnce(ctx context.Context, r request) (answer, error) {
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

// sendTime bounds the write of a request. The write blocks if the hand does not read.
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
		err = WriteFrame(l.conn, r, maxMessage)
	}
	if err != nil {
		delete(l.waiting, r.Seq)
		_ = l.conn.Close() // ends the goroutine that reads from it
		h.link = nil
		return nil, nil, 0, fmt.Errorf("%w: %w", errDied, err)
	}
	return l, c, r.Seq, nil
}

// act asks the hand for an act that may take budget.
func (h *Hand) act(ctx context.Context, op string, t Target, budget time.Duration) Outcome {
	ctx, cancel := context.WithTimeout(ctx, budget+answerGrace)
	defer cancel()
	a, err := h.ask(ctx, request{Op: op, Target: t, Budget: budget})
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return Outcome{Note: "the hand waits in the kernel"}
	case err != nil:
		return Outcome{Note: noteOf(err, "")}
	}
	return a.Outcome
}

// Freeze asks for Tool.Freeze. If the kernel takes longer than budget, the freeze continues, and the next
// call finds its result. All calls that return an Outcome report errors in Outcome.Note.
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

// KillHolders asks for Tool.KillHolders.
func (h *Hand) KillHolders(ctx context.Context, t Target, budget time.Duration) Outcome {
	return h.act(ctx, opKillHolders, t, budget)
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

// Load asks for Tool.Load. A damaged record is null.
func (h *Hand) Load(ctx context.Context) (map[uuid.UUID]json.RawMessage, error) {
	a, err := h.ask(ctx, request{Op: opLoad})
	return a.Records, err
}
