package consul

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
)

var _ store.Catalog = (*Store)(nil)

// service returns the name that a kind of service has in Consul.
func (l layout) service(kind string) string { return l.prefix + "-" + kind }
func (l layout) serviceID(kind, id string) string {
	return l.service(kind) + "-" + strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' {
			return '-'
		}
		return r
	}, id)
}

// CatalogPolicy lists the rights that Publish needs besides Policy.
func CatalogPolicy(prefix string) string {
	l := newLayout(prefix)
	return fmt.Sprintf(`node "%s" {
  policy = "write"
}
service "%s" {
  policy = "write"
}
service "%s" {
  policy = "write"
}
`, l.services, l.service("control"), l.service("agent"))
}

// Publish implements store.Catalog. The services belong to a separate catalog node, <prefix>-services. Each service
// has a check that shows whether it is alive. The publisher updates the checks; Consul itself runs nothing. A change
// costs one raft entry for up to servicesAtOnce services.
func (s *Store) Publish(ctx context.Context, all []store.Service, look bool) error {
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return err
	}
	// The entries stay unknown until all changes are made. If a change fails, the next call reads the catalog again.
	var known map[string]store.Service
	last, there := s.catalog.Swap(nil), true
	if last != nil && !look {
		known = *last
	} else {
		var err error
		if known, there, err = s.published(ctx); err != nil {
			return err
		}
	}
	want := map[string]store.Service{}
	var ops [][]*api.TxnOp
	for _, v := range all {
		id := s.layout.serviceID(v.Kind, v.ID)
		want[id] = v
		if is, listed := known[id]; listed && isSame(is, v) {
			continue
		}
		change, err := s.layout.registerService(id, v)
		if err != nil {
			return err
		}
		ops = append(ops, change)
	}
	for id, v := range known {
		if _, wanted := want[id]; !wanted {
			ops = append(ops, []*api.TxnOp{s.layout.deregisterService(v.Kind, id)})
		}
	}
	if len(ops) > 0 && !there {
		ops = slices.Insert(ops, 0, []*api.TxnOp{s.layout.servicesNode()})
	}
	for some := range slices.Chunk(ops, servicesAtOnce) {
		if err := s.changeCatalog(ctx, slices.Concat(some...)); err != nil {
			return err
		}
	}
	s.catalog.Store(&want)
	return nil
}

// servicesAtOnce is the number of services in one transaction. Each needs two operations, and Consul accepts 128.
const servicesAtOnce = 60

// Withdraw implements store.Catalog.
func (s *Store) Withdraw(ctx context.Context, kind, id string) error {
	ctx, done := s.call(ctx)
	defer done()
	if err := s.ready(ctx); err != nil {
		return err
	}
	s.catalog.Store(nil)
	return s.changeCatalog(ctx, api.TxnOps{s.layout.deregisterService(kind, s.layout.serviceID(kind, id))})
}

// published reads the entries of this cluster from the catalog. there reports whether their catalog node exists.
func (s *Store) published(ctx context.Context) (known map[string]store.Service, there bool, err error) {
	list, _, err := s.client.Catalog().NodeServiceList(s.layout.services, consistentOptions(ctx))
	if err != nil {
		return nil, false, s.failed(ctx, "read the catalog", err)
	}
	checks, _, err := s.client.Health().Node(s.layout.services, consistentOptions(ctx))
	if err != nil {
		return nil, false, s.failed(ctx, "read the catalog", err)
	}
	of := map[string]*api.HealthCheck{}
	for _, c := range checks {
		of[c.ServiceID] = c
	}
	known = map[string]store.Service{}
	if list == nil || list.Node == nil {
		return known, false, nil
	}
	for _, v := range list.Services {
		is := store.Service{
			Kind:    strings.TrimPrefix(v.Service, s.layout.prefix+"-"),
			Address: net.JoinHostPort(v.Address, strconv.Itoa(v.Port)),
			Tags:    v.Tags, Meta: v.Meta,
		}
		if c := of[v.ID]; c != nil {
			is.Alive, is.Note = c.Status == api.HealthPassing, c.Output
		}
		known[v.ID] = is
	}
	return known, true, nil
}

// isSame reports whether two entries of a service are equal, so that the catalog need not be changed.
func isSame(a, b store.Service) bool {
	return a.Kind == b.Kind && a.Address == b.Address && a.Alive == b.Alive && a.Note == b.Note &&
		slices.Equal(a.Tags, b.Tags) && maps.Equal(a.Meta, b.Meta)
}

func (l layout) servicesNode() *api.TxnOp {
	return &api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{
		Node: l.services, Address: "127.0.0.1",
		Meta: map[string]string{"external-node": "true", "external-probe": "false"},
	}}}
}

// registerService returns the operations that add a service and its check.
func (l layout) registerService(id string, v store.Service) ([]*api.TxnOp, error) {
	host, number, err := net.SplitHostPort(v.Address)
	port, perr := strconv.Atoi(number)
	if err = errors.Join(err, perr); err != nil {
		return nil, dataset.Errorf(dataset.ErrInvalid, "consul: address %q of %s: want HOST:PORT",
			dataset.Clip(v.Address), id)
	}
	status := api.HealthCritical
	if v.Alive {
		status = api.HealthPassing
	}
	name := l.service(v.Kind)
	return []*api.TxnOp{
		{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: l.services, Service: api.AgentService{
			ID: id, Service: name, Address: host, Port: port, Tags: v.Tags, Meta: v.Meta,
		}}},
		{Check: &api.CheckTxnOp{Verb: api.CheckSet, Check: api.HealthCheck{
			Node: l.services, CheckID: id, Name: "alive", Status: status, Output: v.Note, ServiceID: id,
			ServiceName: name,
		}}},
	}, nil
}

// deregisterService returns the operation that removes a service and its check.
func (l layout) deregisterService(kind, id string) *api.TxnOp {
	return &api.TxnOp{Service: &api.ServiceTxnOp{
		Verb:    api.ServiceDelete,
		Node:    l.services,
		Service: api.AgentService{ID: id, Service: l.service(kind)},
	}}
}

// changeCatalog changes the catalog in one transaction.
func (s *Store) changeCatalog(ctx context.Context, ops api.TxnOps) error {
	ok, res, _, err := s.idempotentClient.Txn().Txn(ops, consistentOptions(ctx))
	if err == nil && ok {
		return nil
	}
	if err != nil {
		err = s.failed(ctx, "change the catalog", err)
	} else if len(res.Errors) > 0 && isACL(res.Errors[0].What) {
		err = s.lacksRight(res.Errors[0].What)
	} else {
		var what []string
		for _, e := range res.Errors {
			what = append(what, e.What)
		}
		err = s.unexpectedAnswer(strings.Join(what, "; "))
	}
	if errors.Is(err, dataset.ErrForbidden) {
		err = fmt.Errorf("%w (all rights that it needs: %s)", err,
			strings.Join(strings.Fields(CatalogPolicy(s.opts.Prefix)), " "))
	}
	return err
}
