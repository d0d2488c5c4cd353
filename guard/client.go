package guard

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
)

const (
	// requestTime bounds each request, also if its context ends later. The request may have to wait for a flush.
	requestTime = 15 * time.Second
	// retryTime is how long a request tries to connect to a guard that does not run: the time of a restart.
	retryTime = 2 * time.Second
	// retryPause is the pause between two attempts.
	retryPause = 20 * time.Millisecond
)

// Client sends requests to the guard over its socket, for the agent and for the commands of the operator. Each request
// returns the errors of the method of Guard with the same name. It returns ErrUnavailable if no guard accepts a
// connection within two seconds, or if the guard does not answer within 15 seconds or before the context ends. After
// ErrUnavailable, the deadlines that were fed earlier stay valid, and the next guard enforces them. All requests are
// idempotent. Client repeats a request once if its connection breaks.
//
// Safe for concurrent use. Each request has a connection, so that requests do not wait for each other.
type Client struct {
	path, boot string
	agent      bool
}

// NewClient returns a client of the guard that listens at a path, now or later. It fails if the boot ID cannot be
// read.
func NewClient(path string) (*Client, error) {
	boot, err := clock.BootID()
	if err != nil {
		return nil, err
	}
	return &Client{path: path, boot: boot}, nil
}

// NewAgentClient is NewClient for the agent of this host. If the agent holds a fenced dataset, the guard kills it
// instead of stopping it: only a running agent can end a fence, and a killed agent is restarted.
func NewAgentClient(path string) (*Client, error) {
	c, err := NewClient(path)
	if err == nil {
		c.agent = true
	}
	return c, err
}

// Register calls Guard.Register. Call it before the mount.
func (c *Client) Register(ctx context.Context, r Registration) (Entry, error) {
	return c.entry(ctx, request{Op: opRegister, Registration: &r})
}

// Feed calls Guard.Feed. refused has the errors of single datasets. err is the error of the request itself.
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

// Check calls Guard.Check. Call it after the mount, before the mount is reported.
func (c *Client) Check(ctx context.Context, id uuid.UUID, epoch uint64) (Entry, error) {
	return c.entry(ctx, request{Op: opCheck, Dataset: id, Epoch: epoch})
}

// Thaw calls Guard.Thaw. The caller guarantees that this node still has the epoch.
func (c *Client) Thaw(ctx context.Context, id uuid.UUID, epoch uint64, deadline time.Duration) (Entry, error) {
	return c.entry(ctx, request{Op: opThaw, Dataset: id, Epoch: epoch, Deadline: deadline})
}

// Supersede calls Guard.Supersede. Call it before a superseded copy is unmounted.
func (c *Client) Supersede(ctx context.Context, id uuid.UUID, epoch uint64) (Entry, error) {
	return c.entry(ctx, request{Op: opSupersede, Dataset: id, Epoch: epoch})
}

// Release calls Guard.Release. Call it after the unmount.
func (c *Client) Release(ctx context.Context, id uuid.UUID, epoch uint64) error {
	_, err := c.ask(ctx, request{Op: opRelease, Dataset: id, Epoch: epoch})
	return err
}

// Dismiss calls Guard.Dismiss. An operator calls it after the unmount of a superseded copy.
func (c *Client) Dismiss(ctx context.Context, id uuid.UUID, epoch uint64) error {
	_, err := c.ask(ctx, request{Op: opDismiss, Dataset: id, Epoch: epoch})
	return err
}

// Status calls Guard.Status. The result shows which datasets are fenced, since when, and by which act.
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
	return dataset.Errorf(dataset.ErrInternal, "the guard at %s sent an empty response", c.path)
}

// ask sends a request and returns the answer. If the guard ends meanwhile, ask sends the request to the next one.
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
		a, err = exchange(ctx, conn, q)
		_ = conn.Close()
		if err == nil || ctx.Err() != nil {
			break
		}
	}
	if errors.Is(err, dataset.ErrInvalid) {
		return reply{}, fmt.Errorf("request to the guard: %w", err)
	}
	if err != nil {
		return reply{}, dataset.Errorf(dataset.ErrUnavailable,
			"the guard at %s does not respond: %w (check that drover guard runs)", c.path, err)
	}
	if a.Failure != nil {
		return reply{}, a.Failure.err()
	}
	return a, nil
}

func exchange(ctx context.Context, conn net.Conn, q request) (a reply, err error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := hand.WriteFrame(conn, q, maxRequest); err != nil {
		return a, err
	}
	err = hand.ReadFrame(conn, &a, maxReply)
	return a, err
}

// conn returns a connection. It waits for a guard that is being restarted.
func (c *Client) conn(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, retryTime)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.path)
		if err == nil {
			return conn, nil
		}
		select {
		case <-clock.System{}.After(retryPause):
		case <-ctx.Done():
			return nil, err
		}
	}
}
