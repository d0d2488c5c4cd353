package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/socket"
)

// sockets are what the host answers on.
type sockets struct {
	api, plugin net.Listener
	metrics     net.Listener // nil: none
}

// listen takes the sockets that systemd handed over, by the names of their
// units' FileDescriptorName= or by their paths, and makes the others.
func listen(ctx context.Context, o Options) (s sockets, err error) {
	handed := socket.FromSystemd()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.api, err = take(ctx, handed, "api", filepath.Join(o.Run, "drover.sock")); err != nil {
		return s, err
	}
	if s.plugin, err = take(ctx, handed, "plugin", filepath.Join(o.PluginDir, o.Driver+".sock")); err != nil {
		return s, err
	}
	if o.Metrics != "" {
		s.metrics, err = loopback(o.Metrics)
	}
	return s, err
}

func take(ctx context.Context, handed *socket.Handed, name, path string) (net.Listener, error) {
	l, err := handed.Take(name, path)
	if l != nil || err != nil {
		return l, err
	}
	made, err := socket.Listen(ctx, path, "drover")
	if err != nil {
		return nil, err
	}
	return made, nil
}

// loopback listens on a TCP address that nobody off this host can reach: what is
// answered there is plain.
func loopback(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
		return nil, dataset.Errorf(dataset.ErrInvalid, "metrics-listen %q: want a loopback address and a port, such as 127.0.0.1:9469", address)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("metrics-listen: %w", err)
	}
	return l, nil
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
