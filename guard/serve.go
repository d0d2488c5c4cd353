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
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/socket"
)

const (
	// maxConns bounds the connections; an agent needs a few.
	maxConns = 64
	// messageTime bounds the time from the first byte of a request or reply to its last byte. A connection that takes
	// longer is closed.
	messageTime = 5 * time.Second
)

// server answers the requests that arrive on the guard's socket. It has no state besides its connections.
type server struct {
	guard *Guard
	boot  string // the UUID of this boot of the kernel
	clock Clock
	log   logrus.FieldLogger
}

// serve accepts connections and answers their requests until ctx ends.
func (s *server) serve(ctx context.Context, l *socket.Listener) {
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
			s.log.WithError(err).Error("accept")
			pause(ctx, s.clock, s.log, time.Second) // no descriptors or no memory left
			continue
		}
		select {
		case free <- struct{}{}:
		default:
			s.log.WithField("connections", maxConns).Error("too many connections: one was closed")
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer func() { <-free }()
			s.connection(ctx, c)
		})
	}
}

// connection answers the requests of one connection, one after the other.
func (s *server) connection(ctx context.Context, c *net.UnixConn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	cred, err := socket.Peer(c)
	if err != nil || cred.Uid != 0 && int(cred.Uid) != os.Geteuid() {
		s.log.WithError(err).Error("closed a connection that is not from root")
		return
	}
	agent, err := hand.ProcessOf(int(cred.Pid))
	if err != nil {
		return // the process that connected has already ended
	}
	r := bufio.NewReader(c)
	for {
		if err := s.exchange(ctx, c, r, agent); err != nil {
			if !errors.Is(err, io.EOF) && ctx.Err() == nil {
				s.log.WithError(err).WithField("pid", cred.Pid).Warn("closed a connection")
			}
			return
		}
	}
}

// exchange reads one request and writes the reply. After an error the connection cannot be used any more.
func (s *server) exchange(ctx context.Context, c net.Conn, r *bufio.Reader, agent hand.Process) error {
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
	if err := hand.ReadFrame(r, &q, maxRequest); err != nil {
		return err
	}
	if q.Agent {
		s.guard.setAgent(agent)
	}
	if q.Registration != nil {
		q.Registration.agent = agent
	}
	a := s.answer(ctx, q)
	a.Version = Version
	if err := c.SetWriteDeadline(soon()); err != nil {
		return err
	}
	return hand.WriteFrame(c, a, maxReply)
}

// answer performs a request and returns the reply.
func (s *server) answer(ctx context.Context, q request) (a reply) {
	var e Entry
	err := s.checkRequest(q)
	if err == nil {
		switch q.Op {
		case opRegister:
			e, err = s.guard.Register(ctx, *q.Registration)
		case opFeed:
			a.Refused = map[uuid.UUID]failure{}
			for id, err := range s.guard.Feed(q.Feeds) {
				a.Refused[id] = failureOf(err)
			}
		case opCheck:
			e, err = s.guard.Check(ctx, q.Dataset, q.Epoch)
		case opThaw:
			e, err = s.guard.Thaw(ctx, q.Dataset, q.Epoch, q.Deadline)
		case opSupersede:
			e, err = s.guard.Supersede(ctx, q.Dataset, q.Epoch)
		case opRelease:
			err = s.guard.Release(ctx, q.Dataset, q.Epoch)
		case opDismiss:
			err = s.guard.Dismiss(ctx, q.Dataset, q.Epoch)
		case opStatus:
			status := s.guard.Status()
			a.Status = &status
		default:
			err = dataset.Errorf(dataset.ErrInvalid, "unknown request %q", dataset.Clip(q.Op))
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

// checkRequest returns an error for a request that this guard would misinterpret: one of another protocol version or of
// another boot, or a registration without content.
func (s *server) checkRequest(q request) error {
	if q.Version != Version {
		return dataset.Errorf(dataset.ErrUnsupported,
			"the guard has protocol version %d, and the request version %d: restart the older of guard and "+
				"agent", Version, q.Version)
	}
	if q.Boot != s.boot {
		return dataset.Errorf(dataset.ErrStale, "a request of boot %s: this is boot %s", dataset.Clip(q.Boot), s.boot)
	}
	if q.Op == opRegister && q.Registration == nil {
		return dataset.Errorf(dataset.ErrInvalid, "register with the guard: nothing is registered")
	}
	return nil
}

func failureOf(err error) failure { return failure{dataset.KindOf(err).Code, dataset.OneLine(err)} }

func (f failure) err() error { return dataset.Errorf(dataset.KindByCode(f.Code), "%s", f.Text) }
