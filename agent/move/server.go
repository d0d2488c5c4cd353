package move

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/requestid"
)

// Source provides the data that a server sends. TransferSource implements it. Its methods are safe for concurrent
// use.
type Source interface {
	// Authorize returns nil if a node may get a dataset, and otherwise the reason why it may not. It is called at the
	// start of each request, and regularly during a transfer.
	Authorize(ctx context.Context, peer, ds uuid.UUID) error
	// Pool returns the pool that has a dataset, as its home or as a copy. It fails with dataset.ErrNotFound if there is
	// none.
	Pool(ctx context.Context, ds uuid.UUID) (backends.Pool, error)
	// TakeSnapshot takes a transfer snapshot of the dataset's head, under the dataset's lock, and returns the record
	// of the snapshot in the pool. idle reports that the dataset was not in use. If nothing changed since the
	// previous snapshot, TakeSnapshot may return that one. It keeps the newest snapshot that the peer has, as the
	// base of the next difference.
	TakeSnapshot(ctx context.Context, ds uuid.UUID, have []uuid.UUID) (snapshot dataset.Snapshot, idle bool, err error)
	// CopyBases returns the transfer snapshots that the next differences to other copies of a dataset are based on, at
	// most one for each copy. A peer that becomes the home needs these snapshots, and they are kept until the peer
	// has them. The result is empty if they are not known.
	CopyBases(ctx context.Context, ds uuid.UUID) []uuid.UUID
	// SharedSnapshots returns the transfer snapshots that a replica gets and keeps in addition to the one that it
	// wants. All replicas keep them, so that they have a common base even if this home is lost.
	SharedSnapshots(ctx context.Context, ds, want uuid.UUID) []uuid.UUID
	// OpenTree opens the root of a snapshot, or, for uuid.Nil, of the dataset itself, which must not be in use. Call
	// the function after the root was closed.
	OpenTree(ctx context.Context, ds, snapshot uuid.UUID) (root *os.File, release func() error, err error)
	// GuardSpace calls work, which sends a snapshot of a dataset in a pool. A snapshot keeps the blocks that users
	// overwrite. If the dataset is in use, GuardSpace cancels the context of work with dataset.ErrNoSpace once the pool
	// has less free space than backends.Reserve.
	GuardSpace(ctx context.Context, pool backends.Pool, ds uuid.UUID, work func(context.Context) error) error
}

// Server answers other nodes. Set its fields before the first use.
type Server struct {
	Source Source
	// Peer returns the node that sent a request, from its certificate.
	Peer  func(*http.Request) (uuid.UUID, error)
	Limit *Limiter // if nil, there is no limit
	Clock clock.Clock
	Log   logrus.FieldLogger
	// Idle is how long a peer may accept nothing before it is disconnected. While nothing is written, the server
	// announces every quarter of Idle that more will follow. If Idle is 0, DefaultIdle is used.
	Idle time.Duration

	mu   sync.Mutex
	busy map[dataset.Source]int
	sent map[uuid.UUID]sentSnapshot
}

// sentSnapshot is the last snapshot of a dataset that was sent.
type sentSnapshot struct {
	peer, snapshot uuid.UUID
	stream         backends.Stream
}

// DefaultIdle is how long one side waits for the other.
const DefaultIdle = time.Minute

// Prefix is the path prefix of the peer API.
const Prefix = "/v1/peer/"

// Handler returns the peer API.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, f func(http.ResponseWriter, *request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, f) })
	}
	handle("GET "+Prefix+"datasets/{dataset}", s.plan)
	handle("POST "+Prefix+"datasets/{dataset}/freshen", s.takeSnapshot)
	handle("GET "+Prefix+"datasets/{dataset}/snapshots/{snapshot}/stream", s.stream)
	handle("GET "+Prefix+"datasets/{dataset}/snapshots/{snapshot}/files", s.files)
	return mux
}

// InUse reports whether a snapshot, or a difference to it, is being sent. If the snapshot were removed now, the peer
// would have to start again.
func (s *Server) InUse(ds, snapshot uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.busy[dataset.Source{Dataset: ds, Snapshot: snapshot}] > 0
}

// Busy reports whether anything of a dataset is being sent.
func (s *Server) Busy(ds uuid.UUID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key := range s.busy {
		if key.Dataset == ds {
			return true
		}
	}
	return false
}

// Sent returns the manifest with which a snapshot was sent to a node. It returns false unless that snapshot is the
// last one of its dataset that this server has sent to any node.
func (s *Server) Sent(peer uuid.UUID, snapshot dataset.Snapshot) (dataset.Manifest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	last := s.sent[snapshot.Dataset]
	return manifest(snapshot, last.stream), last.snapshot == snapshot.ID && last.peer == peer
}

// recordSent records the snapshot that was sent to a node.
func (s *Server) recordSent(r *request, snapshot uuid.UUID, stream backends.Stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sent == nil {
		s.sent = map[uuid.UUID]sentSnapshot{}
	}
	s.sent[r.dataset] = sentSnapshot{r.peer, snapshot, stream}
}

// Forget drops the records of a dataset that no longer belongs to this node.
func (s *Server) Forget(ds uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sent, ds)
}

// markInUse marks snapshots as in use until the returned function is called.
func (s *Server) markInUse(ds uuid.UUID, snapshots ...uuid.UUID) (release func()) {
	add := func(n int) {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.busy == nil {
			s.busy = map[dataset.Source]int{}
		}
		for _, id := range snapshots {
			key := dataset.Source{Dataset: ds, Snapshot: id}
			if s.busy[key] += n; s.busy[key] == 0 {
				delete(s.busy, key)
			}
		}
	}
	add(1)
	return func() { add(-1) }
}

