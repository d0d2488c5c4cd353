// Package history records what clients of a cluster asked and were told, and checks
// that a single correct server could have answered so, each request at one instant
// between its call and its answer (linearizability): Names of volumes, Leases of
// datasets. Each name and each dataset is a history of its own.
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

// Request is what a client asks.
type Request struct {
	Key  string // the volume's name, or the dataset
	What What
	Node string // of a lease: who asks
	ID   string // of a lease: the mount ID
}

// What is a kind of request.
type What string

// The kinds of requests: of names, and of leases.
const (
	Create What = "create" // Is: the dataset that the name has then; or Done
	Get    What = "get"    // Is: the dataset that it has, or Absent
	Remove What = "remove" // Done, or Absent

	Mount   What = "mount"   // At: the epoch, on Node for ID
	Unmount What = "unmount" // Done
	Fence   What = "fence"   // Done: what Node had mounted is void, in a person's or the guard's word

	save    What = "save"     // of all keys: what PutBack says
	putBack What = "put back" // likewise
)

// Answer is what a client was told. The zero value is no answer: the request had its
// effect, will have it at any time, or has none.
type Answer struct {
	Done    bool
	Refused bool   // with an error that says that nothing was changed
	Absent  bool   // there is no such volume
	Is      string // a dataset
	At      uint64 // an epoch
}

// Recorder records one history. It is safe for concurrent use.
type Recorder struct {
	model porcupine.Model
	start time.Time

	mu    sync.Mutex
	all   []*porcupine.Operation
	backs []*porcupine.Operation // two for each time that all of it was put back
}

// Names is a history of volumes' names.
func Names() *Recorder { return newRecorder(names()) }

// Leases is a history of who mounted what.
func Leases() *Recorder { return newRecorder(leases()) }

func newRecorder(m porcupine.NondeterministicModel) *Recorder {
	return &Recorder{model: m.ToModel(), start: time.Now()}
}

// Begin notes that a client sends a request now; what it returns notes the answer. Until
// that is called, and when it is called with no answer, none has come.
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

// Happened notes what was done between an instant and now, which shows in hindsight.
func (r *Recorder) Happened(q Request, since time.Time, a Answer) {
	op := &porcupine.Operation{Input: q, Output: a, Call: int64(since.Sub(r.start)), Return: int64(time.Since(r.start))}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, op)
}

// PutBack notes that since an instant whoever answers may know what it knew at a time
// between two others, and not what it said since. Names come out of that as they were then
// or as they are, epochs of leases may be one higher. What it returns says that this is
// over, until it is called again.
func (r *Recorder) PutBack(from, to, at time.Time) (over func()) {
	saved := &porcupine.Operation{
		Input:  Request{What: save},
		Call:   int64(from.Sub(r.start)),
		Return: int64(to.Sub(r.start)),
	}
	back := &porcupine.Operation{Input: Request{What: putBack}, Call: int64(at.Sub(r.start)), Return: math.MaxInt64}
	saved.Output, back.Output = Answer{}, Answer{}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.backs = append(r.backs, saved, back)
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		back.Return = int64(time.Since(r.start))
	}
}

// void reports whether a name was asked for while what was put back may have answered. The
// lock is held.
func (r *Recorder) void(op *porcupine.Operation) bool {
	return slices.ContainsFunc(r.backs, func(b *porcupine.Operation) bool {
		return b.Input.(Request).What == putBack && op.Return > b.Call && op.Call < b.Return
	})
}

// Check returns what is wrong: one text for each key whose answers no correct server
// could have given, or of which that could not be told within a time, with its requests.
// Clients may go on meanwhile; what they ask then is not looked at.
func (r *Recorder) Check(within time.Duration) (bad []string) {
	byKey := map[string][]porcupine.Operation{}
	var keys []string
	r.mu.Lock()
	for _, op := range r.all {
		q, a := op.Input.(Request), op.Output.(Answer)
		known := *op
		if name := q.What == Create || q.What == Get || q.What == Remove; name && r.void(op) {
			a, known.Output, known.Return = Answer{}, Answer{}, math.MaxInt64
		}
		if a.Refused || q.What == Get && a == (Answer{}) {
			continue // changed nothing, and tells nothing
		}
		if _, seen := byKey[q.Key]; !seen {
			keys = append(keys, q.Key)
			for _, b := range r.backs {
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
		return "it could not be told within the time whether these answers are right"
	}
	return "no correct server gives these answers"
}

// Len is how many requests were recorded.
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
		fmt.Fprintf(&s, "  %-14s to %-14s %s %s %s → %+v\n", time.Duration(op.Call), until, q.What, q.Node, q.ID,
			op.Output)
	}
	return s.String()
}
