package daemon

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/connlimit"
)

const (
	// maxStrangers bounds the connections, on each port, of peers that have shown no certificate of
	// the cluster. One of them lasts for about half a minute at most: ten seconds each for the
	// handshake, the head of a request and its body.
	maxStrangers = 1024
	// maxMetrics bounds the connections for metrics, which want no certificate.
	maxMetrics = 64
)

// network makes the endpoint of the port that o.Listen says. It answers over TLS, as cfg says. known
// returns nil for peers whose connections are not bounded: see connlimit.Listener.
func (p *process) network(what string, cfg *tls.Config, handler http.Handler,
	known func(tls.ConnectionState) error) (endpoint, error) {
	l, err := net.Listen("tcp", p.Listen.Address)
	if err != nil {
		return endpoint{}, fmt.Errorf("listen: %w", err)
	}
	limited := p.limited(what, l, maxStrangers, known)
	s := server.New(handler)
	s.ErrorLog = log.New(quietLog{p.Log}, "", 0)
	s.ConnState = limited.ConnState
	return endpoint{what, tls.NewListener(limited, cfg), s}, nil
}

// limited bounds the connections of strangers.
func (p *process) limited(what string, l net.Listener, most int,
	known func(tls.ConnectionState) error) *connlimit.Listener {
	closed := &closedLog{log: p.Log.WithField("port", what), most: most, clock: p.clock}
	return connlimit.New(l, connlimit.Options{Most: most, Known: known, Closed: closed.add})
}

// quietLog keeps the server's messages about refused peers out of the log, unless that has debug messages:
// anyone can connect.
type quietLog struct{ log *logrus.Logger }

func (q quietLog) Write(b []byte) (int, error) {
	q.log.Debug(string(b))
	return len(b), nil
}

// closedEvery is how often the log says that connections were closed.
const closedEvery = time.Minute

// closedLog logs that connections of strangers were closed, at most once a minute.
type closedLog struct {
	log   logrus.FieldLogger
	most  int
	clock clock.Clock

	mu    sync.Mutex
	count int // since the last line
	next  time.Duration
}

func (c *closedLog) add(from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	now := c.clock.Steady()
	if now < c.next {
		return
	}
	c.log.WithFields(logrus.Fields{"count": c.count, "from": from.String()}).
		Warnf("too many connections of peers without a certificate (limit %d): closed the oldest of the address "+
			"with the most", c.most)
	c.count, c.next = 0, now+closedEvery
}
