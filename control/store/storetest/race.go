package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/store"
)

// read returns an entry, or one with index 0 for a key that is absent.
func read(ctx context.Context, s store.Store, key string) (store.Entry, error) {
	e, err := s.Get(ctx, key)
	if errors.Is(err, store.ErrNotFound) {
		return store.Entry{Key: key}, nil
	}
	return e, err
}

// decide reads keys and commits the writes that fn returns for them, with a check for every key that was read. It
// reports whether the transaction was committed.
func decide(ctx context.Context, s store.Store, keys []string, fn func(map[string]store.Entry) []store.Write) (bool,
	error) {
	have := map[string]store.Entry{}
	var checks []store.Precondition
	for _, k := range keys {
		e, err := read(ctx, s, k)
		if err != nil {
			return false, err
		}
		have[k] = e
		checks = append(checks, store.Precondition{Key: k, Index: e.Index})
	}
	writes := fn(have)
	if writes == nil {
		return false, nil
	}
	_, err := s.Txn(ctx, checks, writes)
	if errors.Is(err, store.ErrConflict) {
		return false, nil
	}
	return err == nil, err
}

// race runs pairs of decisions concurrently. It passes the outcome of each turn to check.
func race(t *testing.T, turns int, turn func(n int) (a, b func() (bool, error)), check func(n int, a, b bool)) {
	t.Helper()
	for n := range turns {
		first, second := turn(n)
		var wg sync.WaitGroup
		var okA, okB bool
		var errA, errB error
		start := make(chan struct{})
		wg.Go(func() { <-start; okA, errA = first() })
		wg.Go(func() { <-start; okB, errB = second() })
		close(start)
		wg.Wait()
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		check(n, okA, okB)
	}
}

// A delete reads the lease (not mounted) and writes the dataset. A mount reads the dataset (it exists) and writes the
// lease. Each writes the key that the other one only reads. Exactly one of them must be committed.
func testDeleteAndMount(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	keys := func(n int) (ds, lease string) { return fmt.Sprintf("datasets/%d", n), fmt.Sprintf("leases/%d", n) }
	race(t, 60, func(n int) (a, b func() (bool, error)) {
		ds, lease := keys(n)
		txn(t, s, nil, set(ds, "ready"))
		remove := func() (bool, error) {
			return decide(ctx, s, []string{ds, lease}, func(have map[string]store.Entry) []store.Write {
				if have[lease].Index != 0 || have[ds].Index == 0 {
					return nil
				}
				return []store.Write{del(ds)}
			})
		}
		mount := func() (bool, error) {
			return decide(ctx, s, []string{ds, lease}, func(have map[string]store.Entry) []store.Write {
				if have[ds].Index == 0 {
					return nil
				}
				return []store.Write{set(lease, "held")}
			})
		}
		return remove, mount
	}, func(n int, removed, mounted bool) {
		if removed == mounted {
			t.Fatalf("turn %d: removed %v, mounted %v", n, removed, mounted)
		}
	})
}

// A new volume and a restore from the trash both need the name. The restore also needs the dataset in the trash, and a
// purge removes it.
func testNameAndRestore(t *testing.T, s store.Store) {
	ctx := ctxOf(t)
	race(t, 60, func(n int) (a, b func() (bool, error)) {
		name, ds := fmt.Sprintf("names/%d", n), fmt.Sprintf("datasets/%d", n)
		txn(t, s, nil, set(ds, "trashed"))
		create := func() (bool, error) {
			return decide(ctx, s, []string{name}, func(have map[string]store.Entry) []store.Write {
				if have[name].Index != 0 {
					return nil
				}
				return []store.Write{set(name, "new"), set(ds+"/new", "ready")}
			})
		}
		restore := func() (bool, error) {
			return decide(ctx, s, []string{name, ds}, func(have map[string]store.Entry) []store.Write {
				if have[name].Index != 0 || string(have[ds].Value) != "trashed" {
					return nil
				}
				return []store.Write{set(name, "old"), set(ds, "ready")}
			})
		}
		purge := func() (bool, error) {
			return decide(ctx, s, []string{ds}, func(have map[string]store.Entry) []store.Write {
				if string(have[ds].Value) != "trashed" {
					return nil
				}
				return []store.Write{set(ds, "purging")}
			})
		}
		if n%2 == 0 {
			return create, restore
		}
		return purge, restore
	}, func(n int, a, b bool) {
		if a == b {
			t.Fatalf("turn %d: both or none went through: %v", n, a)
		}
	})
}

