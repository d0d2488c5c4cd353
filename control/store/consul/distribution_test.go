package consul

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptrace"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/require"
)

// rapidKeys draws sorted keys under "k/", many of them with long common prefixes.
func rapidKeys(r *rapid.T, label string) []string {
	first := []string{"k/a", "k/long-beginning-"} // these are keys as well, mostly from parts that are split
	word := rapid.StringMatching(`(a|b|long-beginning-|[!-.0-~]{1,3})`)
	keys := rapid.SliceOfNDistinct(rapid.Custom(func(r *rapid.T) string {
		return rapid.SampledFrom(first).Draw(r, "first") + strings.Join(rapid.SliceOfN(word, 1, 6).Draw(r, "words"), "")
	}), 200, 600, rapid.ID).Draw(r, label)
	keys = append(keys, first...)
	slices.Sort(keys)
	return slices.Compact(keys)
}

// Whatever keys existed when the distribution was made, its parts cover every present key, each one once and in
// order. The same holds for what is learned from the parts.
func TestSpreadLeavesNothingOut(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		var all distributions
		all.put("k/", newKeyDistribution(rapidKeys(r, "then"), len("k/")))
		keys := rapidKeys(r, "now")
		for range 3 {
			from := rapid.SampledFrom(append([]string{"k/", "k/a", "k/long"}, keys...)).Draw(r, "from")
			start, _ := slices.BinarySearch(keys, from)
			var got []string
			for at := from; ; {
				parts := all.selectParts("k/", at, rapid.IntRange(1, 600).Draw(r, "want"))
				if len(parts) == 0 {
					break
				}
				if len(parts) > maxReads {
					r.Fatalf("%d parts at once", len(parts))
				}
				for _, p := range parts {
					held := slices.DeleteFunc(slices.Clone(keys), func(k string) bool { return !p.holds(k) })
					all.update("k/", p, held)
					got = append(got, slices.DeleteFunc(held, func(k string) bool { return k < at })...)
				}
				at = parts[len(parts)-1].end()
			}
			if !slices.Equal(got, keys[start:]) {
				r.Fatalf("from %q:\n%q\nwant\n%q", from, got, keys[start:])
			}
		}
	})
}

// If the distribution is right, a page reads few parts, and they contain few more keys than the page.
func TestSpreadIsAboutAPage(t *testing.T) {
	var keys []string
	for n := range 100000 {
		keys = append(keys, "k/production-database-"+string(rune('0'+n/10000))+string(rune('0'+n/1000%10))+
			string(rune('0'+n/100%10))+string(rune('0'+n/10%10))+string(rune('0'+n%10)))
	}
	var all distributions
	all.put("k/", newKeyDistribution(keys, len("k/")))
	for _, from := range []int{0, 1, 4242, 5555, 49999, 98000} {
		for _, limit := range []int{100, 1000} {
			held := 0
			parts := all.selectParts("k/", keys[from], limit)
			for _, p := range parts {
				held += p.count
			}
			if held > 2*limit+2*maxPart || len(parts) > maxReads {
				t.Errorf("a page of %d from key %d on reads %d keys in %d parts", limit, from, held, len(parts))
			}
		}
	}
}

// late is a transport that has a connection for a request only around the time when the caller gives up: just before
// or just after.
type late struct {
	conn   net.Conn
	before bool
	leave  context.CancelFunc
	gone   chan struct{} // closed after the caller has given up
	open   bool          // reports the connection when the request would be written
	ended  bool          // reports the context of the request
}

func (l *late) RoundTrip(req *http.Request) (*http.Response, error) {
	got := httptrace.ContextClientTrace(req.Context()).GotConn
	if l.before {
		got(httptrace.GotConnInfo{Conn: l.conn})
	}
	l.leave()
	<-l.gone
	if !l.before {
		got(httptrace.GotConnInfo{Conn: l.conn})
	}
	l.open = l.conn.SetDeadline(time.Time{}) == nil
	l.ended = req.Context().Err() != nil
	return nil, errors.New("never sent")
}

// A caller gives up while its request gets a connection. The request is sent and continues, or is not sent. It is
// never begun and then aborted, which would close its connection.
func TestGivenUpAsItConnects(t *testing.T) {
	for _, before := range []bool{true, false} {
		here, there := net.Pipe()
		ctx, leave := context.WithCancel(t.Context())
		to := &late{conn: here, before: before, leave: leave, gone: make(chan struct{})}
		req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://consul/v1/txn", http.NoBody)
		require.NoError(t, err)
		f := &inflight{ctx: t.Context(), maxTime: time.Minute, silence: silence{clock: clock.System{}}}
		if _, err := f.send(to, req, nil); err == nil {
			t.Error("an answer")
		}
		close(to.gone)
		f.wait()
		if to.open != before || to.ended == before {
			t.Errorf("connected before: %t; its connection is open: %t, its context ended: %t", before, to.open, to.ended)
		}
		here.Close()
		there.Close()
	}
}

// MaxConns is maxConns, for tests.
const MaxConns = maxConns
