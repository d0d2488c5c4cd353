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

// Catalog is a list in which other programs find the services of a cluster: the catalog of Consul. A Catalog is safe
// for concurrent use, except that only one call of Publish may be in progress.
type Catalog interface {
	// Publish makes the catalog list these services of the cluster and no others. It writes only differences from the
	// entries that it wrote before, which it remembers. If look is true, or after a failure, it reads the entries
	// from the catalog instead. It fails with dataset.ErrForbidden, which names the remedy, if a right is missing.
	Publish(ctx context.Context, all []Service, look bool) error
	// Withdraw removes a service from the catalog. Idempotent.
	Withdraw(ctx context.Context, kind, id string) error
}
