// Package consul keeps the control service's state in the KV store of a Consul
// cluster, for any number of control services at once.
//
// # Where things are
//
// One key is one key of Consul: <prefix>/data/<key>. The store's own keys are beside these:
// <prefix>/own/format says which layout this is, and <prefix>/own/rev/<shard> is written by every
// transaction, so that few watches see all changes (see Watch). <prefix>/data/live/ is an empty mark, no key:
// a blocking query on a prefix with nothing in it wakes for everything in Consul.
//
// # What of Consul it rests on
//
// Reads ask for consistency: the leader asks a majority whether it still is one
// before it answers. Writes are Consul's transactions, one raft entry each. An
// entry's index is its ModifyIndex, plus a base, see Raise. Consul does not raise that index if a set writes
// an equal value, so every write carries fresh flags and is never equal.
//
// Sessions hang on a catalog node of their own, <prefix>-sessions, without
// checks: only their time ends them, not a short cut of the network as with the
// default, serfHealth. They have Behavior delete, so that the raft entry which
// ends a session deletes the keys under store.LivePrefix that it locks; nothing
// else is ever locked. Lock-delay is off: it binds only acquire, so it protects
// nothing here. Consul ends a session at twice its TTL after the last renewal,
// and starts to count anew when it elects a leader.
package consul

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

var (
	_ store.Store  = (*Store)(nil)
	_ store.Raiser = (*Store)(nil)
)

// Options say which Consul a store is in, and how it is reached.
type Options struct {
	// Addresses are of servers or clients of one Consul datacenter, such as
	// https://consul1:8501; the first that answers is used until it no longer
	// does. At least one.
	Addresses []string
	// Prefix keeps clusters in one Consul apart: lower-case letters, digits and
	// '-'.
	Prefix string
	// TokenFile holds the ACL token; it is read again when Consul does not know
	// the token any more. Token is used when there is no file. Both empty: the
	// anonymous token.
	TokenFile, Token string
	// CAFile holds the certificates that sign Consul's; empty: those of the
	// system. CertFile and KeyFile are the certificate of this side, read at each handshake. ServerName is
	// the name in Consul's certificates where it is not the address. All for https addresses only.
	CAFile, CertFile, KeyFile, ServerName string
	// CallTime bounds every call but Watch; 0: 30 s. LeaderTime is how long a leader is
	// waited for, from when Consul was first asked in vain; 0: 8 s.
	CallTime, LeaderTime time.Duration
	// Clock times the pauses between attempts.
	Clock clock.Clock
}

const (
	defaultCallTime = 30 * time.Second
	// defaultLeaderTime is more than most elections take, also with Consul's slowest
	// raft_multiplier, and leaves the caller enough time to receive the reason of a failure.
	defaultLeaderTime = 8 * time.Second
)

// endpoint is the Consul that a store is in. Its methods explain errors of calls to it. It does not change
// after newStore.
type endpoint struct {
	opts   Options
	layout layout
	calls  *fleet
	ctx    context.Context // ends when the store is closed
}

// Store is one cluster's state. Safe for concurrent use.
type Store struct {
	endpoint
	waits   *fleet // for blocking queries
	repeats *fleet // of calls, for what can be sent again
	alive   *fleet // for renewals
	client  *api.Client
	slow    *api.Client // of waits
	again   *api.Client // of repeats
	renewal *api.Client // of alive

	end     context.CancelFunc
	workers sync.WaitGroup
	feed    feed
	spreads spreads
	catalog catalog

	formatted atomic.Bool // format was seen to be ours
	base      indexBase
	txns      atomic.Uint64
	conflicts atomic.Uint64
	unknown   atomic.Uint64
}

// Stats are figures of this process, for metrics.
type Stats struct {
	Txns      uint64 // committed
	Conflicts uint64 // refused
	Unknown   uint64 // that failed otherwise: mostly their outcome is not known
	Requests  uint64 // sent to Consul, without those of watches
	Wakes     uint64 // answers to watches
}

// Stats returns the figures of now, without I/O.
func (s *Store) Stats() Stats {
	return Stats{
		Txns: s.txns.Load(), Conflicts: s.conflicts.Load(), Unknown: s.unknown.Load(),
		Requests: s.calls.sent.Load(), Wakes: s.feed.wakes.Load(),
	}
}

