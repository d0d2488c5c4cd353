// Package daemon runs Drover's processes. Serve runs everything that a single host needs: the store, the control
// service, the agent, the API and the plugin. Control runs a replica of a cluster's control service, and Agent runs a
// host of a cluster. The commands serve, control, agent and guard read their Options from the flags and drover.yaml.
// The package also has the metrics, the log, the files of exports, and the labels of a Swarm node.
//
// A process owns the files of Options.Root, its sockets and its stores. Locks on two files in the root ensure that at
// most one process with an agent (Serve or Agent) and at most one control replica use the root at a time (lockRoot).
// The shared state in memory is the loaded profiles (profilesFile), the counts and durations (Recorder), the last look
// at the engine (Watcher), the locks of repositories that were seen (exportStorer), the connection to syslog
// (syslogWriter) and the number of closed connections that were not logged yet (closedLog). Each of them protects
// itself.
//
// OpenUnserved opens the store for commands that run without a server (package nodes). Where to change what: Options
// and Serve are in host.go, Control and Agent in replica.go, and the checks of Options in config.go. The stores are
// opened in stores.go, and the sockets in sockets.go. A metric is declared in metrics.go and filled in by
// collector.go. Durations are recorded in recorder.go, and NewMetrics registers their histograms. The agent reports
// its work through a function of agent.Config, such as OperationEnded.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/agent/throttle"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard"
	"github.com/droverhq/drover/internal/config"
	"github.com/droverhq/drover/internal/failurelog"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/requestid"
	"github.com/droverhq/drover/plugin"
)

// Options are the settings of a process.
type Options struct {
	Root         string
	Run          string
	PluginDir    string // Control does not use PluginDir, Driver and the settings of a node
	Driver       string
	Metrics      string // loopback address; if empty, there are no metrics
	NodeName     string // of a control replica, the name of the replica
	Version      string
	Pools        []pool.Config
	Labels       map[string]string
	TransferRate dataset.Size // bytes a second between hosts; if 0, there is no limit
	// FencePrograms are the programs that profiles and repositories may name. If nil, the process may run any program
	// that only root can change. Control runs only the password programs of repositories.
	FencePrograms []string
	Freezer       []string // command line that freezes a filesystem for a snapshot: see agent.Config
	CgroupParents []string // groups below which the engine puts containers; if nil, the usual ones
	ListAll       bool     // the engine's list shows the volumes of all hosts
	// HideVolumeMetrics leaves out the metrics with a series for each volume.
	HideVolumeMetrics bool
	Consul            *consul.Options // where the store is; if nil, it is in a file in Root
	Profiles          func() control.Profiles
	Reread            <-chan struct{} // of Serve: receives after Profiles has changed; if nil, Profiles never changes
	// ProfileFindings returns why the last reload of the profiles failed. If nil, they are not reloaded.
	ProfileFindings func() []api.Finding
	Backends        *backends.Registry
	Log             *logrus.Logger

	CA            string            // of Control: the folder of the cluster's certificate authority
	Listen        *config.Listen    // of Control and Agent: for requests from the network
	Replicas      []string          // of Agent: the addresses of control, HOST:PORT
	Publish       []string          // config.PublishSwarm (of a host), config.PublishConsul (of Control)
	ControlTiming membership.Timing // of Serve and Control: their time limits
	AgentTiming   agent.Timing      // of Serve and Agent: the agent's time limits
	Join          string            // of Agent: a token to join the cluster; empty if the host has joined
	// Ready is called once all sockets are served.
	Ready func()
}

func (o Options) panicked(ctx context.Context, call string, value any, stack []byte) {
	requestid.Log(ctx, o.Log).WithFields(logrus.Fields{"what": call, "panic": fmt.Sprint(value)}).
		Errorf("a handler panicked\n%s", stack)
}

