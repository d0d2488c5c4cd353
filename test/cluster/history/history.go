// Package history records the requests of a cluster's clients and the answers that they got. It checks whether one
// correct server could have answered so, if it executed each request at one moment between its call and its answer
// (linearizability). There are two kinds of histories: Names of volumes, and Leases of datasets. Each name and each
// dataset has a separate history. Packages test/cluster and test/chaos, and their tests, make a [Recorder] for each
// kind. A mutex protects the requests that it has recorded.
package history

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"
)

// Request is one request of a client.
type Request struct {
	Key  string // name of the volume, or the dataset
	Kind Kind
	Node string // of a lease: the node that mounts
	ID   string // of a lease: the mount ID
}

// Kind is a kind of request.
type Kind string

// The kinds of requests for names and for leases. The comment says which fields of the answer are set.
const (
	Create Kind = "create" // Dataset: the dataset that the name then has; or Done
	Get    Kind = "get"    // Dataset: the dataset that the name has; or Absent
	Remove Kind = "remove" // Done, or Absent

	Mount   Kind = "mount"   // Epoch: the epoch, on Node for ID
	Unmount Kind = "unmount" // Done
	Fence   Kind = "fence"   // Done: the mounts of Node are no longer valid, according to an operator or the guard

	save     Kind = "save"     // for all keys: the store was saved, for a later RestoreBackup
	restored Kind = "restored" // for all keys: answers may come from the saved state
)

// Answer is the answer to a client. The zero value means that there was no answer: the request has taken effect,
// will take effect at some time, or has no effect.
type Answer struct {
	Done    bool
	Refused bool   // with an error that says that nothing was changed
	Absent  bool   // there is no such volume
	Dataset string // a dataset
	Epoch   uint64 // an epoch
}

// Recorder records one history. It is safe for concurrent use.
type Recorder struct {
	model porcupine.Model
	start time.Time

	mu       sync.Mutex
	all      []*porcupine.Operation
	restores []*porcupine.Operation // two for each call of RestoreBackup: save and restored
}

// Names returns a history of the names of volumes.
func Names() *Recorder { return newRecorder(names()) }

// Leases returns a history of mounts.
func Leases() *Recorder { return newRecorder(leases()) }

func newRecorder(m porcupine.NondeterministicModel) *Recorder {
	return &Recorder{model: m.ToModel(), start: time.Now()}
}

// Begin records that a client sends a request now. The returned function records the answer. Until it is called,
// or if it is called with no answer, the request has none.
func (r *Recorder) Begin(q Request) (end func(Answer)) {
	op := &porcupine.Operation{Input: q, Output: Answer{}, Call: int64(time.Since(r.start)), Return: math.MaxInt64}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, op)
	return func(a Answer) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if a != (Answer{}) {
			op.Output, op.Return = a, int64(time.Since(r.start))
		}
	}
}

// Happened records something that took place between since and now, and became known only afterwards.
func (r *Recorder) Happened(q Request, since time.Time, a Answer) {
	op := &porcupine.Operation{Input: q, Output: a, Call: int64(since.Sub(r.start)), Return: int64(time.Since(r.start))}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, op)
}

// RestoreBackup records that the store was restored from a backup. at is the time of the restore. The backup was taken
// between from and to. After the restore, answers may come from the backup, so that acknowledged changes are missing. A
// name may have the state of the backup or the present state, and the epoch of a lease may be higher by one. The
// returned function records that answers no longer come from the backup. If it is called several times, the last call
// counts.
func (r *Recorder) RestoreBackup(from, to, at time.Time) (over func()) {
	saved := &porcupine.Operation{
		Input:  Request{Kind: save},
		Call:   int64(from.Sub(r.start)),
		Return: int64(to.Sub(r.start)),
	}
	back := &porcupine.Operation{Input: Request{Kind: restored}, Call: int64(at.Sub(r.start)), Return: math.MaxInt64}
	saved.Output, back.Output = Answer{}, Answer{}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.restores = append(r.restores, saved, back)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		back.Return = int64(time.Since(r.start))
	}
}

// maySeeBackup reports whether a name was requested while answers could come from the restored state. The caller holds
// r.mu.
func (r *Recorder) maySeeBackup(op *porcupine.Operation) bool {
	return slices.ContainsFunc(r.restores, func(b *porcupine.Operation) bool {
		return b.Input.(Request).Kind == restored && op.Return > b.Call && op.Call < b.Return
	})
}

// Check returns one text for each key whose answers no correct server could have given, or that could not be
// checked in time, with its requests. Clients may continue meanwhile; their new requests are not checked.
func (r *Recorder) Check(within time.Duration) (bad []string) {
	byKey := map[string][]porcupine.Operation{}
	var keys []string
	r.mu.Lock()
	for _, op := range r.all {
		q, a := op.Input.(Request), op.Output.(Answer)
		known := *op
		if name := q.Kind == Create || q.Kind == Get || q.Kind == Remove; name && r.maySeeBackup(op) {
			a, known.Output, known.Return = Answer{}, Answer{}, math.MaxInt64
		}
		if a.Refused || q.Kind == Get && a == (Answer{}) {
			continue // it changed nothing, and shows nothing
		}
		if _, seen := byKey[q.Key]; !seen {
			keys = append(keys, q.Key)
			for _, b := range r.restores {
				byKey[q.Key] = append(byKey[q.Key], *b)
			}
		}
		byKey[q.Key] = append(byKey[q.Key], known)
	}
	r.mu.Unlock()
	for _, key := range keys {
		if res := porcupine.CheckOperationsTimeout(r.model, byKey[key], within); res != porcupine.Ok {
			bad = append(bad, fmt.Sprintf("%s: %s\n%s", key, verdict(res), show(byKey[key])))
		}
	}
	return bad
}

func verdict(res porcupine.CheckResult) string {
	if res == porcupine.Unknown {
		return "the check did not finish in time, so it is unknown whether these answers are right"
	}
	return "no correct server gives these answers"
}

// Len returns how many requests were recorded.
func (r *Recorder) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.all)
}

// show lists requests in the order of their calls.
func show(ops []porcupine.Operation) string {
	slices.SortFunc(ops, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
	var s strings.Builder
	for _, op := range ops {
		q, until := op.Input.(Request), "no answer"
		if op.Return != math.MaxInt64 {
			until = time.Duration(op.Return).String()
		}
		fmt.Fprintf(&s, "  %-14s to %-14s %s %s %s → %+v\n", time.Duration(op.Call), until, q.Kind, q.Node, q.ID,
			op.Output)
	}
	return s.String()
}