var goodPrefix = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,53}[a-z0-9])?$`)

// CheckPrefix fails with dataset.ErrInvalid for what cannot be a prefix: it is a
// part of a node's name in Consul's catalog, which DNS serves.
func CheckPrefix(prefix string) error {
	if !goodPrefix.MatchString(prefix) {
		return dataset.Errorf(dataset.ErrInvalid,
			"bad prefix %.80q: want 1 to 55 lower-case letters, digits or '-', beginning and ending with a "+
				"letter or digit", prefix)
	}
	return nil
}

// Open returns a store, without asking Consul anything: see Check. Errors are
// dataset.ErrInvalid for options that make no sense, and of files that cannot be
// read. Close the store after use.
func Open(opts Options) (*Store, error) {
	if err := CheckPrefix(opts.Prefix); err != nil {
		return nil, err
	}
	opts.CallTime = cmp.Or(opts.CallTime, defaultCallTime)
	opts.LeaderTime = cmp.Or(opts.LeaderTime, defaultLeaderTime)
	life, end := context.WithCancel(context.Background())
	s, err := newStore(life, opts)
	if err != nil {
		end()
		return nil, err
	}
	s.end = end
	return s, nil
}

func newStore(life context.Context, opts Options) (*Store, error) {
	calls, err := newFleet(life, opts, answerTime)
	if err != nil {
		return nil, err
	}
	s := &Store{endpoint: endpoint{opts: opts, layout: newLayout(opts.Prefix), calls: calls, ctx: life}}
	// Consul adds up to a sixteenth to how long it waits (agent/consul/rpc.go).
	s.waits = calls.patient(watchTime + watchTime/16 + answerTime)
	if s.client, err = calls.client(); err != nil {
		return nil, err
	}
	if s.slow, err = s.waits.client(); err != nil {
		return nil, err
	}
	s.repeats = calls.repeating()
	if s.again, err = s.repeats.client(); err != nil {
		return nil, err
	}
	s.alive = s.repeats.apart(renewConns)
	if s.renewal, err = s.alive.client(); err != nil {
		return nil, err
	}
	s.feed.init()
	return s, nil
}

// Close ends all calls in flight with store.ErrClosed: a transaction among them
// may have been committed. Sessions stay until their time is over. Again:
// nothing.
func (s *Store) Close() error {
	s.feed.mu.Lock() // so that no query begins from here on
	s.end()
	s.feed.mu.Unlock()
	s.workers.Wait()
	s.calls.close()
	s.waits.close()
	s.alive.close()
	return nil
}

// call returns the context of one call, which ends with the store as well, and
// after CallTime.
func (s *Store) call(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.CallTime, errNoAnswer)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// open fails when ctx or the store has ended.
func (s *Store) open(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	return ctx.Err()
}

// format is the layout that this version writes. A base follows, see Raise, where
// there is one.
const format = "drover store 1"

// baseIn reads the value of the format key.
func baseIn(value []byte) (base uint64, ours bool) {
	number, based := strings.CutPrefix(string(value), format+" +")
	if !based {
		return 0, string(value) == format
	}
	base, err := strconv.ParseUint(number, 10, 64)
	return base, err == nil && base < math.MaxInt64
}

// ready sees to it, once, that Consul holds a store of our format under the
// prefix, and makes an empty one where there is none. dataset.ErrUnsupported
// for one of another format.
func (s *Store) ready(ctx context.Context) error {
	if err := s.open(ctx); err != nil || s.formatted.Load() {
		return err
	}
	for range 2 {
		pair, _, err := s.client.KV().Get(s.layout.format, consistent(ctx))
		if err != nil {
			return s.failed(ctx, "read its format", err)
		}
		base, ours := uint64(0), false
		if pair != nil {
			base, ours = baseIn(pair.Value)
		}
		if pair != nil && !ours {
			return dataset.Errorf(dataset.ErrUnsupported,
				"consul: %s says %.80q, this version reads %q: another version of drover keeps its store "+
					"there, or something else does (set another prefix)", s.layout.format, pair.Value, format)
		}
		if pair != nil {
			s.base.Store(base)
			s.formatted.Store(true)
			return nil
		}
		if err := s.make(ctx); err != nil {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrUnavailable, "consul: %s comes and goes: who deletes it?", s.layout.format)
}

// make writes the first keys of an empty store, unless another process has.
func (s *Store) make(ctx context.Context) error {
	ops := api.TxnOps{
		op(api.KVTxnOp{Verb: api.KVCAS, Key: s.layout.format, Value: []byte(format)}),
		op(api.KVTxnOp{Verb: api.KVSet, Key: s.layout.rev + everything, Flags: fresh()}),
		op(api.KVTxnOp{Verb: api.KVSet, Key: s.layout.data + store.LivePrefix}),
	}
	_, _, err := s.commit(ctx, ops)
	return err
}

// Policy returns the ACL rules that a token needs for a store with that prefix, in Consul's syntax: its keys,
// its sessions, and the catalog node of these sessions.
func Policy(prefix string) string {
	node := newLayout(prefix).node
	return fmt.Sprintf(`key_prefix "%s/" {
  policy = "write"
}
session "%s" {
  policy = "write"
}
node "%s" {
  policy = "write"
}
`, prefix, node, node)
}

// Check fails with the reason why the store cannot be used as it is: Consul is
// away, the token lacks a right, and so on. It writes, and opens and ends a
// session.
func (s *Store) Check(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	cctx, done := s.call(ctx)
	defer done()
	ops := api.TxnOps{op(api.KVTxnOp{Verb: api.KVSet, Key: s.layout.check, Flags: fresh()})}
	refused, _, err := s.commit(cctx, ops)
	if err == nil {
		err = refused
	}
	if err != nil {
		return err
	}
	if _, err := s.List(ctx, store.LivePrefix, "", 0); err != nil {
		return err
	}
	id, err := s.Session(ctx, checkTTL)
	if err != nil {
		return fmt.Errorf("check of sessions: %w", err)
	}
	return s.End(ctx, id)
}

// checkTTL is what Check opens a session with; no Consul demands more.
const checkTTL = time.Minute