func (s *Server) idle() time.Duration {
	return cmp.Or(s.Idle, DefaultIdle)
}

// request is a request and its sender.
type request struct {
	*http.Request
	peer, dataset uuid.UUID
}

func (s *Server) log(r *request) *logrus.Entry {
	return requestid.Log(r.Context(), s.Log).WithFields(logrus.Fields{"dataset": r.dataset, "node": r.peer})
}

// maxRequestBody bounds the body of a request; no request has one.
const maxRequestBody = 1 << 10

func (s *Server) serve(w http.ResponseWriter, r *http.Request, f func(http.ResponseWriter, *request) error) {
	r.Body = http.MaxBytesReader(w, r.Body, maxRequestBody)
	err := s.answer(w, r, f)
	if err == nil {
		return
	}
	kind := dataset.KindOf(err)
	// The peer tries again, and this agent is available again after its restart.
	if kind == dataset.ErrInternal && errors.Is(err, context.Canceled) {
		kind, err = dataset.ErrUnavailable, dataset.Errorf(dataset.ErrUnavailable, "this agent is stopping: %w", err)
	}
	// The peer gets the error, and logs it.
	requestid.Log(r.Context(), s.Log).WithError(err).WithField("path", dataset.Clip(r.URL.Path)).
		Debug("a request of another node failed")
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(kind.HTTP)
	_ = json.NewEncoder(w).Encode(dataset.ProblemOf(err)) // the peer may be gone
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request, f func(http.ResponseWriter, *request) error) error {
	req := &request{Request: r}
	var err error
	if req.dataset, err = parseID("dataset", r.PathValue("dataset")); err != nil {
		return err
	}
	if req.peer, err = s.Peer(r); err != nil {
		return err
	}
	if err := s.Source.Authorize(r.Context(), req.peer, req.dataset); err != nil {
		return err
	}
	return f(w, req)
}

func parseID(what, text string) (uuid.UUID, error) {
	id, err := uuid.Parse(text)
	if err != nil || id.String() != text {
		return uuid.Nil, dataset.Errorf(dataset.ErrInvalid, "%s %q: expected a UUID", what, dataset.Clip(text))
	}
	return id, nil
}

// maxHave bounds how many snapshots a copy may have for a plan.
const maxHave = 10_000

func (s *Server) plan(w http.ResponseWriter, r *request) error {
	have, want, err := parseHave(r)
	if err != nil {
		return err
	}
	pool, err := s.Source.Pool(r.Context(), r.dataset)
	if err != nil {
		return err
	}
	e, err := pool.Stat(r.Context(), r.dataset)
	if err != nil {
		return err
	}
	sender, ok := pool.(backends.Sender)
	if !ok {
		return dataset.Errorf(dataset.ErrUnsupported,
			"the pool of dataset %s sends no snapshots, only files", r.dataset)
	}
	also := []uuid.UUID{want}
	if r.URL.Query().Has("bases") {
		also = append(also, s.Source.CopyBases(r.Context(), r.dataset)...)
	}
	if r.URL.Query().Has("shared") {
		also = append(also, s.Source.SharedSnapshots(r.Context(), r.dataset, want)...)
	}
	if text := r.URL.Query().Get("begun"); text != "" {
		begun, err := parseID("snapshot", text)
		if err != nil {
			return err
		}
		also = append(also, begun)
	}
	plan, err := makePlan(e.Snapshots, have, also, func(base, snapshot uuid.UUID) (int64, error) {
		older := dataset.Source{}
		if base != uuid.Nil {
			older = dataset.Source{Dataset: r.dataset, Snapshot: base}
		}
		c, err := sender.Changed(r.Context(), older, dataset.Source{Dataset: r.dataset, Snapshot: snapshot})
		return c.Bytes, err
	})
	if err != nil {
		return err
	}
	return reply(w, plan)
}

func parseHave(r *request) (have []uuid.UUID, want uuid.UUID, err error) {
	q := r.URL.Query()
	if text := q.Get("want"); text != "" {
		if want, err = parseID("snapshot", text); err != nil {
			return nil, want, err
		}
	}
	text := q.Get("have")
	if text == "" {
		return nil, want, nil
	}
	all := strings.Split(text, ",")
	if len(all) > maxHave {
		return nil, want, dataset.Errorf(dataset.ErrInvalid,
			"too many snapshots to compare: %d (maximum %d)", len(all), maxHave)
	}
	for _, text := range all {
		id, err := parseID("snapshot", text)
		if err != nil {
			return nil, want, err
		}
		have = append(have, id)
	}
	return have, want, nil
}

// TakenSnapshot is a transfer snapshot. It has everything that the dataset had at the time Current.
type TakenSnapshot struct {
	dataset.Snapshot
	// Current is a time by the home's clock. If nothing was written since the snapshot was taken, Current is later than
	// the time of the snapshot. Current is zero if that time is not known.
	Current time.Time `json:"current,omitzero"`
	// Idle reports that the dataset was not in use at that time, so few changes follow.
	Idle bool `json:"idle,omitempty"`
}

func (s *Server) takeSnapshot(w http.ResponseWriter, r *request) error {
	have, _, err := parseHave(r)
	if err != nil {
		return err
	}
	current := s.Clock.Now()
	snap, idle, err := s.Source.TakeSnapshot(r.Context(), r.dataset, have)
	if err != nil {
		return err
	}
	// A snapshot that was taken just now is current. An older snapshot with a later time means that the clock was set
	// back.
	if snap.Created.After(current) && !snap.Created.After(s.Clock.Now()) {
		current = snap.Created
	}
	return reply(w, TakenSnapshot{snap, current, idle})
}

// reply answers with v. A failure cannot be reported any more.
func reply(w http.ResponseWriter, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(raw)
	return nil
}