// logCall logs a call of the engine that has ended. A Get of a volume that does not exist is no failure: the engine
// asks before it creates a volume.
func (o Options) logCall(ctx context.Context, c plugin.Call) {
	level := failurelog.LevelOf(c.Err)
	if c.Name == "Get" && errors.Is(c.Err, dataset.ErrNotFound) {
		level = logrus.DebugLevel
	}
	if !o.Log.IsLevelEnabled(level) {
		return
	}
	log := requestid.Log(ctx, o.Log).WithField("what", c.Name)
	if c.Volume != "" {
		log = log.WithField("volume", dataset.Clip(c.Volume))
	}
	if c.Err != nil {
		log = log.WithField("error", dataset.OneLine(c.Err))
	}
	log.Log(level, "call of the engine "+failurelog.Outcome(c.Err))
}

// Serve runs a single host until ctx ends. Then it stops in an order that loses no work: it accepts no new requests,
// waits for those in progress, and stops the agent, control and the stores. Mounts stay. It creates nothing before the
// options are checked.
func Serve(ctx context.Context, o Options) (err error) {
	if err := o.CheckServe(); err != nil {
		return err
	}
	p, err := newProcess(o, hostLock, o.Root, o.Run, o.PluginDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.closeAll()) }()
	st, err := openHostStore(ctx, o, p.clock)
	if err != nil {
		return err
	}
	p.addCloser(st.Close)
	if file, ok := st.Store.(mappedFile); ok {
		p.mapped = append(p.mapped, file)
	}
	svc := p.control(st, nil)
	changes, err := p.audit("audit.log")
	if err != nil {
		return err
	}
	ag, err := p.agent(ctx, server.Audited(svc, changes.Keep), uuid.Nil, nil, func(l *condition.List) {
		if p.ProfileFindings != nil {
			*l = append(*l, p.ProfileFindings()...)
		}
	})
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
	page := p.metrics(MetricsOptions{Source: svc, Agent: ag, Store: st.figures, Exports: svc.Exports.States})
	handler := server.Handler(server.Deps{
		Service:  ag.LiveState(svc),
		Node:     ag.NodeName,
		Local:    ag,
		Backup:   st.backup,
		Metrics:  page,
		Version:  o.Version,
		Panicked: o.panicked,
		Log:      o.Log,
		Audit:    changes.Keep,
		Served:   p.recorder.Request,
	})
	list, err := p.hostEndpoints(ctx, ag, handler, page)
	if err != nil {
		return err
	}
	return p.serve(ctx, list, logrus.Fields{"driver": o.Driver, "node": ag.Node()})
}

// hostEndpoints returns the endpoints for the engine and the users of a host. It also starts boundMemory, which adjusts
// the memory limit to the number of volumes of the host, and releases memory.
func (p *process) hostEndpoints(ctx context.Context, ag *agent.Agent, handler, page http.Handler) ([]endpoint, error) {
	l, err := listen(ctx, p.Options)
	if err != nil {
		return nil, err
	}
	release := func() { releaseMemory(p.mapped, p.Log) }
	p.background(ctx, func(ctx context.Context) { boundMemory(ctx, p.clock, ag.Cache.Len, release) })
	list := []endpoint{
		{"api", l.api, server.New(handler)},
		{"plugin", l.plugin, plugin.New(ag, plugin.Options{
			Global:   len(p.Replicas) > 0,
			Panicked: p.panicked,
			Called: func(ctx context.Context, c plugin.Call) {
				p.recorder.PluginCall(c.Name, c.Err, c.Took)
				p.logCall(ctx, c)
			},
		})},
	}
	return append(list, p.metricsEndpoint(l.metrics, page)...), nil
}

func (p *process) metrics(o MetricsOptions) http.Handler {
	o.Version, o.HideVolumes, o.Recorder = p.Version, p.HideVolumeMetrics, p.recorder
	return NewMetrics(o)
}

