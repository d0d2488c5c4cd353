// Package remoteserver serves recorded repositories to other clusters, by restic's REST protocol. The daemon
// (cmd/drover/internal/daemon) makes a Server if drover.yaml has the key remotes, and serves it with the TLS of an
// Authority.
//
// A request names a grant in its path and authenticates with the secret of the grant. Control records the grants, and
// the repositories. The Server reads both from control if its copy is older than maxAge. A request with an unknown
// grant or secret makes it read them earlier, but not more often than once in minPause. While control cannot be
// reached, the Server refuses every request. Package internal/restserver decides what a request may do in a directory.
//
// Run removes what interrupted uploads have left: see sweep.go. File refusals.go logs refused secrets.
//
// The Server has this state in memory, protected by a mutex: the grants and repositories as read from control, a
// restserver.Directory for each repository, and the number of requests and the last use of each grant (uses.go). The
// key of the Authority is in a file in Drover's root: see certificate.go.
package remoteserver

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/restserver"
)

// Records are the records of control. api.Service implements it.
type Records interface {
	Grants(ctx context.Context) ([]dataset.Grant, error)
	Repositories(ctx context.Context) ([]dataset.Repository, error)
}

// Deps are the dependencies of a Server.
type Deps struct {
	Records Records
	Clock   clock.Clock
	Log     logrus.FieldLogger
	// ID identifies the server among those that serve the same directory. It is the same after a restart.
	ID string
	// Admit is called with the context of each request that has the secret of a grant, before the request is carried
	// out. It may be nil.
	Admit func(ctx context.Context, grant string)
}

// Server is an http.Handler for other clusters. Safe for concurrent use.
type Server struct {
	deps    Deps
	uploads *restserver.Uploads
	refused *refusalLog
	started time.Time

	mu          sync.Mutex
	grants      map[string]grant
	err         error         // why the records could not be read
	known       bool          // false before the first attempt to read the records
	at          time.Duration // when the last attempt to read the records began
	directories map[string]*restserver.Directory
	active      map[string]chan struct{} // by the name of the grant
	lastUse     map[string]time.Time     // of grants since started, by the hash of the secret
}

// grant is a grant with the directory of its repository.
type grant struct {
	dataset.Grant
	directory *restserver.Directory
	active    chan struct{} // has an element for each request that is carried out
}

// New returns a Server.
func New(d Deps) *Server {
	return &Server{
		deps:        d,
		uploads:     restserver.NewUploads(d.ID),
		refused:     &refusalLog{log: d.Log, clock: d.Clock},
		started:     d.Clock.Now(),
		directories: map[string]*restserver.Directory{},
		lastUse:     map[string]time.Time{},
	}
}

// The Server reads the records again after maxAge. So a grant that was removed is refused after this time at the
// latest. A request in progress ends at the latest when twice this time has passed. If control cannot be asked, it
// continues for maxUnknown. A request with an unknown grant or secret waits for minPause. Then the Server reads the
// records again, because the grant can be new. A request waits at most readTimeout for the records.
const (
	maxAge      = 3 * time.Second
	maxUnknown  = time.Minute
	minPause    = 200 * time.Millisecond
	readTimeout = 10 * time.Second
)

// maxRequests is how many requests of a grant are carried out at once. Others wait for maxWait. While a filesystem
// hangs, each request has a thread that nothing can end. A Go program with 10000 threads crashes, and the agent serves
// volumes, too.
const (
	maxRequests = 64
	maxWait     = 10 * time.Second
)

// find returns the grant with a name and a secret. It fails if the records cannot be read from control.
func (s *Server) find(ctx context.Context, name, secret string) (g grant, ok bool, err error) {
	arrived := s.deps.Clock.Steady()
	if g, ok, err = s.lookUp(ctx, name, secret, arrived-maxAge); ok || err != nil {
		return g, ok, err
	}
	select { // without the lock, so that other requests do not wait
	case <-s.deps.Clock.After(minPause):
	case <-ctx.Done():
	}
	return s.lookUp(ctx, name, secret, arrived)
}

// lookUp returns the grant with a name and a secret from records whose read began after the given time. It reads the
// records if the copy is older. Requests that wait for a read share its result, also if the read fails.
func (s *Server) lookUp(ctx context.Context, name, secret string, after time.Duration) (g grant, ok bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.known || s.at <= after {
		// The records are for all requests, so the end of this request must not end the read.
		reading, cancel := context.WithTimeout(context.WithoutCancel(ctx), readTimeout)
		defer cancel()
		begin := s.deps.Clock.Steady()
		s.grants, s.err = s.read(reading)
		s.known, s.at = true, begin
	}
	g = s.grants[name]
	return g, g.accepts(secret), s.err
}

// enter waits until a request of the grant can be carried out. It reports whether that is so. The caller must then call
// leave.
func (s *Server) enter(ctx context.Context, g grant) bool {
	select {
	case g.active <- struct{}{}:
		return true
	default:
	}
	select {
	case g.active <- struct{}{}:
		return true
	case <-s.deps.Clock.After(maxWait):
	case <-ctx.Done():
	}
	return false
}

func (g grant) leave() { <-g.active }

