package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/frame"
	"github.com/droverhq/drover/internal/clock"
)

const (
	// requestTime bounds a request whose context has no end; a flush is within it.
	requestTime = 15 * time.Second
	// awayTime is how long a guard that does not answer is tried again: as long as it
	// takes to be restarted.
	awayTime = 2 * time.Second
	// awayPause is the time between two tries.
	awayPause = 20 * time.Millisecond
	// maxIdle bounds the connections that are kept.
	maxIdle = 4
)

// Client is the agent's side of the guard's socket: it registers, feeds, checks and
// releases datasets. The errors of each request are those of the method of Guard that has
// its name, and ErrUnavailable when no guard answers within the context, or two seconds: the
// deadlines that were fed before stand, and are fenced by the guard that comes. All
// requests may be repeated, and are repeated once when a connection breaks. Safe for
// concurrent use; requests do not wait for each other. Close it.
type Client struct {
	path, boot string
	agent      bool

	mu     sync.Mutex
	idle   []net.Conn
	closed bool
}

// NewClient returns a client of the guard that listens at a path, now or later. It fails
// when the boot ID cannot be read.
func NewClient(path string) (*Client, error) {
	boot, err := clock.BootID()
	if err != nil {
		return nil, err
	}
	return &Client{path: path, boot: boot}, nil
}

// NewAgentClient is NewClient for this host's agent, which the guard never stops: it alone can
// say that a fence is over. It is killed where it holds what is fenced, and started anew.
func NewAgentClient(path string) (*Client, error) {
	c, err := NewClient(path)
	if err == nil {
		c.agent = true
	}
	return c, err
}

// Close closes the connections. What is registered stays so.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var errs []error
	for _, conn := range c.idle {
		errs = append(errs, conn.Close())
	}
	c.idle, c.closed = nil, true
	return errors.Join(errs...)
}

// Register is Guard.Register: before the mount.
func (c *Client) Register(ctx context.Context, r Registration) (Entry, error) {
	return c.entry(ctx, request{Op: opRegister, Registration: &r})
}

// Feed is Guard.Feed: refused says of single datasets why, err that the guard could not be
// asked.
func (c *Client) Feed(ctx context.Context, feeds []Feed) (refused map[uuid.UUID]error, err error) {
	a, err := c.ask(ctx, request{Op: opFeed, Feeds: feeds})
	if err != nil {
		return nil, err
	}
	refused = make(map[uuid.UUID]error, len(a.Refused))
	for id, f := range a.Refused {
		refused[id] = f.err()
	}
	return refused, nil
}

// Check is Guard.Check: after the mount, before it is answered.
func (c *Client) Check(ctx context.Context, id uuid.UUID, epoch uint64) (Entry, error) {
	return c.entry(ctx, request{Op: opCheck, Dataset: id, Epoch: epoch})
}

// Thaw is Guard.Thaw: the caller vouches that the epoch is still this node's.
func (c *Client) Thaw(ctx context.Context, id uuid.UUID, epoch uint64, deadline time.Duration) (Entry, error) {
	return c.entry(ctx, request{Op: opThaw, Dataset: id, Epoch: epoch, Deadline: deadline})
}

// Supersede is Guard.Supersede: before a superseded copy is unmounted and kept aside.
func (c *Client) Supersede(ctx context.Context, id uuid.UUID, epoch uint64) (Entry, error) {
	return c.entry(ctx, request{Op: opSupersede, Dataset: id, Epoch: epoch})
}

// Release is Guard.Release: after the unmount.
func (c *Client) Release(ctx context.Context, id uuid.UUID, epoch uint64) error {
	_, err := c.ask(ctx, request{Op: opRelease, Dataset: id, Epoch: epoch})
	return err
}

// Dismiss is Guard.Dismiss: after the unmount of what was superseded, by a person.
func (c *Client) Dismiss(ctx context.Context, id uuid.UUID, epoch uint64) error {
	_, err := c.ask(ctx, request{Op: opDismiss, Dataset: id, Epoch: epoch})
	return err
}

// Status is Guard.Status: what is fenced, since when, and by what.
func (c *Client) Status(ctx context.Context) (Status, error) {
	a, err := c.ask(ctx, request{Op: opStatus})
	if err != nil {
		return Status{}, err
	}
	if a.Status == nil {
		return Status{}, c.empty()
	}
	return *a.Status, nil
}

func (c *Client) entry(ctx context.Context, q request) (Entry, error) {
	a, err := c.ask(ctx, q)
	if err != nil {
		return Entry{}, err
	}
	if a.Entry == nil {
		return Entry{}, c.empty()
	}
	return *a.Entry, nil
}

func (c *Client) empty() error {
	return dataset.Errorf(dataset.ErrInternal, "the guard at %s answered with nothing", c.path)
}

// ask sends a request and returns its answer. A connection that was kept may have broken
// with the guard that it led to.
func (c *Client) ask(ctx context.Context, q request) (reply, error) {
	ctx, cancel := context.WithTimeout(ctx, requestTime)
	defer cancel()
	q.Version, q.Boot, q.Agent = Version, c.boot, c.agent
	var a reply
	var err error
	for range 2 {
		var conn net.Conn
		if conn, err = c.conn(ctx); err != nil {
			break
		}
		if a, err = exchange(ctx, conn, q); err == nil {
			c.keep(conn)
			break
		}
		_ = conn.Close()
		if ctx.Err() != nil {
			break
		}
		c.forget()
	}
	if errors.Is(err, dataset.ErrInvalid) {
		return reply{}, fmt.Errorf("ask the guard: %w", err)
	}
	if err != nil {
		return reply{}, dataset.Errorf(dataset.ErrUnavailable,
			"the guard at %s does not answer: %w (see whether drover guard runs)", c.path, err)
	}
	if a.Failure != nil {
		return reply{}, a.Failure.err()
	}
	return a, nil
}

func exchange(ctx context.Context, conn net.Conn, q request) (a reply, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := frame.Write(conn, q, maxRequest); err != nil {
		return a, err
	}
	err = frame.Read(conn, &a, maxReply)
	return a, err
}

// conn returns a connection, and waits for a guard that is being restarted.
func (c *Client) conn(ctx context.Context) (net.Conn, error) {
	c.mu.Lock()
	closed := c.closed
	if n := len(c.idle); n > 0 {
		conn := c.idle[n-1]
		c.idle = c.idle[:n-1]
		c.mu.Unlock()
		return conn, nil
	}
	c.mu.Unlock()
	if closed {
		return nil, net.ErrClosed
	}
	ctx, cancel := context.WithTimeout(ctx, awayTime)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-clock.System{}.After(awayPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}

func (c *Client) keep(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= maxIdle {
		_ = conn.Close()
		return
	}
	c.idle = append(c.idle, conn)
}

// forget drops the connections that were kept: they lead to a guard that has gone.
func (c *Client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.idle {
		_ = conn.Close()
	}
	c.idle = nil
}
