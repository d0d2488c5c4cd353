package host

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
)

// Agent runs one host of a cluster until ctx ends. With control away it starts as
// well, and does what the host can do alone. Mounts stay. It makes nothing before the
// options are checked.
func Agent(ctx context.Context, o Options) (err error) {
	if err := o.CheckAgent(); err != nil {
		return err
	}
	p, err := begin(o, hostLock, o.Root, o.Run, o.PluginDir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.end()) }()
	pair, err := pki.LoadPair(pki.NodeFiles(filepath.Join(o.Root, "tls")))
	if err != nil {
		return err
	}
	credentials := pki.NewCredentials(pair, p.clock, nil)
	client, err := api.NewTLSClient("https://"+strings.Join(o.Replicas, ",https://"), credentials.Client(pki.Control))
	if err != nil {
		return err
	}
	p.atEnd(func() error { client.Close(); return nil })
	ag, err := p.agent(ctx, client, pair.Identity.Node)
	if err != nil {
		return err
	}
	if ag.Node() != pair.Identity.Node {
		return dataset.Errorf(dataset.ErrInvalid, "the certificate in %s is node %s's, and this is node %s (have it join again)", filepath.Join(o.Root, "tls"), pair.Identity.Node, ag.Node())
	}
	if err := ag.Start(ctx); err != nil {
		return err
	}
	metrics := newMetrics(sight{ag}, nil, o.Version)
	handler := api.Handler(api.Deps{Service: client, Local: ag, Metrics: metrics, Version: o.Version, Panicked: o.panicked})
	list, err := p.hostEndpoints(ctx, ag, handler, metrics)
	if err != nil {
		return err
	}
	if peers := ag.Peers(); peers != nil {
		l, err := listenTLS(o.Listen.Address, credentials.Server(pki.Node))
		if err != nil {
			return errors.Join(err, closeAll(list))
		}
		list = append(list, endpoint{"peers", l, p.networkServer(peers)})
	}
	return p.serve(ctx, list, logrus.Fields{"driver": o.Driver, "node": ag.Node()})
}

// sight is what an agent sees, for metrics.
type sight struct{ *agent.Agent }

func (s sight) Pools(ctx context.Context) ([]api.Pool, error) { return s.SeenPools(ctx), nil }
func (s sight) Seen(ctx context.Context) []api.Volume         { return s.SeenVolumes(ctx) }
