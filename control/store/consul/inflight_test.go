package consul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/clock"
)

// late is a transport that has a connection for a request only when the caller gives up:
// just before that, or just after.
type late struct {
	conn   net.Conn
	before bool
	leave  context.CancelFunc
	gone   chan struct{} // closed when the caller has gone
	open   bool          // the connection, when the request would be written
	ended  bool          // and the request's context
}

func (l *late) RoundTrip(req *http.Request) (*http.Response, error) {
	got := httptrace.ContextClientTrace(req.Context()).GotConn
	if l.before {
		got(httptrace.GotConnInfo{Conn: l.conn})
	}
	l.leave()
	<-l.gone
	if !l.before {
		got(httptrace.GotConnInfo{Conn: l.conn})
	}
	l.open = l.conn.SetDeadline(time.Time{}) == nil
	l.ended = req.Context().Err() != nil
	return nil, errors.New("never sent")
}

// A request whose caller gives up as it gets a connection is sent, and goes on, or is not
// sent: never does one begin that then ends, with its connection.
func TestGivenUpAsItConnects(t *testing.T) {
	for _, before := range []bool{true, false} {
		here, there := net.Pipe()
		ctx, leave := context.WithCancel(t.Context())
		to := &late{conn: here, before: before, leave: leave, gone: make(chan struct{})}
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://consul/v1/txn", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		f := &inflight{ctx: t.Context(), maxTime: time.Minute, silence: silence{clock: clock.System{}}}
		if _, err := f.send(to, req, nil); err == nil {
			t.Error("an answer")
		}
		close(to.gone)
		f.wait()
		if to.open != before || to.ended == before {
			t.Errorf("connected before: %t; its connection is open: %t, its context ended: %t", before, to.open, to.ended)
		}
		here.Close()
		there.Close()
	}
}
