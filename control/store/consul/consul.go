// Package consul keeps the control service's state in the KV store of a Consul cluster. Any number of control services
// can use it at once.
//
// # Layout
//
//	<prefix>/data/<key>         a key of the store
//	<prefix>/data/live/         an empty marker: without it, a blocking query on the prefix would wake for every
//	                            change in Consul while no key exists
//	<prefix>/own/format         the version of this layout, and the base of the indexes (see Raise)
//	<prefix>/own/check          written by Check
//	<prefix>/own/rev/<shard>    written by every transaction that changes the shard, so that one watch of own/rev/
//	                            sees all changes
//
// # Properties of Consul that the package relies on
//
// Reads are consistent: before the leader answers, it asks a majority whether it is still the leader. Writes are
// transactions of Consul, with one raft entry each. The index of an entry is its ModifyIndex plus a base (see Raise).
// Consul does not raise that index if a set writes the present value and flags again. So every write has new flags.
//
// Sessions belong to a separate catalog node, <prefix>-sessions, which has no checks. So only their TTL ends them,
// and not a short interruption of the network, as with Consul's default check serfHealth. They have the behavior
// "delete": the raft entry that ends a session deletes the keys under store.LivePrefix that the session locks. No
// other key is ever locked. Lock-delay is off: it only delays the next acquisition of a key, so it would protect
// nothing here. Consul ends a session at twice its TTL after the last renewal, and restarts that time when it elects
// a leader.
//
// # Callers and memory
//
// The daemon opens the store with the Options that cmd/drover/internal/daemon takes from drover.yaml, and calls Check.
// Everything else calls it through the interfaces of package store, except that cmd/drover/internal/daemon reads
// Stats. Outside of this package only tests use Policy and CatalogPolicy: they compare docs/consul.md with them, and
// make tokens. In memory the package keeps data that it can read again: the last change of each shard (feed), how the
// keys under each prefix that was listed in pages are distributed (distributions), the entries in the catalog, and the
// ACL token. It also keeps the requests in progress and how long Consul has been silent (inflight). Each of these has a
// mutex. The index of the preferred address, the difference to Consul's indexes (indexBase), the note that the format
// was checked, and the counters are atomic. Consul's transactions protect the keys in the store.
//
// Where to change what: which keys are used is in layout.go, and how a transaction becomes operations of Consul in
// txn.go. Connections, retries and the choice of a server are in transport.go and inflight.go. Errors for operators
// are in errors.go, and watches in watch.go and follow.go.
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

// Options are the settings of a store in Consul.
type Options struct {
	// Addresses are the URLs of servers or clients of one Consul datacenter, such as https://consul1:8501. At least
	// one is required. The store uses the first one that answers, until it no longer answers.
	Addresses []string
	// Prefix separates clusters in one Consul. It consists of lower-case letters, digits and '-'.
	Prefix string
	// TokenFile contains the ACL token. It is read again when Consul no longer accepts the token. Without a file, Token
	// is used. If both are empty, the anonymous token is used.
	TokenFile, Token string
	// CAFile contains the certificates of the authorities that sign Consul's certificates. If empty, those of the
	// system are used. CertFile and KeyFile have this process's certificate, and are read at each handshake.
	// ServerName is the name in Consul's certificates, if it differs from the address. All of them apply only to
	// https addresses.
	CAFile, CertFile, KeyFile, ServerName string
	// CallTime bounds every call except Watch. If 0, it is 30 s. LeaderTime is how long calls wait for a leader,
	// counted from when Consul first failed to answer. If 0, it is 8 s.
	CallTime, LeaderTime time.Duration
	// Clock times the pauses between attempts.
	Clock clock.Clock
}

const (
	defaultCallTime = 30 * time.Second
	// defaultLeaderTime is longer than most elections, also with Consul's slowest raft_multiplier. It is so short that
	// a caller is still waiting when the call fails, and receives the reason.
	defaultLeaderTime = 8 * time.Second
)

// endpoint has the connections, options and key layout of a store, and turns errors of calls into errors for users. It
// does not change after newStore.
type endpoint struct {
	opts      Options
	layout    layout
	transport *transport
	ctx       context.Context // ends when the store is closed
}

// Store is one cluster's state. Safe for concurrent use.
type Store struct {
	endpoint
	watchTransport      *transport // for blocking queries
	idempotentTransport *transport // for calls that can be repeated
	renewalTransport    *transport // for renewals
	client              *api.Client
	watchClient         *api.Client // sends through watchTransport
	idempotentClient    *api.Client // sends through idempotentTransport
	renewalClient       *api.Client // sends through renewalTransport

	end           context.CancelFunc
	workers       sync.WaitGroup
	feed          feed
	distributions distributions
	// catalog has the entries of this process in Consul's catalog by their IDs; nil if the catalog must be read first.
	catalog atomic.Pointer[map[string]store.Service]

	formatted atomic.Bool // the format was checked
	base      indexBase
	txns      atomic.Uint64
	conflicts atomic.Uint64
	unknown   atomic.Uint64
}

// Stats are counters of this process, for metrics.
type Stats struct {
	Txns      uint64 // committed
	Conflicts uint64 // refused
	Unknown   uint64 // failed for another reason, so that the outcome is usually unknown
	Requests  uint64 // sent to Consul, without those of watches
	Wakes     uint64 // answers to watches
}

