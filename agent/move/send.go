package move

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/requestid"
)

// Sum returns the manifest of a snapshot that a pool sends as a difference to base, or as a whole if base is uuid.Nil.
// It reads all of the stream, writes the bytes to seen, and sends nothing.
func Sum(ctx context.Context, pool backends.Pool, s dataset.Snapshot, base uuid.UUID,
	seen io.Writer) (dataset.Manifest, error) {
	sender, ok := pool.(backends.Sender)
	if !ok {
		return dataset.Manifest{}, dataset.Errorf(dataset.ErrUnsupported,
			"the pool of dataset %s sends no snapshots", s.Dataset)
	}
	sent, err := sender.Send(ctx, dataset.Source{Dataset: s.Dataset, Snapshot: s.ID}, base, 0, seen, nil)
	if err != nil {
		return dataset.Manifest{}, err
	}
	return manifest(s, sent), nil
}

func manifest(s dataset.Snapshot, sent backends.Stream) dataset.Manifest {
	return dataset.Manifest{
		Snapshot:  s.ID,
		Base:      sent.Base,
		Bytes:     sent.Bytes,
		SHA256:    sent.Sum,
		Taken:     s.Created,
		OrderTime: s.OrderTime,
	}
}

func (s *Server) stream(w http.ResponseWriter, r *request) error {
	snapshot, err := parseID("snapshot", r.PathValue("snapshot"))
	if err != nil {
		return err
	}
	var base uuid.UUID
	q := r.URL.Query()
	if text := q.Get("base"); text != "" {
		if base, err = parseID("snapshot", text); err != nil {
			return err
		}
	}
	var from int64
	if text := q.Get("from"); text != "" {
		if from, err = strconv.ParseInt(text, 10, 64); err != nil || from < 0 {
			return dataset.Errorf(dataset.ErrInvalid, "from %q: expected a number of bytes", dataset.Clip(text))
		}
	}
	pool, err := s.Source.Pool(r.Context(), r.dataset)
	if err != nil {
		return err
	}
	sender, ok := pool.(backends.Sender)
	if !ok {
		return dataset.Errorf(dataset.ErrUnsupported,
			"the pool of dataset %s sends no snapshots, only files", r.dataset)
	}
	return s.Source.GuardSpace(r.Context(), pool, r.dataset, func(ctx context.Context) error {
		defer s.markInUse(r.dataset, snapshot, base)()
		return s.send(ctx, w, r, func(ctx context.Context, w io.Writer) (any, error) {
			sent, err := sender.Send(ctx, dataset.Source{Dataset: r.dataset, Snapshot: snapshot}, base, from, w, nil)
			if err == nil {
				s.recordSent(r, snapshot, sent)
			}
			return sent, err
		})
	})
}

// lastWriteTime is how long a peer may delay the end of a transfer that is to end.
const lastWriteTime = time.Second

// send calls write, and answers with frames that contain the bytes of its output. The last frame contains the result of
// write. If write fails before the first frame, the answer is an ordinary error. ctx is derived from the context of the
// request. If only ctx ends, the answer contains its cause.
func (s *Server) send(ctx context.Context, w http.ResponseWriter, r *request,
	write func(context.Context, io.Writer) (any, error)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	w.Header().Set(framesHeader, strconv.Itoa(framesVersion))
	out := &limitedWriter{ctx: ctx, w: w, control: http.NewResponseController(w), limit: s.Limit, idle: s.idle()}
	frames := &frameWriter{w: out, now: func() int64 { return int64(s.Clock.Steady()) }}
	endWatch := s.watch(ctx, r, frames, cancel)
	ended := make(chan struct{}) // the deadline must not be set after the answer
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = out.control.SetWriteDeadline(clock.Deadline(lastWriteTime))
	})
	pipe := writeBehind(frames)
	sent, err := write(ctx, pipe)
	if pErr := pipe.close(); err == nil {
		err = pErr
	}
	if !stop() {
		<-ended
	}
	if r.Context().Err() == nil && ctx.Err() != nil {
		sent, err = nil, context.Cause(ctx)
	}
	cancel(nil)
	endWatch()
	if err != nil && frames.count() == 0 {
		return err
	}
	if out.err == nil {
		out.err = context.Cause(r.Context())
	}
	if out.err != nil {
		// The peer closed the connection or is too slow. Its own log reports that.
		s.log(r).WithError(out.err).Info("a transfer to another node was interrupted")
		return nil
	}
	out.ctx = r.Context()
	if err != nil {
		s.log(r).WithError(err).Debug("a transfer to another node failed") // the peer gets the error, and logs it
	}
	if stream, ok := sent.(backends.Stream); ok && err == nil {
		level := logrus.DebugLevel
		if requestid.Of(ctx) != "" { // it is not background work
			level = logrus.InfoLevel
		}
		s.log(r).WithField("bytes", stream.Bytes).Log(level, "sent data to another node")
	}
	_ = frames.end(sent, err) // the other side notices that the end is missing
	return nil
}

