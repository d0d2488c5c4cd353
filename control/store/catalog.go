package store

import "context"

// Service is something of a cluster that runs somewhere, as others find it.
type Service struct {
	Kind    string // what it is, such as control or agent
	ID      string // which, of its kind
	Address string // HOST:PORT
	Tags    []string
	Meta    map[string]string
	Alive   bool
	Note    string // why it is not; constant as long as it is
}

// Catalog is where others find what there is: that of Consul. Safe for concurrent use.
type Catalog interface {
	// Publish has the catalog show these services of the cluster and no others. What it
	// shows already is not written. It knows what that is by what it wrote; with look, or
	// after a failure, it reads it. dataset.ErrForbidden, which says what would do, when
	// that is not allowed. One at a time.
	Publish(ctx context.Context, all []Service, look bool) error
	// Withdraw has it show one no more. Again: nothing.
	Withdraw(ctx context.Context, kind, id string) error
}