// Stats returns the current counters, without I/O.
func (s *Store) Stats() Stats {
	return Stats{
		Txns: s.txns.Load(), Conflicts: s.conflicts.Load(), Unknown: s.unknown.Load(),
		Requests: s.transport.sent.Load(), Wakes: s.feed.wakes.Load(),
	}
}

var goodPrefix = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,53}[a-z0-9])?$`)

// CheckPrefix fails with dataset.ErrInvalid for an invalid prefix. The prefix is a part of a node's name in Consul's
// catalog, which DNS serves.
func CheckPrefix(prefix string) error {
	if !goodPrefix.MatchString(prefix) {
		return dataset.Errorf(dataset.ErrInvalid,
			"bad prefix %.80q: want 1 to 55 lower-case letters, digits or '-', beginning and ending with a "+
				"letter or digit", prefix)
	}
	return nil
}

// Open returns a store. It sends no request to Consul: see Check. It fails with dataset.ErrInvalid for invalid options,
// and with the errors of files that cannot be read. The caller must close the store.
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
	calls, err := newTransport(life, opts, answerTime)
	if err != nil {
		return nil, err
	}
	s := &Store{endpoint: endpoint{opts: opts, layout: newLayout(opts.Prefix), transport: calls, ctx: life}}
	// Consul adds up to a sixteenth to the duration of a blocking query (agent/consul/rpc.go).
	s.watchTransport = calls.forLongAnswers(watchTime + watchTime/16 + answerTime)
	if s.client, err = calls.client(); err != nil {
		return nil, err
	}
	if s.watchClient, err = s.watchTransport.client(); err != nil {
		return nil, err
	}
	s.idempotentTransport = calls.idempotent()
	if s.idempotentClient, err = s.idempotentTransport.client(); err != nil {
		return nil, err
	}
	s.renewalTransport = s.idempotentTransport.withPool(renewConns)
	if s.renewalClient, err = s.renewalTransport.client(); err != nil {
		return nil, err
	}
	s.feed.init()
	return s, nil
}

// Close ends all calls in progress with store.ErrClosed. A transaction among them may have been committed. Sessions do
// not end before their TTL has passed. Idempotent.
func (s *Store) Close() error {
	s.feed.mu.Lock() // no query begins after this
	s.end()
	s.feed.mu.Unlock()
	s.workers.Wait()
	s.transport.close()
	s.watchTransport.close()
	s.renewalTransport.close()
	return nil
}

// call returns the context of one call. The context also ends when the store is closed, and after CallTime.
func (s *Store) call(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithTimeoutCause(ctx, s.opts.CallTime, errNoAnswer)
	stop := context.AfterFunc(s.ctx, cancel)
	return ctx, func() { stop(); cancel() }
}

// open fails if ctx has ended or the store is closed.
func (s *Store) open(ctx context.Context) error {
	if s.ctx.Err() != nil {
		return store.ErrClosed
	}
	return ctx.Err()
}

// format is the version of the layout that this version writes. If the store has a base (see Raise), the base follows
// the version.
const format = "drover store 1"

// baseIn parses the value of the format key. ours is false if the value is not of this format.
func baseIn(value []byte) (base uint64, ours bool) {
	number, based := strings.CutPrefix(string(value), format+" +")
	if !based {
		return 0, string(value) == format
	}
	base, err := strconv.ParseUint(number, 10, 64)
	return base, err == nil && base < math.MaxInt64
}

// ready checks once that Consul has a store with this format under the prefix. If there is no store, ready creates an
// empty one. It fails with dataset.ErrUnsupported for another format.
func (s *Store) ready(ctx context.Context) error {
	if err := s.open(ctx); err != nil || s.formatted.Load() {
		return err
	}
	for range 2 {
		pair, _, err := s.client.KV().Get(s.layout.format, consistentOptions(ctx))
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
		if err := s.createLayout(ctx); err != nil {
			return err
		}
	}
	return dataset.Errorf(dataset.ErrUnavailable,
		"consul: another program deletes the key %s again and again: stop that program", s.layout.format)
}

// createLayout writes the first keys of an empty store, unless another process has done so.
func (s *Store) createLayout(ctx context.Context) error {
	ops := api.TxnOps{
		op(api.KVTxnOp{Verb: api.KVCAS, Key: s.layout.format, Value: []byte(format)}),
		op(api.KVTxnOp{Verb: api.KVSet, Key: s.layout.rev + allShards, Flags: newFlags()}),
		op(api.KVTxnOp{Verb: api.KVSet, Key: s.layout.data + store.LivePrefix}),
	}
	_, _, err := s.commit(ctx, ops)
	return err
}

// Policy returns the ACL rules that a token needs for a store with a prefix, in Consul's syntax: for its keys, its
// sessions, and the catalog node of these sessions.
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

// Check fails with the reason why the store cannot be used now: Consul is unreachable, the token lacks a right, and so
// on. It writes a key, and opens and ends a session.
func (s *Store) Check(ctx context.Context) error {
	if err := s.ready(ctx); err != nil {
		return err
	}
	cctx, done := s.call(ctx)
	defer done()
	ops := api.TxnOps{op(api.KVTxnOp{Verb: api.KVSet, Key: s.layout.check, Flags: newFlags()})}
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

// checkTTL is the TTL of the session that Check opens. No configuration of Consul requires more.
const checkTTL = time.Minute
