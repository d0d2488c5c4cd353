package daemon

import (
	"context"
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"path/filepath"

	"github.com/droverhq/drover/agent/remoteserver"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/server"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/connlimit"
)

// maxRemotes bounds the connections of clients that have not presented a valid token. maxOfGrant bounds the connections
// with the token of one grant. A run of restic has up to five. Further connections with the token count as those of
// clients without one.
const (
	maxRemotes = 256
	maxOfGrant = 64
)

// remotes returns the endpoint at which other clusters use repositories; none if the options have no address for it.
// It also starts the server's work in the background.
func (p *process) remotes(ctx context.Context, records remoteserver.Records) ([]endpoint, error) {
	if p.Remotes == nil {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(p.Remotes.Advertise)
	if err != nil {
		return nil, fmt.Errorf("remotes: %w", err)
	}
	authority, err := remoteserver.OpenAuthority(filepath.Join(p.Root, "remotes"), host, p.clock)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", p.Remotes.Address)
	if err != nil {
		return nil, fmt.Errorf("remotes: %w", err)
	}
	remotes := remoteserver.New(remoteserver.Deps{
		Records: records,
		Clock:   p.clock,
		Log:     p.Log,
		ID:      authority.ID(),
		Admit:   func(ctx context.Context, grant string) { connlimit.Admit(ctx, grant, maxOfGrant) },
	})
	p.remoteServer = remotes
	p.background(ctx, remotes.Run)
	s := server.New(remotes)
	s.ErrorLog = log.New(quietLog{p.Log}, "", 0)
	limited := p.limited("remotes", l, maxRemotes, "clients without a valid token", nil)
	s.ConnContext = limited.ConnContext
	return []endpoint{{"remotes", tls.NewListener(limited, authority.TLS()), s}}, nil
}

// withUses is a service that adds to the grants what this host knows of their use.
type withUses struct {
	api.Service
	process *process
}

// Grants lists the grants.
func (w withUses) Grants(ctx context.Context) ([]dataset.Grant, error) {
	list, err := w.Service.Grants(ctx)
	if err == nil && w.process.remoteServer != nil {
		list = w.process.remoteServer.WithUses(list)
	}
	return list, err
}
