package store

import "context"

// Service is the entry of a control replica or an agent in a catalog.
type Service struct {
	Kind    string // such as control or agent
	ID      string // identifies it among those of its kind
	Address string // HOST:PORT
	Tags    []string
	Meta    map[string]string
	Alive   bool
	Note    string // why it is not alive; the text stays the same until it is alive again
}

// Catalog is a list in which other programs find the services of a cluster: the catalog of Consul. Safe for concurrent
// use.
type Catalog interface {
	// Publish makes the catalog list these services of the cluster and no others. It writes only differences. It
	// remembers its own entries. If look is set, or after a failure, it reads the catalog first. It fails with
	// dataset.ErrForbidden, which names the remedy, if a right is missing. Not safe for concurrent use.
	Publish(ctx context.Context, all []Service, look bool) error
	// Withdraw removes a service from the catalog. Idempotent.
	Withdraw(ctx context.Context, kind, id string) error
}
