package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Agent runs one host of a cluster until ctx ends. It starts even if control is unreachable, unless it must join the
// cluster first. Until control is reachable, it does only the work that does not need control. Mounts stay. It creates
// nothing before the options are checked.
func Agent(ctx context.Context, o Options) (err error) {
	if err := o.CheckAgent(); err != nil {
		return err
	}
	p, err := newProcess(o, hostLock, o.Root, o.Run, o.PluginDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.closeAll()) }()
	membership, err := p.member(ctx)
	if err != nil {
		return err
	}
	credentials := membership.Credentials()
	client, err := client.NewTLS("https://"+strings.Join(o.Replicas, ",https://"), credentials.Client(pki.Control))
	if err != nil {
		return err
	}
	client.SetVersion(o.Version)
	client.SetObserver(p.recorder.ControlRequest)
	p.addCloser(func() error { client.Close(); return nil })
	p.background(ctx, func(ctx context.Context) {
		membership.Keep(ctx, client, func(err error) { o.Log.WithError(err).Error("this host's certificate") })
	})
	p.NodeName = membership.Identity().Name // the name under which control registered the node
	ag, err := p.agent(ctx, client, membership.Identity().Node, credentials, func(l *host.List) {
		l.All = append(l.All, membership.Findings()...)
	})
	if err != nil {
		return err
	}
	if id := membership.Identity(); ag.Node() != id.Node {
		return dataset.Errorf(dataset.ErrInvalid,
			"%s: the certificate is for node %s, and this is node %s (create a token with drover node token "+
				"--name NAME, and join again with an empty %s)", p.tlsDir(), id.Node, ag.Node(), p.tlsDir())
	}
	changes, err := p.audit("agent-audit.log")
	if err != nil {
		return err
	}
	if err := ag.Start(ctx); err != nil {
		return err
	}
	page := p.metrics(MetricsOptions{Source: hostView{ag}, Agent: ag, Certificate: expiryOf(credentials)})
	handler := server.Handler(server.Deps{
		Service:  ag.Offline(ag.LiveState(client)),
		Node:     p.NodeName,
		Local:    ag,
		Metrics:  page,
		Version:  o.Version,
		Panicked: o.panicked, Log: o.Log,
		Audit:  changes.Keep,
		Served: p.recorder.Request,
	})
	list, err := p.hostEndpoints(ctx, ag, handler, page)
	if err != nil {
		return err
	}
	if peers := ag.Peers(); peers != nil {
		network, err := p.network("peers", credentials.Server(pki.Node), peers, func(cs tls.ConnectionState) error {
			_, err := credentials.VerifyPeer(cs, pki.Node)
			return err
		})
		if err != nil {
			return errors.Join(err, closeEndpoints(list))
		}
		list = append(list, network)
	}
	return p.serve(ctx, list, logrus.Fields{"driver": o.Driver, "node": ag.Node()})
}

// tlsDir returns the folder of this host's certificate.
func (p *process) tlsDir() string { return filepath.Join(p.Root, "tls") }

// member returns this host's membership of the cluster. If the options have a token, the host joins first.
func (p *process) member(ctx context.Context) (*controlsync.Member, error) {
	if p.Join != "" {
		known, err := controlsync.KnownNode(p.Root)
		if err != nil {
			return nil, err
		}
		pair, err := controlsync.Join(ctx, controlsync.JoinRequest{
			Dir: p.tlsDir(), Replicas: p.Replicas, Token: p.Join, Name: p.NodeName, Node: known, Clock: p.clock,
		})
		if err != nil {
			return nil, err
		}
		p.Log.WithField("node", pair.Identity.String()).Info("this host is a member of the cluster")
	}
	return controlsync.Open(p.tlsDir(), p.clock)
}

// expiryOf returns a function that returns when a certificate expires.
func expiryOf(c *pki.Credentials) func() time.Time {
	return func() time.Time { return c.Pair().Chain[0].NotAfter }
}

// peerTransport connects to the agents of other nodes. Each transfer has a connection with HTTP/1, because the windows
// of HTTP/2 are too small for connections with a long delay.
func peerTransport(c *pki.Credentials) *http.Transport {
	return &http.Transport{
		TLSClientConfig: c.Client(pki.Node), TLSHandshakeTimeout: 10 * time.Second, IdleConnTimeout: time.Minute,
		DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
	}
}

// peerID returns the node that sent a request. It verifies the certificate again, because it may have expired or been
// revoked since the handshake.
func peerID(c *pki.Credentials) func(*http.Request) (uuid.UUID, error) {
	return func(r *http.Request) (uuid.UUID, error) {
		if r.TLS == nil {
			return uuid.Nil, pki.ErrNoCertificate
		}
		id, err := c.VerifyPeer(*r.TLS, pki.Node)
		return id.Node, err
	}
}

// hostView is an agent's view of its host, for metrics.
type hostView struct{ *agent.Agent }

func (s hostView) Pools(ctx context.Context) ([]api.Pool, error) { return s.PoolStates(ctx), nil }
