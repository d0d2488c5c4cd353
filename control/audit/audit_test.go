package audit

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

var start = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func open(t *testing.T) (*Log, *fakes.Clock, *[]error) {
	t.Helper()
	clk := fakes.NewClock(start)
	var failed []error
	l, err := Open(filepath.Join(t.TempDir(), "audit.log"), clk, func(err error) { failed = append(failed, err) })
	require.NoError(t, err)
	t.Cleanup(func() { l.Close() })
	return l, clk, &failed
}

func lines(t *testing.T, path string) (out []line) {
	t.Helper()
	b, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, s := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
		var l line
		require.NoErrorf(t, json.Unmarshal(s, &l), "%s", s)
		out = append(out, l)
	}
	return out
}

func TestKeep(t *testing.T) {
	l, _, failed := open(t)
	l.Keep(api.Change{Who: "node a", What: "commit", Target: "db\n", Outcome: api.Done})
	require.NoError(t, l.Close())
	if l.Keep(api.Change{Outcome: api.Done}); len(*failed) != 1 || !errors.Is((*failed)[0], os.ErrClosed) {
		t.Error(*failed)
	}
	*failed = nil
	again, err := Open(l.path, l.clock, l.failed)
	require.NoError(t, err)
	defer again.Close()
	again.Keep(api.Change{Who: "operator bob (viewer)", What: "delete-volume", Outcome: api.Refused, Code: "forbidden"})
	got := lines(t, l.path)
	if len(got) != 2 || got[0].Target != "db\n" || !got[0].Time.Equal(start) || got[1].Code != "forbidden" {
		t.Errorf("%+v", got)
	}
	if st, err := os.Stat(l.path); err != nil || st.Mode() != 0o600 {
		t.Error(st.Mode(), err)
	}
	if len(*failed) != 0 {
		t.Error(*failed)
	}
}

// Concurrent writers write whole lines, and neither file exceeds its limit.
func TestTurns(t *testing.T) {
	l, _, failed := open(t)
	l.max = 4 << 10
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() {
			for range 50 {
				l.Keep(api.Change{Who: "node a", What: "commit", Outcome: api.Done})
			}
		})
	}
	all.Wait()
	n := 0
	for _, path := range []string{l.path, l.path + ".old"} {
		n += len(lines(t, path))
		if st, err := os.Stat(path); err != nil || st.Size() > l.max || st.Mode() != 0o600 {
			t.Error(path, st.Size(), st.Mode(), err)
		}
	}
	if n == 200 || n < 20 || len(*failed) != 0 {
		t.Error(n, *failed)
	}
}

// A caller that floods the log with requests that change nothing displaces no other line and hides no other caller's
// requests. The log says how many of its lines it left out.
func TestFlood(t *testing.T) {
	l, clk, _ := open(t)
	for i := range 1000 {
		l.Keep(api.Change{Who: "nobody", Outcome: []api.ChangeResult{api.Refused, api.Failed}[i%2]})
	}
	if got := lines(t, l.path); len(got) != maxUnchanged {
		t.Error(len(got))
	}
	l.Keep(api.Change{Who: "node a", Outcome: api.Failed})
	got := lines(t, l.path)
	if last := got[len(got)-1]; last.Omitted != 800 || last.Who != "node a" {
		t.Errorf("%+v", last)
	}
	clk.Advance(2 * unchangedInterval)
	for range 3 {
		l.Keep(api.Change{Who: "nobody", Outcome: api.Failed})
	}
	require.NoError(t, l.Close())
	got = lines(t, l.path)
	if last := got[len(got)-1]; len(got) != maxUnchanged+4 || last.Omitted != 1 || last.What != "close-log" {
		t.Errorf("%d lines, the last %+v", len(got), last)
	}
}

// The number of callers that are counted is bounded. Callers that make no requests are forgotten first.
func TestManyFlood(t *testing.T) {
	l, clk, _ := open(t)
	flood := func(begin int) (kept int) {
		before := len(lines(t, l.path))
		for i := range maxCallers + 300 {
			l.Keep(api.Change{Who: strconv.Itoa(begin + i), Outcome: api.Failed})
		}
		return len(lines(t, l.path)) - before
	}
	l.Keep(api.Change{Who: "node a", Outcome: api.Done})
	if got := flood(0); got != maxCallers+maxUnchanged || len(l.allowed) > maxCallers+1 {
		t.Error(got, len(l.allowed))
	}
	clk.Advance(maxUnchanged * unchangedInterval)
	if got := flood(maxCallers * 2); got != maxCallers+maxUnchanged || len(l.allowed) > maxCallers+1 {
		t.Error(got, len(l.allowed))
	}
}

// A failure to write is reported, and the write is tried again with the next change.
func TestFails(t *testing.T) {
	l, _, failed := open(t)
	require.NoError(t, l.file.Close())
	l.Keep(api.Change{Outcome: api.Done})
	if len(*failed) != 1 || !errors.Is((*failed)[0], os.ErrClosed) {
		t.Error(*failed)
	}
	link := filepath.Join(t.TempDir(), "link")
	require.NoError(t, os.Symlink("/etc/passwd", link))
	if _, err := Open(link, l.clock, l.failed); err == nil {
		t.Error("a link was followed")
	}
}

// A line that was written only in part, for instance because the disk was full, does not damage the line after it.
func TestTornLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	require.NoError(t, os.WriteFile(path, []byte(`{"what":"torn`), 0o600))
	l, err := Open(path, fakes.NewClock(start), func(err error) { t.Error(err) })
	require.NoError(t, err)
	defer l.Close()
	l.Keep(api.Change{What: "first", Outcome: api.Done})

	// A pipe whose reader leaves takes only a part of a long line, as a full disk does.
	r, w, err := os.Pipe()
	require.NoError(t, err)
	defer w.Close()
	go func() {
		_, _ = r.Read(make([]byte, 1))
		r.Close()
	}()
	file, failures := l.file, 0
	l.file, l.failed = w, func(error) { failures++ }
	l.Keep(api.Change{What: "long", Detail: strings.Repeat("x", 1<<20), Outcome: api.Done})
	l.file = file
	_, err = l.file.WriteString(`{"what":"long`)
	require.NoError(t, err)
	l.Keep(api.Change{What: "second", Outcome: api.Done})
	l.Keep(api.Change{What: "third", Outcome: api.Done})

	b, err := os.ReadFile(path)
	require.NoError(t, err)
	var got []string
	for _, s := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		var l line
		if json.Unmarshal([]byte(s), &l) != nil {
			l.What = "torn"
		}
		got = append(got, l.What)
	}
	if want := []string{"torn", "first", "torn", "second", "third"}; failures != 1 || !slices.Equal(got, want) {
		t.Errorf("got lines %q and %d failures, want %q and 1", got, failures, want)
	}
}

// A request that sent data to its caller is logged, however many requests without effect its sender made before, and
// however it ended.
func TestFloodHidesNoRead(t *testing.T) {
	l, _, _ := open(t)
	for range 2 * maxUnchanged {
		l.Keep(api.Change{Who: "operator bob (operator)", Outcome: api.Failed})
	}
	l.Keep(api.Change{Who: "operator bob (operator)", What: "export-volume", Outcome: api.Failed, Bytes: 1 << 30})
	got := lines(t, l.path)
	if last := got[len(got)-1]; len(got) != maxUnchanged+1 || last.What != "export-volume" || last.Bytes != 1<<30 {
		t.Errorf("%d lines, the last %+v", len(got), last)
	}
}
