// Package store defines the interface of the store in which the control service keeps its state: a small, strictly
// ordered key-value store, whose transactions check that the entries on which a decision was based have not changed.
// Package bolt implements it with one file on one host, and package consul with a Consul cluster. Package storetest
// checks every implementation against this text. Package record has the transactions of control, membership its
// sessions and catalog, and dump copies a store. The agent keeps its state in a store, too. This package has no state.
// A new rule of the contract belongs here, with a test in storetest.
//
// # Keys and values
//
// Keys are words separated by slashes, at most 512 bytes of printable ASCII without spaces. One object has one key, so
// that the cost of a change does not depend on the number of objects. Values are at most 256 KiB.
//
// # Indexes
//
// Every committed transaction that writes has an index, which is larger than all earlier ones. The index of an entry
// is that of the transaction that last wrote it, even if it wrote the same bytes. Index 0 means "absent". Indexes can
// only be compared. Differences of indexes mean nothing.
//
// # Sessions
//
// Keys that begin with LivePrefix are bound to sessions. Each is bound to the session of its last write, and is
// deleted when that session ends. Other keys cannot be bound, so that no data is lost with a session by mistake.
//
// # A store that was restored from a backup
//
// A store can be replaced by an older copy of itself (a file or a snapshot of Consul restored from a backup). Then the
// entries have the indexes of that time, and indexes that were given out since may be given out again. Watch shows this
// to its callers: it returns an index below the one that the caller passed. A caller that must know for certain stores
// a counter under a key, and only ever increases it.
//
// # Safety
//
// A Store is safe for concurrent use. A transaction is durable if Txn returned no error. If Txn returned ErrConflict,
// ErrNotFound, ErrTooLarge or dataset.ErrInvalid, nothing was changed. After any other error, the transaction may or
// may not have been committed: the caller must read the store to find out. No transaction is ever committed in part.
package store

import (
	"context"
	"errors"
	"time"
)

// The errors of stores, besides those of the context and dataset.ErrInvalid for invalid arguments. Any other error
// means that the store has not answered or that a value is damaged. The state of the key or session is then unknown.
var (
	// ErrNotFound means that the key or session certainly does not exist.
	ErrNotFound = errors.New("no such key")
	// ErrConflict means that a check of a transaction failed. Nothing was changed. The caller must read again and
	// decide again.
	ErrConflict = errors.New("changed meanwhile")
	// ErrTooLarge means that a key, value or transaction exceeds the limits. Nothing was changed.
	ErrTooLarge = errors.New("too large for one transaction")
	// ErrClosed means that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// Limits that are the same for every store, so that a transaction that works on one kind of store works on the others.
// Consul's transactions have the lowest limits: 128 operations, and a request of 512 KiB, in JSON with values in base64
// (agent/txn_endpoint.go of Consul 1.22). A part of both is reserved for operations that a store adds to a transaction.
const (
	MaxOps   = 120       // checks and writes of a transaction together; a write with a session counts as two
	MaxBytes = 500 << 10 // of a transaction, as Size counts
	MaxValue = 256 << 10
	MaxKey   = 512
)

// LivePrefix is the beginning of the keys that are bound to sessions.
const LivePrefix = "live/"

// Entry is one key with its value. The caller may keep a value that a store returned, but not change it.
type Entry struct {
	Key   string
	Value []byte
	Index uint64
}

// Precondition requires that the entry of a key has this index. Index 0 requires that the key is absent.
type Precondition struct {
	Key   string
	Index uint64
}

// Write sets a key, or deletes it. Deleting an absent key is no error.
type Write struct {
	Key    string
	Value  []byte
	Delete bool
	// Session is the session of the key: when the session ends, the key is deleted. Each write sets the session of its
	// key again. Keys under LivePrefix need a session. Other keys cannot have one.
	Session string
}

// Store is the contract.
type Store interface {
	// Get returns the entry of a key. It fails with ErrNotFound if there is none. It sees every transaction that had
	// returned before the call.
	Get(ctx context.Context, key string) (Entry, error)
	// GetMany returns for each key what Get would return. The entries are in the order of the argument keys, and the
	// entry of an absent key has index 0. Up to MaxOps keys are read at the same moment.
	GetMany(ctx context.Context, keys []string) ([]Entry, error)
	// List returns the entries whose key begins with prefix and is larger than after, sorted by key: at most
	// limit entries, or all if limit is 0. Without a limit, all entries are from the same moment. With a limit, each
	// entry is from some moment of the call, and these moments can differ. A key that exists during the whole call is
	// never left out. A caller that needs all entries from the same moment checks their indexes in a transaction. List
	// sees every transaction that had returned before the call.
	List(ctx context.Context, prefix, after string, limit int) ([]Entry, error)
	// Txn makes all writes if all checks hold; otherwise it makes none and returns ErrConflict. It returns the index
	// of the transaction. A caller may repeat a call only if the checks make sure that the second call fails when the
	// first one has succeeded. If a write is bound to a session that does not exist, Txn returns ErrNotFound. If
	// CheckTxn refuses the transaction, Txn returns its error. In both cases nothing is changed.
	Txn(ctx context.Context, checks []Precondition, writes []Write) (uint64, error)
	// Watch returns as soon as a key under prefix was written or deleted with an index above after. It returns the
	// newest index that it covers; pass that index to the next call. It may return although nothing changed. If the
	// index is below after, the store was restored from a backup, and everything must be read again. The prefix ends
	// with a slash.
	Watch(ctx context.Context, prefix string, after uint64) (uint64, error)
	// Session opens a session. If it is not renewed, it ends after ttl at the earliest, and after twice ttl at the
	// latest. A store on several servers may restart this time when it elects a leader. The session also ends with End.
	Session(ctx context.Context, ttl time.Duration) (id string, err error)
	// Renew extends a session. It fails with ErrNotFound if the session has ended.
	Renew(ctx context.Context, id string) error
	// End ends a session and deletes the keys bound to it. Idempotent.
	End(ctx context.Context, id string) error
	// Close closes the store. Calls in progress return ErrClosed.
	Close() error
}

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

// HealthReporter is a store on servers that can fail one by one.
type HealthReporter interface {
	// Health returns the state of the servers. It asks them during the call, for at most HealthTime. If something
	// cannot be found out, Health.Problem says so; Health returns no error.
	Health(ctx context.Context) Health
}

// HealthTime bounds a call of HealthReporter.Health.
const HealthTime = 3 * time.Second

// Health is the state of the servers of a store at one moment.
type Health struct {
	Problem string   // why the store cannot be written, or its state cannot be read; empty: none
	Leader  string   // address of the leader; empty: none, or not known
	Servers []Server // nil if they are not known
	// FailureTolerance is how many of the servers can still fail before the store cannot be written. It is not known
	// if Servers is nil.
	FailureTolerance int
}

// Server is one server of a store.
type Server struct {
	Name, Address string
	Healthy       bool
	Leader        bool
	// LastContact is how long ago the server last heard from the leader. It is negative if that is not known.
	LastContact time.Duration
}
