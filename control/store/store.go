// Package store is the contract of where the control service keeps its state: a
// small, strictly ordered key-value store with transactions that check what
// their decision read. bolt keeps it in one file on one host; Consul keeps it
// in a cluster. storetest holds every implementation to this text.
//
// # Keys and values
//
// Keys are slash-separated words, at most 512 bytes of printable ASCII without
// blanks. One object has one key, never a blob of many, so that a change costs
// what it costs however many objects there are. Values are at most 256 KiB.
//
// # Indexes
//
// Every committed transaction that writes has an index, larger than all before.
// An entry's index is that of the transaction that last wrote it, whether or not
// that wrote other bytes. Index 0 stands for "absent". Indexes are for
// comparing, not for counting.
//
// # Sessions
//
// Keys that begin with LivePrefix are bound to sessions, each to the one that it
// was written with last, and end with it. No other key can be bound: what must
// outlive its writer cannot be lost with a session by mistake.
//
// # A store that goes back
//
// A store can be exchanged for an older copy of itself (a file put back, a
// snapshot of Consul restored). Indexes then are what they were, and indexes
// that were given out since may be given out again. Watch shows it: it returns
// an index below the one that it was asked with. It shows it to those who ask;
// whoever must know for sure keeps a key that only grows.
//
// # Safety
//
// A Store is safe for concurrent use. A transaction whose call returned nil is
// durable. One whose call returned any other error than ErrConflict may or may
// not have been committed: look again. Nothing ever changes in part.
package store

import (
	"context"
	"errors"
	"time"
)

// Errors of stores, beside those of the context. Anything else means that the
// store is away: nothing is known then.
var (
	// ErrNotFound says that there surely is no such key or session.
	ErrNotFound = errors.New("no such key")
	// ErrConflict says that a check of a transaction did not hold: nothing was
	// changed. Read again and decide again.
	ErrConflict = errors.New("changed meanwhile")
	// ErrTooLarge says that a key, value or transaction is over the limits:
	// nothing was changed.
	ErrTooLarge = errors.New("too large for one transaction")
	// ErrClosed says that the store was closed.
	ErrClosed = errors.New("store is closed")
)

// The limits that every store keeps, so that what works on one works on all.
// Consul's transactions are the narrowest: 128 operations and a request of
// 512 KiB, in JSON with values in base64 (agent/txn_endpoint.go of Consul
// 1.22). Some of both are kept for what a store adds of its own.
const (
	MaxOps   = 120       // checks and writes of a transaction together; a bound write is two
	MaxBytes = 500 << 10 // of a transaction as Size counts it
	MaxValue = 256 << 10
	MaxKey   = 512
)

// LivePrefix begins the keys that are bound to sessions.
const LivePrefix = "live/"

// Entry is one key with its value. Values that a store returns are the
// caller's to keep, not to change.
type Entry struct {
	Key   string
	Value []byte
	Index uint64
}

// Check demands that a key's entry has this index; 0: that it is absent.
type Check struct {
	Key   string
	Index uint64
}

// Write sets a key, or deletes it. Deleting an absent key is fine.
type Write struct {
	Key    string
	Value  []byte
	Delete bool
	// Session binds the key to a session: it is deleted with it. Whoever writes
	// the key next binds it anew. Keys under LivePrefix need one, and no others
	// can have one.
	Session string
}

// Store is the contract.
type Store interface {
	// Get returns the entry of a key; ErrNotFound when there is none. It sees
	// every transaction that had returned before the call.
	Get(ctx context.Context, key string) (Entry, error)
	// GetMany returns of each key what Get would, in the order of keys; with index 0
	// what is not there. Up to MaxOps keys are of one moment.
	GetMany(ctx context.Context, keys []string) ([]Entry, error)
	// List returns up to limit entries whose key begins with prefix and is
	// larger than after, in the order of keys; limit 0: all. Without a limit it is
	// one moment. With one, each entry is as it was at some moment of the call, not
	// all at the same, and no key is left out that was there all the time: whoever
	// needs more of what he reads in pages checks it in a transaction. It sees
	// every transaction that had returned before the call.
	List(ctx context.Context, prefix, after string, limit int) ([]Entry, error)
	// Txn makes all writes if all checks hold, otherwise none and returns
	// ErrConflict. It returns the transaction's index. Safe to call again only
	// with checks that fail after a success. ErrNotFound, and nothing changed,
	// when a write is bound to a session that is not there; likewise ErrInvalid
	// of package dataset for what CheckTxn refuses.
	Txn(ctx context.Context, checks []Check, writes []Write) (uint64, error)
	// Watch returns as soon as something under prefix has an index above after
	// (deletes count), with the newest index that it covers; call again with
	// that. It may return when nothing changed. An index below after: the store
	// went back, and everything is to be read anew. The prefix ends with a slash.
	Watch(ctx context.Context, prefix string, after uint64) (uint64, error)
	// Session opens a session that ends when it was not renewed for ttl (at the
	// earliest; at the latest after twice that), or is ended.
	Session(ctx context.Context, ttl time.Duration) (id string, err error)
	// Renew puts off the end of a session; ErrNotFound when it has ended.
	Renew(ctx context.Context, id string) error
	// End ends a session and deletes the keys bound to it. Again: nothing.
	End(ctx context.Context, id string) error
	// Close lets go of the store; calls in flight return ErrClosed.
	Close() error
}
