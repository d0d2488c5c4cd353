package history

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"pgregory.net/rapid"
)

const patience = 10 * time.Second

// step is one request for key k, from one instant to another; 0 as the end means that no answer came.
type step struct {
	from, to int64
	q        Request
	a        Answer
}

func record(r *Recorder, steps ...step) *Recorder {
	for _, s := range steps {
		s.q.Key = "k"
		if s.to == 0 {
			s.to = math.MaxInt64
		}
		r.all = append(r.all, &porcupine.Operation{Input: s.q, Output: s.a, Call: s.from, Return: s.to})
	}
	return r
}

func create(from, to int64, is string) step {
	return step{from, to, Request{Kind: Create}, Answer{Dataset: is}}
}
func get(from, to int64, is string) step {
	return step{from, to, Request{Kind: Get}, Answer{Dataset: is, Absent: is == ""}}
}
func remove(from, to int64) step { return step{from, to, Request{Kind: Remove}, Answer{Done: to > 0}} }

func mount(from, to int64, node, id string, epoch uint64) step {
	return step{from, to, Request{Kind: Mount, Node: node, ID: id}, Answer{Epoch: epoch}}
}
func unmount(from, to int64, node, id string) step {
	return step{from, to, Request{Kind: Unmount, Node: node, ID: id}, Answer{Done: to > 0}}
}
func keep(from, to int64) step { return step{from, to, Request{Kind: save}, Answer{}} }
func back(from, to int64) step { return step{from, to, Request{Kind: restored}, Answer{}} }

func fence(from, to int64, node string) step {
	return step{from, to, Request{Kind: Fence, Node: node}, Answer{Done: true}}
}

func TestNames(t *testing.T) {
	absent := step{5, 6, Request{Kind: Remove}, Answer{Absent: true}}
	made := step{1, 2, Request{Kind: Create}, Answer{Done: true}}
	refused := step{2, 3, Request{Kind: Create}, Answer{Refused: true}}
	for name, tt := range map[string]struct {
		steps []step
		ok    bool
	}{
		"nothing":                                {nil, true},
		"creates of one name are one":            {[]step{create(1, 9, "a"), create(2, 8, "a"), create(10, 11, "a")}, true},
		"creates of one name are two (I5)":       {[]step{create(1, 9, "a"), create(2, 8, "b")}, false},
		"a new dataset after a remove":           {[]step{create(1, 2, "a"), remove(3, 4), get(5, 6, ""), create(7, 8, "b")}, true},
		"the old dataset after a remove":         {[]step{create(1, 2, "a"), remove(3, 4), create(7, 8, "a")}, false},
		"seen after it was removed":              {[]step{create(1, 2, "a"), remove(3, 4), get(5, 6, "a")}, false},
		"seen while it is removed":               {[]step{create(1, 2, "a"), remove(3, 9), get(5, 6, "a"), get(7, 8, "")}, true},
		"comes back":                             {[]step{create(1, 2, "a"), remove(3, 9), get(5, 6, ""), get(7, 8, "a")}, false},
		"gone after it was made (I7)":            {[]step{create(1, 2, "a"), get(3, 4, "")}, false},
		"removed twice":                          {[]step{create(1, 2, "a"), remove(3, 9), remove(4, 8)}, false},
		"removed once, then absent":              {[]step{create(1, 2, "a"), remove(3, 4), absent}, true},
		"absent while it is there":               {[]step{create(1, 2, "a"), absent}, false},
		"a create without answer, late":          {[]step{create(1, 0, ""), get(3, 4, ""), get(5, 6, "a"), get(7, 8, "a")}, true},
		"a create without answer is one dataset": {[]step{create(1, 0, ""), get(3, 4, "a"), get(5, 6, "b")}, false},
		"a create without answer found, removed": {[]step{create(1, 0, ""), remove(3, 4), create(5, 6, "a")}, true},
		"a create without answer is no old one":  {[]step{create(1, 2, "a"), remove(3, 4), create(5, 0, ""), get(7, 8, "a")}, false},
		"a remove without answer, late":          {[]step{create(1, 2, "a"), remove(3, 0), get(4, 5, "a"), get(6, 7, "")}, true},
		"a remove without answer once":           {[]step{create(1, 2, "a"), remove(3, 0), get(4, 5, ""), create(6, 7, "b"), get(8, 9, "")}, false},
		"made, and which is seen later":          {[]step{made, get(3, 4, "a"), create(5, 6, "a")}, true},
		"made, and not there":                    {[]step{made, get(3, 4, "")}, false},
		"made twice, and one dataset":            {[]step{create(1, 9, "a"), made, get(11, 12, "a")}, true},
		"restored to before it was removed":      {[]step{create(1, 2, "a"), keep(3, 4), remove(5, 6), back(7, 8), get(9, 10, "a"), remove(11, 12)}, true},
		"restored to before it was made":         {[]step{keep(1, 2), create(3, 4, "a"), back(5, 6), get(7, 8, "")}, true},
		"restored, and there as it was":          {[]step{keep(1, 2), create(3, 4, "a"), back(5, 6), get(7, 8, "a")}, true},
		"restored, and it is gone":               {[]step{create(1, 2, "a"), keep(3, 4), back(5, 6), get(7, 8, "")}, false},
		"restored, and another is there":         {[]step{create(1, 2, "a"), keep(3, 4), back(5, 6), get(7, 8, "b")}, false},
		"what was refused does nothing":          {[]step{refused, get(4, 5, "")}, true},
	} {
		t.Run(name, func(t *testing.T) { want(t, record(Names(), tt.steps...), tt.ok) })
	}
}

