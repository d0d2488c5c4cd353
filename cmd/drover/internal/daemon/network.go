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
	// maxAnonymous bounds the connections, on each port, of peers that have not presented a certificate of the cluster.
	// Such a connection lasts about half a minute at most: ten seconds each for the handshake, the head of a request,
	// and its body.
	maxAnonymous = 1024
	// maxMetrics bounds the connections for metrics, which need no certificate.
	maxMetrics = 64
)

// network makes the endpoint for the address in o.Listen. It uses TLS with cfg. known returns nil for peers whose
// connections are not bounded: see connlimit.Listener.
func (p *process) network(name string, cfg *tls.Config, handler http.Handler,
	known func(tls.ConnectionState) error) (endpoint, error) {
	l, err := net.Listen("tcp", p.Listen.Address)
	if err != nil {
		return endpoint{}, fmt.Errorf("listen: %w", err)
	}
	limited := p.limited(name, l, maxAnonymous, "peers without a certificate", known)
	s := server.New(handler)
	s.ErrorLog = log.New(quietLog{p.Log}, "", 0)
	s.ConnState = limited.ConnState
	return endpoint{name, tls.NewListener(limited, cfg), s}, nil
}

// limited returns a listener that limits the number of connections of unknown peers. The log calls these peers who.
func (p *process) limited(name string, l net.Listener, limit int, who string,
	known func(tls.ConnectionState) error) *connlimit.Listener {
	closed := &closedLog{log: p.Log.WithField("port", name), who: who, limit: limit, clock: p.clock}
	return connlimit.New(l, connlimit.Options{Max: limit, CheckPeer: known, OnClosed: closed.add})
}

// quietLog discards the server's messages about refused peers unless the log level is debug, because anybody can
// connect.
type quietLog struct{ log *logrus.Logger }

func (q quietLog) Write(b []byte) (int, error) {
	q.log.Debug(string(b))
	return len(b), nil
}

// closedEvery is the minimum time between two log lines about closed connections.
const closedEvery = time.Minute

// closedLog logs, at most once a minute, that connections of unknown peers were closed.
type closedLog struct {
	log   logrus.FieldLogger
	who   string // the peers
	limit int
	clock clock.Clock

	mu    sync.Mutex
	count int // closed connections since the last line
	next  time.Duration
}

func (c *closedLog) add(from netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.count++
	currentTime := c.clock.Steady()
	if currentTime < c.next {
		return
	}
	c.log.WithFields(logrus.Fields{"count": c.count, "from": from.String()}).
		Warnf("too many connections of %s (limit %d): closed the oldest of the address with the most", c.who, c.limit)
	c.count, c.next = 0, currentTime+closedEvery
}
