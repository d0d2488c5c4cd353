package daemon

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/socket"
)

// sockets contains the listening sockets of the host.
type sockets struct {
	api, plugin net.Listener
	metrics     net.Listener // nil if there are no metrics
}

// listen uses the sockets that systemd passed. It finds them by FileDescriptorName= of their units or by their paths.
// It creates the other sockets.
func listen(ctx context.Context, o Options) (s sockets, err error) {
	handed := socket.FromSystemd()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.api, err = take(ctx, handed, "api", o.apiSocket()); err != nil {
		return s, err
	}
	if s.plugin, err = take(ctx, handed, "plugin", o.pluginSocket()); err != nil {
		return s, err
	}
	s.metrics, err = listenMetrics(o)
	return s, err
}

// listenMetrics returns nil if the options name no address for metrics.
func listenMetrics(o Options) (net.Listener, error) {
	if o.Metrics == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", o.Metrics)
	if err != nil {
		return nil, fmt.Errorf("metrics-listen: %w", err)
	}
	return l, nil
}

func take(ctx context.Context, handed *socket.PassedSockets, name, path string) (net.Listener, error) {
	l, err := handed.Take(name, path)
	if l != nil || err != nil {
		return l, err
	}
	created, err := socket.Listen(ctx, path, "drover")
	if err != nil {
		return nil, err
	}
	return created, nil
}

func (s sockets) close() error {
	var errs []error
	for _, l := range []net.Listener{s.api, s.plugin, s.metrics} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

const (
	// maxAnonymous bounds the connections, on each port, of peers that have not presented a certificate of the cluster.
	// Such a connection lasts about half a minute at most: ten seconds each for the handshake, the head of a request,
	// and its body.
	maxAnonymous = 1024
	// maxMetrics bounds the connections for metrics, which need no certificate.
	maxMetrics = 64
)

// network makes the endpoint for the address in o.Listen. It uses TLS with cfg. known returns nil for peers whose
// connections are not bounded: see socket.Limiter.
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
	known func(tls.ConnectionState) error) *socket.Limiter {
	closed := &closedLog{log: p.Log.WithField("port", name), who: who, limit: limit, clock: p.clock}
	return socket.NewLimiter(l, socket.LimitOptions{Max: limit, CheckPeer: known, OnClosed: closed.add})
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

// introduction begins docs/metrics.md.
const introduction = `# Metrics

Every process of Drover serves metrics in Prometheus' text format, at ` + "`/metrics`" + ` of its socket and, with
` + "`--metrics-listen 127.0.0.1:9469`" + `, on a loopback address. [Alerts](operations.md#alerts) describes how to use
them. This page is generated from the code: ` + "`go test ./cmd/drover/internal/daemon -update`" + ` writes it.

The column *process* says where a metric is found: *agent* (` + "`drover agent`" + `),
*control* (` + "`drover control`" + `) or both. ` + "`drover serve`" + ` has all of them.
A counter only grows, until the process restarts. A histogram has the series ` + "`_bucket`, `_sum` and `_count`" + `.
Go's and the process's own metrics (` + "`go_…`, `process_…`" + `) come with them.
If a part cannot be read, for instance because the store does not answer, the response lacks it, and
` + "`promhttp_metric_handler_errors_total{cause=\"gathering\"}`" + ` counts the request.

Metrics with the label ` + "`volume`" + ` have a series for each volume that is or was mounted. Switch them off in
drover.yaml if a host has more volumes than your Prometheus should store:

` + "```yaml" + `
metrics:
  volumes: false
` + "```" + `

| metric | type | unit | labels | process | meaning |
|---|---|---|---|---|---|
`

// Markdown returns the page docs/metrics.md. Only a test of this package needs it: go test -update writes the page.
func Markdown() string {
	var b strings.Builder
	b.WriteString(introduction)
	for _, f := range Families() {
		unit, labels := cmp.Or(f.unit, "–"), "–"
		if len(f.labels) > 0 {
			labels = "`" + strings.Join(f.labels, "`, `") + "`"
		}
		process := f.on
		if process == onAll {
			process = "agent, control"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s | %s | %s |\n", f.name, f.kind, unit, labels, process, f.help)
	}
	return b.String()
}

// Families returns all metrics, by name.
func Families() []*Family {
	return slices.SortedFunc(slices.Values(catalog), func(a, b *Family) int { return cmp.Compare(a.name, b.name) })
}