func TestLeases(t *testing.T) {
	for name, tt := range map[string]struct {
		steps []step
		ok    bool
	}{
		"two uses on one node":                    {[]step{mount(1, 9, "a", "x", 1), mount(2, 8, "a", "y", 1)}, true},
		"two nodes at once (I1)":                  {[]step{mount(1, 9, "a", "x", 1), mount(2, 8, "b", "y", 2)}, false},
		"two nodes under one epoch":               {[]step{mount(1, 2, "a", "x", 1), unmount(3, 4, "a", "x"), mount(5, 6, "b", "y", 1)}, false},
		"handed over":                             {[]step{mount(1, 2, "a", "x", 1), unmount(3, 4, "a", "x"), mount(3, 6, "b", "y", 3)}, true},
		"handed over while one use goes on":       {[]step{mount(1, 2, "a", "x", 1), mount(1, 2, "a", "z", 1), unmount(3, 4, "a", "x"), mount(5, 6, "b", "y", 2)}, false},
		"the epoch goes back":                     {[]step{mount(1, 2, "a", "x", 5), unmount(3, 4, "a", "x"), mount(5, 6, "a", "x", 4)}, false},
		"the epoch grows under a user":            {[]step{mount(1, 2, "a", "x", 5), mount(3, 4, "a", "y", 6)}, false},
		"a move that did not come about":          {[]step{mount(1, 2, "a", "x", 5), unmount(3, 4, "a", "x"), mount(5, 6, "a", "x", 6)}, true},
		"a mount without answer on another":       {[]step{mount(1, 2, "a", "x", 1), mount(3, 0, "b", "y", 0), mount(4, 5, "a", "z", 1)}, true},
		"a mount without answer came about":       {[]step{mount(3, 0, "b", "y", 0), mount(4, 5, "b", "z", 7), unmount(8, 9, "b", "y")}, true},
		"a mount without answer came about, once": {[]step{mount(3, 0, "b", "y", 0), mount(4, 5, "b", "z", 7), mount(6, 7, "b", "w", 8)}, false},
		"an unmount without answer":               {[]step{mount(1, 2, "a", "x", 1), unmount(3, 0, "a", "x"), mount(5, 6, "b", "y", 2)}, true},
		"fenced":                                  {[]step{mount(1, 2, "a", "x", 1), fence(3, 4, "a"), mount(5, 6, "b", "y", 2)}, true},
		"fenced too late":                         {[]step{mount(1, 2, "a", "x", 1), mount(5, 6, "b", "y", 2), fence(7, 8, "a")}, false},
		"the epoch grows with what was restored":  {[]step{mount(1, 2, "a", "x", 5), back(3, 4), mount(5, 6, "a", "y", 5), mount(7, 8, "a", "z", 6)}, true},
		"it does so once":                         {[]step{mount(1, 2, "a", "x", 5), back(3, 4), mount(5, 6, "a", "y", 6), mount(7, 8, "a", "z", 7)}, false},
		"restored, another node":                  {[]step{mount(1, 2, "a", "x", 5), back(3, 4), mount(5, 6, "b", "y", 6)}, false},
		"another was fenced":                      {[]step{mount(1, 2, "a", "x", 1), fence(3, 4, "b"), mount(5, 6, "b", "y", 2)}, false},
	} {
		t.Run(name, func(t *testing.T) { want(t, record(Leases(), tt.steps...), tt.ok) })
	}
}

