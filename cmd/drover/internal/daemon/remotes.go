package daemon

import (
	"crypto/tls"
	"fmt"
	"log"
	"net"
	"path/filepath"

	"github.com/droverhq/drover/agent/remoteserver"
	"github.com/droverhq/drover/control/api/server"
)

// maxRemotes bounds the connections of other clusters. A run of restic has up to five.
const maxRemotes = 256

// remotes returns the endpoint at which other clusters use repositories; none if the options have no address for it.
func (p *process) remotes(records remoteserver.Records) ([]endpoint, error) {
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
	s := server.New(remoteserver.New(remoteserver.Deps{Records: records, Clock: p.clock, Log: p.Log}))
	s.ErrorLog = log.New(quietLog{p.Log}, "", 0)
	return []endpoint{{"remotes", tls.NewListener(p.limited("remotes", l, maxRemotes, nil), authority.TLS()), s}}, nil
}
