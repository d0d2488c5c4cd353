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
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/socket"
)

// Control runs one of a cluster's control replicas until ctx ends. A replica owns no state that other replicas need, so
// any number of them can use one store. While Consul is unreachable, it answers requests with an error that says so. It
// continues when Consul is reachable again. It creates nothing before the options are checked.
func Control(ctx context.Context, o Options) (err error) {
	if err := o.CheckControl(); err != nil {
		return err
	}
	p, err := newProcess(o, controlLock, o.Root, o.Run)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.closeAll()) }()
	pair, err := p.issue()
	if err != nil {
		return err
	}
	st, err := openConsul(o, p.clock)
	if err != nil {
		return err
	}
	p.addCloser(st.Close)
	if err := p.checkStore(ctx, st); err != nil {
		return err
	}
	ctx, unfit := context.WithCancelCause(ctx)
	defer unfit(nil)
	svc := p.control(st, unfit)
	credentials := pki.NewCredentials(pair, p.clock, svc.Revoked)
	p.background(ctx, func(ctx context.Context) { p.renewOwn(ctx, credentials) })
	changes, err := p.audit("audit.log")
	if err != nil {
		return err
	}
	p.background(ctx, func(ctx context.Context) {
		boundMemory(ctx, p.clock, nil, func() { releaseMemory(nil, p.Log) })
	})
	page := p.metrics(MetricsOptions{
		Source: svc, Store: st.figures, Certificate: expiryOf(credentials), Exports: svc.Exports.States,
	})
	handler := server.Handler(server.Deps{
		Service: svc, Members: svc, CheckCollecting: svc.CheckCollecting, Metrics: page, Version: o.Version,
		Panicked: o.panicked, Log: o.Log, Audit: changes.Keep,
		Peer: credentials.VerifyPeer, Served: p.recorder.Request,
	})
	list, err := p.controlEndpoints(ctx, credentials, handler, page)
	if err != nil {
		return err
	}
	err = p.serve(ctx, list, logrus.Fields{"replica": o.NodeName})
	if cause := context.Cause(ctx); errors.Is(cause, dataset.ErrForbidden) {
		err = errors.Join(cause, err)
	}
	return err
}

// controlEndpoints returns the endpoints for agents, operators, and root on this host.
func (p *process) controlEndpoints(ctx context.Context, credentials *pki.Credentials, handler,
	page http.Handler) (list []endpoint, err error) {
	defer func() {
		if err != nil {
			err = errors.Join(err, closeEndpoints(list))
		}
	}()
	local, err := take(ctx, socket.FromSystemd(), "control", p.controlSocket())
	if err != nil {
		return nil, err
	}
	list = append(list, endpoint{"api", local, server.New(handler)})
	network, err := p.network("network", credentials.UnverifiedServer(), handler, func(cs tls.ConnectionState) error {
		_, err := credentials.VerifyPeer(cs)
		return err
	})
	if err != nil {
		return list, err
	}
	list = append(list, network)
	m, err := listenMetrics(p.Options)
	return append(list, p.metricsEndpoint(m, page)...), err
}

func closeEndpoints(list []endpoint) error {
	var errs []error
	for _, e := range list {
		if err := e.Close(); !errors.Is(err, net.ErrClosed) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// checkTime is how long the start waits for Consul before it regards Consul as unreachable.
const checkTime = 5 * time.Second

// checkStore fails if the store cannot be used for a reason that persists until an operator acts. If the store does not
// answer, checkStore returns nil, and control serves while awaitStore waits for the store.
func (p *process) checkStore(ctx context.Context, st openedStore) error {
	cctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	err := st.check(cctx)
	if err == nil {
		err = membership.CheckCompatible(cctx, st, p.replica())
	}
	if err != nil && ctx.Err() == nil && (cctx.Err() != nil || isTransient(err)) {
		p.Log.WithError(err).Error("the store does not respond; control keeps serving and reconnects")
		p.background(ctx, func(ctx context.Context) { p.awaitStore(ctx, st) })
		return nil
	}
	return err
}

func isTransient(err error) bool {
	return dataset.KindOf(err) == dataset.ErrUnavailable && !errors.Is(err, store.ErrClosed)
}

// checkInterval is the interval at which an unreachable store is checked. The result is used only for the log.
const checkInterval = 5 * time.Second

// awaitStore waits until the store answers, and logs that it can be used or why it cannot.
func (p *process) awaitStore(ctx context.Context, st openedStore) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.clock.After(checkInterval):
		}
		err := st.check(ctx)
		switch {
		case ctx.Err() != nil:
			return
		case err == nil:
			p.Log.Info("the store responds")
			return
		case !isTransient(err):
			p.Log.WithError(err).Error("the store responds but cannot be used")
			return
		}
	}
}

// issue makes this replica's certificate. The process has the authority, so it needs no certificate from elsewhere.
func (p *process) issue() (*pki.Pair, error) {
	ca, err := pki.Load(p.CA)
	if err != nil {
		return nil, err
	}
	return ca.Issue(pki.Identity{Cluster: ca.Cluster(), Kind: pki.Control, Name: p.NodeName}, p.clock.Now())
}

// renewEvery is how often a replica renews its certificate. This is also how soon it uses a rotated authority.
const renewEvery = time.Minute

func (p *process) renewOwn(ctx context.Context, c *pki.Credentials) {
	for logged := ""; ; {
		select {
		case <-ctx.Done():
			return
		case <-p.clock.After(renewEvery):
		}
		pair, err := p.issue()
		if err == nil {
			c.Set(pair)
			logged = ""
		} else if logged != err.Error() {
			logged = err.Error()
			p.Log.WithError(err).Error("cannot renew control's certificate; keeping the previous one")
		}
	}
}

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
	ag, err := p.agent(ctx, client, membership.Identity().Node, credentials, membership.Findings)
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