func want(t *testing.T, r *Recorder, ok bool) {
	t.Helper()
	bad := r.Check(patience)
	if (len(bad) == 0) != ok {
		t.Errorf("got %q, want well %t", bad, ok)
	}
	if !ok && !strings.Contains(strings.Join(bad, ""), "no correct server") {
		t.Errorf("%q", bad)
	}
}

// The answers of a correct server are accepted, whichever of them get lost. One wrong answer is not.
func TestNamesOfCorrectServer(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var steps []step
		now, made := "", 0
		for i := range rapid.IntRange(1, 12).Draw(t, "requests") {
			at := int64(100 * (i + 1))
			s := step{from: at - rapid.Int64Range(0, 250).Draw(t, "before"), to: at + rapid.Int64Range(0, 250).Draw(t, "after")}
			switch s.q.Kind = rapid.SampledFrom([]Kind{Create, Get, Remove}).Draw(t, "what"); s.q.Kind {
			case Create:
				if now == "" {
					made++
					now = fmt.Sprint("dataset", made)
				}
				s.a.Dataset = now
			case Get:
				s.a = Answer{Dataset: now, Absent: now == ""}
			case Remove:
				s.a = Answer{Done: now != "", Absent: now == ""}
				now = ""
			}
			if rapid.IntRange(0, 3).Draw(t, "lost") == 0 {
				s.to, s.a = 0, Answer{}
			}
			steps = append(steps, s)
		}
		if bad := record(Names(), steps...).Check(patience); len(bad) > 0 {
			t.Fatal(bad)
		}
		for _, s := range steps {
			if s.to == 0 {
				return // its effect may explain the next answer
			}
		}
		steps = append(steps, get(1<<40, 1<<41, "another"))
		if bad := record(Names(), steps...).Check(patience); len(bad) != 1 {
			t.Fatalf("a wrong answer passes: %q", bad)
		}
	})
}

// What cannot be decided is not accepted as correct.
func TestCheckGivesUp(t *testing.T) {
	r := Names()
	for range 12 {
		record(r, create(1, 0, ""), remove(1, 0))
	}
	for i := range int64(12) {
		record(r, get(2*i+2, 2*i+3, fmt.Sprint("dataset", i)))
	}
	record(r, get(100, 101, "dataset0"))
	if bad := r.Check(time.Millisecond); len(bad) != 1 || !strings.Contains(bad[0], "the check did not finish in time") {
		t.Errorf("%.200q", bad)
	}
}

// While answers may come from a store that was restored from a backup, answers about names prove nothing. Before and
// after that, they do.
func TestRestoreBackup(t *testing.T) {
	for name, told := range map[string]func(r *Recorder, ask func()){
		"while it may answer": func(r *Recorder, ask func()) {
			now := time.Now()
			over := r.RestoreBackup(now, now, now)
			ask()
			over()
		},
		"after": func(r *Recorder, ask func()) {
			now := time.Now()
			r.RestoreBackup(now, now, now)()
			ask()
		},
	} {
		r := Names()
		r.Begin(Request{Key: "k", Kind: Create})(Answer{Dataset: "one"})
		told(r, func() { r.Begin(Request{Key: "k", Kind: Get})(Answer{Absent: true}) })
		r.Begin(Request{Key: "k", Kind: Get})(Answer{Dataset: "one"})
		if bad := r.Check(patience); (len(bad) == 0) != (name == "while it may answer") {
			t.Errorf("%s: %q", name, bad)
		}
	}
}

// The recorder keeps keys apart, and keeps requests that were never answered.
func TestRecorder(t *testing.T) {
	r := Names()
	a, b := r.Begin(Request{Key: "a", Kind: Create}), r.Begin(Request{Key: "b", Kind: Create})
	b(Answer{Dataset: "one"})
	a(Answer{})
	r.Begin(Request{Key: "a", Kind: Get})(Answer{Absent: true})
	r.Begin(Request{Key: "b", Kind: Get})(Answer{Dataset: "one"})
	r.Begin(Request{Key: "c", Kind: Get}) // still waits for an answer
	if bad := r.Check(patience); len(bad) > 0 || r.Len() != 5 {
		t.Error(bad, r.Len())
	}
	r.Begin(Request{Key: "b", Kind: Get})(Answer{Absent: true})
	bad := r.Check(patience)
	if len(bad) != 1 || !strings.HasPrefix(bad[0], "b: no correct server") || strings.Count(bad[0], "\n") != 4 {
		t.Errorf("%q", bad)
	}
}