func (p *process) metricsEndpoint(l net.Listener, page http.Handler) []endpoint {
	if l == nil {
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", page)
	return []endpoint{{"metrics", p.limited("metrics", l, maxMetrics, "readers of the metrics", nil), server.New(mux)}}
}

// replica describes this control replica to the other ones.
func (p *process) replica() membership.Replica {
	r := membership.Replica{Name: p.NodeName, Version: p.Version}
	if p.Listen != nil {
		r.Address = p.Listen.Advertise
	}
	return r
}

// control makes the control service, which ends with the process. If this replica cannot work together with the other
// replicas, it calls unfit with the reason, which is a dataset.ErrForbidden. unfit may be nil.
func (p *process) control(st openedStore, unfit func(error)) *control.Service {
	svc := control.New(control.Deps{
		Store: TimeStore(st.Store, st.kind, p.recorder), StoreName: st.kind, Authority: p.authority(),
		Shared: p.Consul != nil, Replica: p.replica(),
		Timing: p.ControlTiming, Profiles: p.Profiles, Clock: p.clock, Version: p.Version, Incompatible: unfit,
		Catalog: st.catalog, PublishFacts: slices.Contains(p.Publish, config.PublishConsul),
		Failed:   func(what string, err error) { p.Log.WithError(err).Warn("control: " + what) },
		Findings: p.ProfileFindings, ExportTo: newExportStorer(p),
	})
	p.addCloser(func() error { svc.Close(); return nil })
	return svc
}

// authority returns a function that loads the cluster's authority. It reads the files at each call, because the
// authority may be rotated. If there is no authority, it returns nil.
func (p *process) authority() func() (*pki.Authority, error) {
	if p.CA == "" {
		return nil
	}
	return func() (*pki.Authority, error) { return pki.Load(p.CA) }
}

// agent makes the agent with its store. Both end with the process. If identity is uuid.Nil, the agent creates an
// identity. credentials are for connections to the agents of other nodes. If nil, there are none.
func (p *process) agent(ctx context.Context, controlAPI api.Service, identity uuid.UUID,
	credentials *pki.Credentials, checks ...func(*condition.List)) (*agent.Agent, error) {
	database, err := openStore(ctx, p.Options, "agent.db", bolt.Options{Clock: p.clock})
	if err != nil {
		return nil, err
	}
	p.addCloser(database.Close)
	p.mapped = append(p.mapped, database)
	engine := &Watcher{Clock: p.clock, Log: p.Log}
	if slices.Contains(p.Publish, config.PublishSwarm) {
		engine.Nodes = func(ctx context.Context) ([]api.Node, error) { return controlAPI.NodeList(ctx, "") }
	}
	engine.ReadVersion(ctx)
	p.background(ctx, engine.Run)
	cfg := agent.Config{
		Root: p.Root, Identity: identity, NodeName: p.NodeName, Version: p.Version, Labels: p.Labels,
		Pools: p.Pools, TransferRate: p.TransferRate,
		Freezer: p.Freezer, FencePrograms: p.FencePrograms, ListAll: p.ListAll,
		Cgroups: throttle.Cgroups{Parents: p.CgroupParents},
		Control: controlAPI, Backends: p.Backends, State: database, Clock: p.clock, Log: p.Log,
		Engine: engine.Engine, Timing: p.AgentTiming, Checks: checks, OperationEnded: p.recorder.Operation,
	}
	if credentials != nil {
		// Each transfer has a connection with HTTP/1, because the windows of HTTP/2 are too small for connections with
		// a long delay.
		peers := &http.Transport{
			TLSClientConfig: credentials.Client(pki.Node), TLSHandshakeTimeout: 10 * time.Second,
			IdleConnTimeout: time.Minute, DialContext: (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		}
		p.addCloser(func() error { peers.CloseIdleConnections(); return nil })
		cfg.PeerHTTP, cfg.PeerID = peers, peerID(credentials)
		// Only a host of a cluster needs the guard: on a single host, no other host can take over.
		g, err := guard.NewAgentClient(guard.SocketPath(p.Run))
		if err != nil {
			return nil, err
		}
		cfg.Guard = g
	}
	if p.Listen != nil {
		cfg.Address = p.Listen.Advertise
	}
	ag, err := agent.New(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p.recorder.ExposeOperations(ag.Kinds())
	p.addCloser(ag.Close)
	return ag, nil
}
