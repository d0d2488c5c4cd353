package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"

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
