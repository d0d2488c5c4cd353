package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

func noSession(id string) error {
	return fmt.Errorf("session %.40q has ended or never existed: %w", id, store.ErrNotFound)
}

// Session opens a session. Consul accepts a TTL from 10 s (session_ttl_min) to 24 h. Otherwise Session fails with
// dataset.ErrInvalid. The session outlives this process.
func (s *Store) Session(ctx context.Context, ttl time.Duration) (string, error) {
	if err := s.open(ctx); err != nil {
		return "", err
	}
	if ttl <= 0 {
		return "", dataset.Errorf(dataset.ErrInvalid, "session of %s: want a positive time", ttl)
	}
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return "", err
	}
	id, err := s.createSession(ctx, ttl)
	if status := (*statusError)(nil); errors.As(err, &status) &&
		strings.Contains(status.body, "Missing node registration") {
		if err = s.register(ctx); err == nil {
			id, err = s.createSession(ctx, ttl)
		}
	}
	if status := (*statusError)(nil); errors.As(err, &status) && strings.Contains(status.body, "Invalid Session TTL") {
		return "", dataset.Errorf(dataset.ErrInvalid, "session of %s: %s", ttl, status.line())
	}
	if err != nil {
		return "", s.failed(ctx, "open a session", err)
	}
	return id, nil
}

// createSession creates a session without a lock-delay. It does not use the function of the API's client, which omits
// a lock-delay of zero, so that Consul would use its default of 15 s.
func (s *Store) createSession(ctx context.Context, ttl time.Duration) (string, error) {
	var out struct{ ID string }
	_, err := s.client.Raw().Write("/v1/session/create", map[string]any{
		"Node": s.layout.node, "Name": s.opts.Prefix, "NodeChecks": []string{}, "ServiceChecks": []string{},
		"TTL": ttl.String(), "Behavior": api.SessionBehaviorDelete, "LockDelay": "0s",
	}, &out, (&api.WriteOptions{}).WithContext(ctx))
	return out.ID, err
}

// register creates the catalog node of the sessions. Consul calls a node without an agent external-node.
func (s *Store) register(ctx context.Context) error {
	_, err := s.client.Catalog().Register(&api.CatalogRegistration{
		Node: s.layout.node, Address: "127.0.0.1",
		NodeMeta: map[string]string{"external-node": "true", "external-probe": "false"},
	}, (&api.WriteOptions{}).WithContext(ctx))
	return err
}

// Renew extends a session. Consul's leader keeps the time and writes nothing.
func (s *Store) Renew(ctx context.Context, id string) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	if uuid.Validate(id) != nil {
		return noSession(id)
	}
	ctx, done := s.call(ctx)
	defer done()
	entry, _, err := s.renewalClient.Session().Renew(id, (&api.WriteOptions{}).WithContext(ctx))
	if status := (*statusError)(nil); errors.As(err, &status) && status.code == http.StatusNotFound &&
		strings.Contains(status.body, "Session id") {
		return noSession(id)
	}
	if err != nil {
		return s.failed(ctx, "renew a session", err)
	}
	if entry == nil {
		return noSession(id)
	}
	return nil
}

// End ends a session and deletes the keys bound to it.
func (s *Store) End(ctx context.Context, id string) error {
	if err := s.open(ctx); err != nil {
		return err
	}
	if uuid.Validate(id) != nil {
		return nil // it never existed
	}
	ctx, done := s.call(ctx)
	defer done()
	if _, err := s.idempotentClient.Session().Destroy(id, (&api.WriteOptions{}).WithContext(ctx)); err != nil {
		return s.failed(ctx, "end a session", err)
	}
	return nil
}
