// Package daemon runs Drover's processes. Serve is everything that one host needs:
// the store, the control service, the agent, the API and the plugin. Control is a
// replica of a cluster's control service, Agent a host of a cluster.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/cmd/drover/internal/swarm"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/plugin"
)

// Options are the settings of a process.
type Options struct {
	Root         string
	Run          string
	PluginDir    string // with Driver and the settings of a node: not of Control
	Driver       string
	Metrics      string // loopback address; empty: none
	NodeName     string // of a control replica: its own
	Version      string
	Pools        []pool.Config
	Labels       map[string]string
	TransferRate dataset.Size // bytes a second between hosts; 0: no limit
	// FencePrograms are the programs that the agent runs for fences; nil: any of root's.
	FencePrograms []string
	CgroupParents []string        // groups below which the engine puts containers; nil: the usual ones
	ListAll       bool            // the engine's list shows the volumes of all hosts
	Consul        *consul.Options // where the store is; nil: in a file of Root
	Profiles      func() control.Profiles
	Reread        <-chan struct{} // of Serve: hears when Profiles has others; nil: it never has
	Backends      *backends.Registry
	Log           *logrus.Logger

	CA       string            // of Control: the folder of the cluster's authority
	Listen   *config.Listen    // of Control and Agent: for requests from the network
	Replicas []string          // of Agent: where control is, HOST:PORT
	Publish  []string          // where facts go: of a host config.PublishSwarm, of Control config.PublishConsul
	Limits   membership.Limits // of Serve and Control: the times that they keep
	Times    agent.Limits      // of Serve and Agent: likewise
	Join     string            // of Agent: a token to join the cluster with; empty: it has
	// Ready is called once everything is served.
	Ready func()
}

func (o Options) panicked(request string, value any, stack []byte) {
	o.Log.WithFields(logrus.Fields{"request": request, "panic": fmt.Sprint(value)}).Errorf("a handler panicked\n%s",
		stack)
}

