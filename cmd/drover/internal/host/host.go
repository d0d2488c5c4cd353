// Package host runs everything of Drover that one host needs in one process:
// the store, the control service, the agent, the API and the plugin. It is what
// drover serve does.
package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/plugin"
)

// Options are what drover serve was told.
type Options struct {
	Root      string
	Run       string
	PluginDir string
	Driver    string
	Metrics   string // loopback address; empty: none
	NodeName  string
	Version   string
	Pools     []agent.PoolConfig
	Labels    map[string]string
	Consul    *consul.Options // where the store is; nil: in a file of Root
	Profiles  func() control.Profiles
	Backends  *backends.Registry
	Log       *logrus.Logger
	// Ready is called once everything is served.
	Ready func()
}

func (o Options) panicked(request string, value any, stack []byte) {
	o.Log.WithFields(logrus.Fields{"request": request, "panic": fmt.Sprint(value)}).Errorf("a handler panicked\n%s", stack)
}

// stopTime is what requests in flight have to end when the process is to stop.
const stopTime = 20 * time.Second

// Run serves until ctx ends, then stops in the order that loses nothing: no new
// requests, those in flight end, the agent, control, the stores. Mounts stay.
// It makes nothing before the options are checked.
func Run(ctx context.Context, o Options) (err error) {
	if err := o.Check(); err != nil {
		return err
	}
	if err := makeFolders(o); err != nil {
		return err
	}
	unlock, err := lockRoot(o.Root)
	if err != nil {
		return err
	}
	closers := []func() error{unlock}
	defer func() {
		for i := len(closers) - 1; i >= 0; i-- {
			err = errors.Join(err, closers[i]())
		}
	}()
	sys := clock.System{}
	st, err := openHeld(ctx, o, sys)
	if err != nil {
		return err
	}
	closers = append(closers, st.Close)
	own, err := openStore(ctx, o, "agent.db", bolt.Options{Clock: sys})
	if err != nil {
		return err
	}
	closers = append(closers, own.Close)

	svc := control.New(control.Deps{
		Store: st, StoreName: st.kind, Profiles: o.Profiles, Clock: sys, Version: o.Version,
		Failed: func(what string, err error) { o.Log.WithError(err).Warn("control: " + what) },
	})
	closers = append(closers, func() error { svc.Close(); return nil })

	asked, shut := link(svc)
	closers = append(closers, func() error { shut(); return nil })
	ag, err := agent.New(ctx, agent.Config{
		Root: o.Root, NodeName: o.NodeName, Version: o.Version, Labels: o.Labels, Pools: o.Pools,
		Control: asked, Backends: o.Backends, State: own, Clock: sys, Log: o.Log,
	})
	if err != nil {
		return err
	}
	closers = append(closers, ag.Close)
	if err := ag.Start(ctx); err != nil {
		return err
	}
	metrics := newMetrics(svc, st.figures, o.Version)
	handler := api.Handler(api.Deps{Service: svc, Local: ag, Backup: st.backup, Metrics: metrics, Version: o.Version, Panicked: o.panicked})
	return serve(ctx, o, ag, handler, metrics)
}

// makeFolders makes what must be there. Folders that are there keep their mode.
func makeFolders(o Options) error {
	for _, dir := range []string{o.Root, o.Run, o.PluginDir} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", dir, err)
		}
	}
	return nil
}

// serve answers on all sockets until ctx ends or one of them fails.
func serve(ctx context.Context, o Options, ag *agent.Agent, handler, metrics http.Handler) error {
	l, err := listen(ctx, o)
	if err != nil {
		return err
	}
	failed := make(chan error, 3)
	var stops []func(context.Context) error
	start := func(what string, l net.Listener, srv server) {
		stops = append(stops, srv.Shutdown)
		go func() {
			if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", what, err)
				return
			}
			failed <- nil
		}()
	}
	start("api", l.api, api.NewServer(handler))
	start("plugin", l.plugin, plugin.New(ag, plugin.Options{
		Panicked: o.panicked,
		Unseen: func(call, name string, err error) {
			o.Log.WithError(err).WithFields(logrus.Fields{"call": call, "volume": name}).Warn("the engine does not show why")
		},
	}))
	n := 2
	if l.metrics != nil {
		mux := http.NewServeMux()
		mux.Handle("GET /metrics", metrics)
		start("metrics", l.metrics, api.NewServer(mux))
		n++
	}
	o.Log.WithFields(logrus.Fields{"driver": o.Driver, "api": l.api.Addr().String(), "node": ag.Node()}).Info("drover serves")
	if o.Ready != nil {
		o.Ready()
	}
	select {
	case <-ctx.Done():
		o.Log.Info("stopping; mounts stay")
	case err = <-failed:
		n--
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTime)
	defer cancel()
	for i := len(stops) - 1; i >= 0; i-- {
		err = errors.Join(err, stops[i](stopping))
	}
	for range n {
		err = errors.Join(err, <-failed)
	}
	return err
}

type server interface {
	Serve(net.Listener) error
	Shutdown(context.Context) error
}
