package guard

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/frame"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/socket"
)

const (
	// maxConns bounds the connections; an agent needs a few.
	maxConns = 64
	// messageTime bounds the time from the first byte of a request to its last, and that
	// of a reply: who takes longer is cut off.
	messageTime = 5 * time.Second
)

// serve answers until ctx ends.
func (g *Guard) serve(ctx context.Context, l *socket.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	free := make(chan struct{}, maxConns)
	for {
		c, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			g.Log.WithError(err).Error("accept")
			g.pause(ctx, time.Second) // out of descriptors, or of memory
			continue
		}
		select {
		case free <- struct{}{}:
		default:
			g.Log.WithField("connections", maxConns).Error("too many connections: one is cut off")
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-free }()
			g.connection(ctx, c)
		})
	}
}

// connection answers the requests of one connection, one after the other.
func (g *Guard) connection(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	cred, err := socket.Peer(c)
	if err != nil || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		g.Log.WithError(err).Error("a connection that is not root's is cut off")
		return
	}
	agent, err := hand.ProcessOf(int(cred.Pid))
	if err != nil {
		return // it has ended already
	}
	r := bufio.NewReader(c)
	for {
		if err := g.exchange(ctx, c, r, agent); err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				g.Log.WithError(err).WithField("pid", cred.Pid).Warn("a connection is cut off")
			}
			return
		}
	}
}

// exchange answers one request; after an error the connection is of no use.
func (g *Guard) exchange(ctx context.Context, c net.Conn, r *bufio.Reader, agent hand.Process) error {
	soon := func() time.Time { return clock.Deadline(messageTime) }
	if err := c.SetDeadline(time.Time{}); err != nil {
		return err
	}
	if _, err := r.Peek(1); err != nil {
		return err
	}
	if err := c.SetReadDeadline(soon()); err != nil {
		return err
	}
	var q request
	if err := frame.Read(r, &q, maxRequest); err != nil {
		return err
	}
	if q.Agent {
		g.meet(agent)
	}
	if q.Registration != nil {
		q.Registration.agent = agent
	}
	a := g.answer(ctx, q)
	a.Version = Version
	if err := c.SetWriteDeadline(soon()); err != nil {
		return err
	}
	return frame.Write(c, a, maxReply)
}

func (g *Guard) answer(ctx context.Context, q request) (a reply) {
	var e Entry
	err := g.understand(q)
	if err == nil {
		switch q.Op {
		case opRegister:
			e, err = g.Register(ctx, *q.Registration)
		case opFeed:
			a.Refused = map[uuid.UUID]failure{}
			for id, err := range g.Feed(q.Feeds) {
				a.Refused[id] = failureOf(err)
			}
		case opCheck:
			e, err = g.Check(ctx, q.Dataset, q.Epoch)
		case opThaw:
			e, err = g.Thaw(ctx, q.Dataset, q.Epoch, q.Deadline)
		case opSupersede:
			e, err = g.Supersede(ctx, q.Dataset, q.Epoch)
		case opRelease:
			err = g.Release(ctx, q.Dataset, q.Epoch)
		case opDismiss:
			err = g.Dismiss(ctx, q.Dataset, q.Epoch)
		case opStatus:
			s := g.Status()
			a.Status = &s
		default:
			err = dataset.Errorf(dataset.ErrInvalid, "the guard knows no request %q", dataset.Clip(q.Op))
		}
	}
	if err != nil {
		f := failureOf(err)
		return reply{Failure: &f}
	}
	if e.Dataset != uuid.Nil {
		a.Entry = &e
	}
	return a
}

// understand refuses what this guard would take for something else.
func (g *Guard) understand(q request) error {
	if q.Version != Version {
		return dataset.Errorf(dataset.ErrUnsupported,
			"the guard speaks version %d of its protocol, and was asked in version %d: restart the older of "+
				"guard and agent", Version, q.Version)
	}
	if q.Boot != g.boot {
		return dataset.Errorf(dataset.ErrStale, "a request of boot %s: this is boot %s", dataset.Clip(q.Boot), g.boot)
	}
	if q.Op == opRegister && q.Registration == nil {
		return dataset.Errorf(dataset.ErrInvalid, "register with the guard: nothing is registered")
	}
	return nil
}

func failureOf(err error) failure { return failure{dataset.KindOf(err).Code, dataset.OneLine(err)} }

func (f failure) err() error { return dataset.Errorf(dataset.KindByCode(f.Code), "%s", f.Text) }