// watch runs beside a transfer. While no frame is written, it regularly sends a keep-alive frame. It also checks
// regularly that the peer may still have the data (mayContinue). If the peer may not, watch calls cut with the reason
// to end the transfer.
func (s *Server) watch(ctx context.Context, r *request, frames *frameWriter, cut func(error)) (endWatch func()) {
	var owner sync.WaitGroup
	stop := make(chan struct{})
	owner.Go(func() {
		last := frames.count()
		for {
			select {
			case <-ctx.Done():
				return
			case <-stop:
				return
			case <-s.Clock.After(s.idle() / 4):
			}
			if err := s.mayContinue(ctx, r); err != nil {
				cut(err)
				return
			}
			if n := frames.count(); n != last {
				last = n
			} else if frames.alive() != nil {
				return
			} else {
				last++
			}
		}
	})
	return func() {
		close(stop)
		owner.Wait()
	}
}

// mayContinue returns an error if a transfer that is running must end: the certificate of the peer has expired or was
// revoked (Server.Peer), or the peer may not have the dataset any more (Source.Authorize), because its copy was removed
// or its move has ended. A slow peer can extend a transfer for as long as it likes, so the checks at the start of the
// request are not sufficient.
//
// Only ErrForbidden of Authorize ends a transfer. While control is unreachable, its other errors show nothing about the
// rights of the peer, and replication continues.
func (s *Server) mayContinue(ctx context.Context, r *request) error {
	if peer, err := s.Peer(r.Request); err != nil || peer != r.peer {
		return cmp.Or(err, dataset.Errorf(dataset.ErrForbidden, "node %s has a newer incarnation", r.peer))
	}
	ctx, cancel := context.WithTimeout(ctx, s.idle()/4) // the peer waits for the next keep-alive frame
	defer cancel()
	if err := s.Source.Authorize(ctx, r.peer, r.dataset); errors.Is(err, dataset.ErrForbidden) {
		return err
	}
	return nil
}

// limitedWriter writes an answer, no faster than the limit, to a peer that must accept it in time.
type limitedWriter struct {
	ctx     context.Context
	w       io.Writer
	control *http.ResponseController
	limit   *Limiter
	idle    time.Duration
	err     error // the first failure to send to the peer
}

func (b *limitedWriter) Write(p []byte) (int, error) {
	done := 0
	for done < len(p) {
		part := p[done:][:b.limit.piece(len(p)-done)]
		if err := b.limit.wait(b.ctx, len(part)); err != nil {
			return done, err
		}
		if err := b.control.SetWriteDeadline(clock.Deadline(b.idle)); err != nil &&
			!errors.Is(err, http.ErrNotSupported) {
			return done, b.fail(err)
		}
		if b.ctx.Err() != nil { // the deadline may have replaced that of the end
			return done, context.Cause(b.ctx)
		}
		n, err := b.w.Write(part)
		done += n
		if err != nil {
			return done, b.fail(err)
		}
	}
	return done, nil
}

func (b *limitedWriter) Flush() error {
	if err := b.control.Flush(); err != nil {
		return b.fail(err)
	}
	return nil
}

func (b *limitedWriter) fail(err error) error {
	b.err = fmt.Errorf("it accepts no data: %w", err)
	return b.err
}