// Serve runs one host until ctx ends, then stops in the order that loses nothing:
// no new requests, those in flight end, the agent, control, the stores. Mounts
// stay. It makes nothing before the options are checked.
func Serve(ctx context.Context, o Options) (err error) {
	if err := o.CheckServe(); err != nil {
		return err
	}
	p, err := begin(o, hostLock, o.Root, o.Run, o.PluginDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	st, err := openHeld(ctx, o, p.clock)
	if err != nil {
		return err
	}
	p.atEnd(st.Close)
	svc := p.control(st, nil)
	changes, err := p.audit("audit.log")
	if err != nil {
		return err
	}
	asked, shut := link(server.Audited(svc, changes.Keep))
	p.atEnd(func() error { shut(); return nil })
	ag, err := p.agent(ctx, asked, uuid.Nil, nil)
	if err != nil {
		return err
	}
	if err := ag.Start(ctx); err != nil {
		return err
	}
	p.background(ctx, func(ctx context.Context) {
		for {
			select {
			case <-o.Reread:
				ag.WarnOfKeys()
			case <-ctx.Done():
				return
			}
		}
	})
	metrics := newMetrics(svc, st.figures, o.Version)
	handler := server.Handler(server.Deps{
		Service:  svc,
		Local:    ag,
		Backup:   st.backup,
		Metrics:  metrics,
		Version:  o.Version,
		Panicked: o.panicked,
		Audit:    changes.Keep,
	})
	list, err := p.hostEndpoints(ctx, ag, handler, metrics)
	if err != nil {
		return err
	}
	return p.serve(ctx, list, logrus.Fields{"driver": o.Driver, "node": ag.Node()})
}

// hostEndpoints serve the engine and the users of a host.
func (p *process) hostEndpoints(ctx context.Context, ag *agent.Agent, handler, metrics http.Handler) ([]endpoint,
	error) {
	l, err := listen(ctx, p.Options)
	if err != nil {
		return nil, err
	}
	list := []endpoint{
		{"api", l.api, server.New(handler)},
		{"plugin", l.plugin, plugin.New(ag, plugin.Options{
			Global:   len(p.Replicas) > 0,
			Panicked: p.panicked,
			Unseen: func(call, name string, err error) {
				p.Log.WithError(err).WithFields(logrus.Fields{"call": call, "volume": name}).
					Warn("cannot read a process of the engine")
			},
		})},
	}
	return append(list, p.metricsEndpoint(l.metrics, metrics)...), nil
}

func (p *process) metricsEndpoint(l net.Listener, metrics http.Handler) []endpoint {
	if l == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", metrics)
	return []endpoint{{"metrics", p.limited("metrics", l, maxMetrics, nil), server.New(mux)}}
}

// replica is how other control replicas see this one.
func (p *process) replica() membership.Replica {
	r := membership.Replica{Name: p.NodeName, Version: p.Version}
	if p.Listen != nil {
		r.Address = p.Listen.Advertise
	}
	return r
}

// control makes the control service; it ends with the process. unfit hears, where it is not
// nil, why this one cannot work beside others.
func (p *process) control(st held, unfit func(error)) *control.Service {
	svc := control.New(control.Deps{
		Store: st, StoreName: st.kind, Authority: p.authority(), Shared: p.Consul != nil, Replica: p.replica(),
		Limits: p.Limits, Profiles: p.Profiles, Clock: p.clock, Version: p.Version, Unfit: unfit,
		Catalog: st.catalog, PublishFacts: slices.Contains(p.Publish, config.PublishConsul),
		Failed: func(what string, err error) { p.Log.WithError(err).Warn("control: " + what) },
	})
	p.atEnd(func() error { svc.Close(); return nil })
	return svc
}

// authority is the cluster's, read anew each time, as it may be rotated; nil where there
// is none.
func (p *process) authority() func() (*pki.Authority, error) {
	if p.CA == "" {
		return nil
	}
	return func() (*pki.Authority, error) { return pki.Load(p.CA) }
}

// agent makes the agent with its own store; both end with the process. A nil identity:
// it makes one up. Credentials are for other nodes' agents; nil: there are none.
func (p *process) agent(ctx context.Context, asked api.Service, identity uuid.UUID,
	credentials *pki.Credentials) (*agent.Agent, error) {
	own, err := openStore(ctx, p.Options, "agent.db", bolt.Options{Clock: p.clock})
	if err != nil {
		return nil, err
	}
	p.atEnd(own.Close)
	engine := &swarm.Watcher{Clock: p.clock, Log: p.Log}
	if slices.Contains(p.Publish, config.PublishSwarm) {
		engine.Nodes = func(ctx context.Context) ([]api.Node, error) { return asked.NodeList(ctx, "") }
	}
	engine.Begin(ctx)
	p.background(ctx, engine.Run)
	cfg := agent.Config{
		Root: p.Root, Identity: identity, NodeName: p.NodeName, Version: p.Version, Labels: p.Labels,
		Pools: p.Pools, TransferRate: p.TransferRate,
		FencePrograms: p.FencePrograms, ListAll: p.ListAll, Cgroups: throttle.Cgroups{Parents: p.CgroupParents},
		Control: asked, Backends: p.Backends, State: own, Clock: p.clock, Log: p.Log,
		Engine: engine.Engine, Limits: p.Times,
	}
	if credentials != nil {
		peers := peerTransport(credentials)
		p.atEnd(func() error { peers.CloseIdleConnections(); return nil })
		cfg.PeerHTTP, cfg.PeerID = peers, peerID(credentials)
		// Alone there is no other host that could take over.
		g, err := guard.NewAgentClient(guard.SocketPath(p.Run))
		if err != nil {
			return nil, err
		}
		p.atEnd(g.Close)
		cfg.Guard = g
	}
	if p.Listen != nil {
		cfg.Address = p.Listen.Advertise
	}
	ag, err := agent.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p.atEnd(ag.Close)
	return ag, nil
}