// watch ends a request in progress when its grant was removed, was replaced or has expired, or when control could not
// be asked for maxUnknown. It returns when ctx ends.
func (s *Server) watch(ctx context.Context, g grant, secret string, end context.CancelCauseFunc) {
	known := s.deps.Clock.Steady()
	for {
		select {
		case <-s.deps.Clock.After(maxAge):
		case <-ctx.Done():
			return
		}
		now, ok, err := s.lookUp(ctx, g.Name, secret, s.deps.Clock.Steady()-maxAge)
		switch {
		case err != nil && !errors.Is(err, dataset.ErrConflict) && s.deps.Clock.Steady()-known < maxUnknown:
			continue // an inconsistent store is a conflict: it can have a grant that was removed
		case err != nil:
			end(unreadable())
		case !ok, now.directory != g.directory, g.Push && !now.Push:
			end(restserver.Refuse(http.StatusUnauthorized, "the grant was removed"))
		case now.Expired(s.deps.Clock.Now()):
			end(expired())
		}
		known = s.deps.Clock.Steady()
	}
}

func unreadable() *restserver.Refusal {
	return restserver.Refuse(http.StatusServiceUnavailable, "the grants cannot be read now")
}

func expired() *restserver.Refusal {
	return restserver.Refuse(http.StatusGone, "the grant has expired")
}

func (s *Server) read(ctx context.Context) (map[string]grant, error) {
	list, err := s.deps.Records.Grants(ctx)
	if err != nil {
		return nil, err
	}
	repositories, err := s.deps.Records.Repositories(ctx)
	if err != nil {
		return nil, err
	}
	directories := map[string]*restserver.Directory{}
	grants, active, lastUse := map[string]grant{}, map[string]chan struct{}{}, map[string]time.Time{}
	for _, g := range list {
		if used, ok := s.lastUse[g.SecretHash]; ok {
			lastUse[g.SecretHash] = used
		}
		for _, r := range repositories {
			if !g.Allows(r) {
				continue
			}
			d := directories[r.URL]
			if d == nil {
				d = s.directories[r.URL]
			}
			if d == nil {
				d = restserver.Open(r.URL, s.deps.Clock, s.uploads)
			}
			directories[r.URL] = d
			if active[g.Name] = s.active[g.Name]; active[g.Name] == nil {
				active[g.Name] = make(chan struct{}, maxRequests)
			}
			grants[g.Name] = grant{g, d, active[g.Name]}
		}
	}
	s.directories, s.active, s.lastUse = directories, active, lastUse
	return grants, nil
}

// ServeHTTP answers a request for a repository. restic sends /GRANT/… for the URL rest:https://HOST:PORT/GRANT.
// It answers with status 401 if the secret is wrong or there is no such grant, with 410 if the grant has expired, and
// with 503 if control cannot be asked or the grant has too many requests at once.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name, path, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/")
	user, secret, authenticated := r.BasicAuth()
	var g grant
	var accepted bool
	var err error
	if authenticated && user == name {
		g, accepted, err = s.find(r.Context(), name, secret)
	}
	switch {
	case err != nil:
		s.deps.Log.WithError(err).Debug("cannot read the grants of other clusters")
		unreadable().Answer(w)
		return
	case !accepted:
		if authenticated {
			s.refused.add(name, r.RemoteAddr)
		}
		w.Header().Set("Connection", "close") // it was admitted, if the grant was valid before
		w.Header().Set("WWW-Authenticate", `Basic realm="drover"`)
		http.Error(w, "no such grant, or another secret", http.StatusUnauthorized)
		return
	case g.Expired(s.deps.Clock.Now()):
		w.Header().Set("Connection", "close")
		expired().Answer(w)
		return
	}
	s.noteUse(g)
	if s.deps.Admit != nil {
		s.deps.Admit(r.Context(), g.Name)
	}
	if !s.enter(r.Context(), g) {
		http.Error(w, "the grant has too many requests at once", http.StatusServiceUnavailable)
		return
	}
	defer g.leave()
	ctx, end := context.WithCancelCause(r.Context())
	defer end(nil)
	go s.watch(ctx, g, secret, end)
	r = r.WithContext(ctx)
	log := s.deps.Log.WithFields(logrus.Fields{"grant": g.Name, "repository": g.Repository, "from": r.RemoteAddr})
	access := restserver.Access{Push: g.Push, Quota: int64(g.Quota)}
	answer := &recorder{ResponseWriter: w, status: http.StatusOK}
	if err := g.directory.Serve(answer, r, path, access); err != nil {
		log.WithError(err).Warn("cannot serve the repository to another cluster")
	}
	if snapshot, ok := strings.CutPrefix(path, "snapshots/"); ok && answer.status == http.StatusOK {
		switch r.Method {
		case http.MethodPost:
			log.WithField("snapshot", snapshot).Info("another cluster stored a snapshot in a repository")
		case http.MethodDelete:
			log.WithField("snapshot", snapshot).Info("another cluster removed a snapshot from a repository")
		}
	}
}

// accepts reports whether a secret is that of the grant, in constant time. The zero grant accepts none.
func (g grant) accepts(secret string) bool {
	sum := sha256.Sum256([]byte(secret))
	return subtle.ConstantTimeCompare([]byte(hex.EncodeToString(sum[:])), []byte(g.SecretHash)) == 1
}

// recorder remembers the status of a response.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets an http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }
