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

// late is a transport that has a connection for a request only around the time when the caller gives up: just before
// or just after.
type late struct {
	conn   net.Conn
	before bool
	leave  context.CancelFunc
	gone   chan struct{} // closed after the caller has given up
	open   bool          // reports the connection when the request would be written
	ended  bool          // reports the context of the request
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

// A caller gives up while its request gets a connection. The request is sent and continues, or is not sent. It is
// never begun and then aborted, which would close its connection.
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