func testOneNameOneClaim(t *testing.T, s store.Store) {
	const callers = 50
	var wg sync.WaitGroup
	var mu sync.Mutex
	won := 0
	for n := range callers {
		wg.Go(func() {
			_, err := s.Txn(t.Context(), []store.Precondition{absent("names/db")},
				[]store.Write{set("names/db", fmt.Sprint(n)), set(fmt.Sprint("datasets/", n), "x")})
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				won++
			case !errors.Is(err, store.ErrConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if list := all(t, s); won != 1 || len(list) != 2 || list[0].Key != "datasets/"+string(list[1].Value) {
		t.Errorf("%d callers won: %v", won, list)
	}
}

// Calls are cancelled at any moment. The caller then looks for the ID of its request and tries again. In the end each
// request has been executed exactly once.
func testRetryAfterUnknownOutcome(t *testing.T, s store.Store) {
	const callers, adds = 8, 10
	txn(t, s, nil, set("sum", "0"))
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for n := range adds {
				if err := addOnce(t.Context(), s, time.Duration(n)*40*time.Microsecond); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if e := get(t, s, "sum"); string(e.Value) != fmt.Sprint(callers*adds) {
		t.Errorf("%d additions made %s", callers*adds, e.Value)
	}
	done, err := s.List(t.Context(), "requests/", "", 0)
	if err != nil || len(done) != callers*adds {
		t.Errorf("%d requests are on record, %v", len(done), err)
	}
}

func addOnce(ctx context.Context, s store.Store, limit time.Duration) error {
	request := "requests/" + uuid.NewString()
	for {
		sum, err := read(ctx, s, "sum")
		if err != nil {
			return err
		}
		own, err := read(ctx, s, request)
		if err != nil {
			return err
		}
		if own.Index != 0 {
			return nil
		}
		n, err := strconv.Atoi(string(sum.Value))
		if err != nil {
			return err
		}
		short, cancel := context.WithTimeout(ctx, limit)
		_, err = s.Txn(short, []store.Precondition{{Key: "sum", Index: sum.Index}, absent(request)},
			[]store.Write{set("sum", strconv.Itoa(n+1)), set(request, "done")})
		cancel()
		if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		limit += time.Millisecond // so that every caller succeeds at last
	}
}

// increment is one addition to a counter, as its caller saw it.
type increment struct {
	value      int
	index      uint64
	start, end time.Time
}

// testIncrements adds to a counter by compare and swap from many callers. The indexes show the order in which the
// store executed the increments. Each increment must have read the value that the previous one wrote (serializable).
// An increment that ended before another one began must have a lower index (real time). Together these properties are
// linearizability.
func testIncrements(t *testing.T, s store.Store) {
	const callers, adds = 8, 25
	var mu sync.Mutex
	var history []increment
	var wg sync.WaitGroup
	for range callers {
		wg.Go(func() {
			for done := 0; done < adds; {
				in := increment{start: time.Now()}
				e, err := read(t.Context(), s, "counter")
				if err != nil {
					t.Error(err)
					return
				}
				if e.Index != 0 {
					in.value, _ = strconv.Atoi(string(e.Value))
				}
				in.value++
				in.index, err = s.Txn(t.Context(), []store.Precondition{{Key: "counter", Index: e.Index}},
					[]store.Write{set("counter", strconv.Itoa(in.value))})
				in.end = time.Now()
				if errors.Is(err, store.ErrConflict) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				done++
				mu.Lock()
				history = append(history, in)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	slices.SortFunc(history, func(a, b increment) int { return int(int64(a.index) - int64(b.index)) })
	latestStart := time.Time{}
	for n, in := range history {
		if in.value != n+1 {
			t.Fatalf("the %dth addition by index wrote %d", n+1, in.value)
		}
		if n > 0 && in.index == history[n-1].index {
			t.Fatalf("two additions have index %d", in.index)
		}
		if in.end.Before(latestStart) {
			t.Fatalf("the addition of %d ended before one began that the store did earlier", in.value)
		}
		if in.start.After(latestStart) {
			latestStart = in.start
		}
	}
}

// testTransfers moves units between accounts. A reader that lists all accounts without a limit, and so at the same
// moment, always sees the same sum.
func testTransfers(t *testing.T, s store.Store) {
	const accounts, movers, moves = 5, 4, 25
	key := func(n int) string { return fmt.Sprintf("accounts/%d", n%accounts) }
	for n := range accounts {
		txn(t, s, nil, set(key(n), "100"))
	}
	ctx := ctxOf(t)
	var wg, reader sync.WaitGroup
	for m := range movers {
		wg.Go(func() {
			for n := range moves {
				from, to := key(m+n), key(m+n*3+1)
				if from == to {
					continue
				}
				for ok := false; !ok; {
					var err error
					ok, err = decide(ctx, s, []string{from, to}, func(have map[string]store.Entry) []store.Write {
						a, _ := strconv.Atoi(string(have[from].Value))
						b, _ := strconv.Atoi(string(have[to].Value))
						return []store.Write{set(from, strconv.Itoa(a-1)), set(to, strconv.Itoa(b+1))}
					})
					if err != nil {
						t.Error(err)
						return
					}
				}
			}
		})
	}
	done := make(chan struct{})
	reader.Go(func() {
		for {
			list, err := s.List(ctx, "accounts/", "", 0)
			sum := 0
			for _, e := range list {
				n, _ := strconv.Atoi(string(e.Value))
				sum += n
			}
			if err != nil || sum != 100*accounts {
				t.Errorf("the sum is %d, %v", sum, err)
				return
			}
			select {
			case <-done:
				return
			default:
			}
		}
	})
	wg.Wait()
	close(done)
	reader.Wait()
}
