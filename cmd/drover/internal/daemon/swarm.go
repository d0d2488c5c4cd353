package daemon

import (
	"context"
	"errors"
	"maps"
	"strings"
	"sync/atomic"
	"time"

	"github.com/moby/moby/api/types/swarm"
	"github.com/moby/moby/client"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/cmd/drover/internal/engine"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/facts"
)

const (
	interval     = 15 * time.Second // pause between two calls of Update; the agent reports facts once a minute at most
	timeout      = 10 * time.Second // maximum duration of Update
	firstTimeout = time.Second      // maximum duration of ReadVersion, which runs before anything is served
)

// Prefix is the prefix of Drover's labels. Drover owns every label with this prefix.
const Prefix = "drover."

// API is the part of Docker's API that this package uses.
type API interface {
	Info(ctx context.Context, o client.InfoOptions) (client.SystemInfoResult, error)
	NodeList(ctx context.Context, o client.NodeListOptions) (client.NodeListResult, error)
	NodeUpdate(ctx context.Context, id string, o client.NodeUpdateOptions) (client.NodeUpdateResult, error)
	Close() error
}

// Watcher looks at the engine regularly. All methods except Run are safe for concurrent use.
type Watcher struct {
	Clock clock.Clock
	Log   logrus.FieldLogger
	// Nodes returns the nodes whose facts become labels. If nil, there are no labels.
	Nodes func(context.Context) ([]api.Node, error)
	// Open returns a client of the engine. If nil, it is the engine that DOCKER_HOST names.
	Open func() (API, error)

	seen   atomic.Pointer[controlsync.Engine]
	logged string // the last logged message, so that it is logged once
}

// Engine returns the last seen state of the engine, without asking it.
func (w *Watcher) Engine() controlsync.Engine {
	if e := w.seen.Load(); e != nil {
		return *e
	}
	return controlsync.Engine{}
}

// ReadVersion reads the engine's version if the engine answers at once, so that the node's first facts contain it.
// During a boot the engine does not answer, because it waits for drover.
func (w *Watcher) ReadVersion(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, firstTimeout)
	defer cancel()
	if c, err := w.open(); err == nil {
		_, _ = w.inspect(ctx, c) // Run logs the error if it persists
		_ = c.Close()
	}
}

// Run looks at the engine at regular intervals until ctx ends.
func (w *Watcher) Run(ctx context.Context) {
	for {
		w.logProblem(ctx, w.Update(ctx))
		select {
		case <-ctx.Done():
			return
		case <-w.Clock.After(interval):
		}
	}
}

// logProblem logs why the labels are not up to date, once for each reason. If no labels are wanted, an unreachable
// engine is not logged.
func (w *Watcher) logProblem(ctx context.Context, err error) {
	reason := ""
	if err != nil && w.Nodes != nil && ctx.Err() == nil {
		reason = err.Error()
	}
	if reason != "" && reason != w.logged {
		w.Log.WithError(err).Warn("cannot publish facts to the Swarm")
	}
	w.logged = reason
}

// Update asks the engine once, and updates the labels if this engine is the leader of its Swarm. Workers may not update
// labels, and one manager is sufficient. It fails with ErrUnsupported if labels are wanted and the engine is in no
// Swarm, and with ErrUnavailable if the engine does not answer.
func (w *Watcher) Update(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	c, err := w.open()
	if err != nil {
		return err
	}
	defer c.Close()
	in, err := w.inspect(ctx, c)
	switch {
	case err != nil || w.Nodes == nil:
		return err
	case in.NodeID == "":
		return dataset.Errorf(dataset.ErrUnsupported,
			"this engine is not part of a Swarm (run docker swarm init or join, or remove swarm from --publish-facts)")
	case !in.ControlAvailable:
		return nil
	}
	return w.publish(ctx, c, in.NodeID)
}

// inspect asks the engine for its version and its role in a Swarm.
func (w *Watcher) inspect(ctx context.Context, c API) (in swarm.Info, err error) {
	r, err := c.Info(ctx, client.InfoOptions{})
	if err != nil {
		return in, dataset.Errorf(dataset.ErrUnavailable, "connect to the engine: %w", err)
	}
	in = r.Info.Swarm
	w.seen.Store(&controlsync.Engine{Version: r.Info.ServerVersion, Swarm: in.NodeID})
	return in, nil
}

func (w *Watcher) open() (API, error) {
	if w.Open != nil {
		return w.Open()
	}
	return engine.Open()
}

// publish writes the labels of the nodes whose labels differ from the recorded facts, if this engine leads its Swarm. A
// node without facts loses Drover's labels.
func (w *Watcher) publish(ctx context.Context, c API, self string) error {
	members, err := c.NodeList(ctx, client.NodeListOptions{})
	if err != nil {
		return dataset.Errorf(dataset.ErrUnavailable, "list the nodes of the Swarm: %w", err)
	}
	leads := false
	for _, m := range members.Items {
		leads = leads || m.ID == self && m.ManagerStatus != nil && m.ManagerStatus.Leader
	}
	if !leads {
		return nil
	}
	nodes, err := w.Nodes(ctx)
	if err != nil {
		return err // the facts are unknown, so the labels stay
	}
	of := map[string]map[string]string{}
	for _, n := range nodes {
		if n.Facts != nil && n.Facts.Swarm != "" {
			of[n.Facts.Swarm] = facts.Published(n.Node, *n.Facts)
		}
	}
	var failed []error
	for _, m := range members.Items {
		labels := merge(m.Spec.Labels, of[m.ID])
		if maps.Equal(labels, m.Spec.Labels) {
			continue
		}
		m.Spec.Labels = labels
		if _, err := c.NodeUpdate(ctx, m.ID, client.NodeUpdateOptions{Version: m.Version, Spec: m.Spec}); err != nil {
			failed = append(failed, dataset.Errorf(dataset.ErrUnavailable, "set labels of the Swarm's node %s: %w",
				m.Description.Hostname, err))
		}
	}
	return errors.Join(failed...)
}

// merge returns the existing labels that are not Drover's, and the published ones. It is a pure function.
func merge(existing, published map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range existing {
		if !strings.HasPrefix(key, Prefix) {
			out[key] = value
		}
	}
	for name, value := range published {
		out[Prefix+name] = value
	}
	return out
}
