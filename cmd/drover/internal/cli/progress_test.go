package cli

import (
	"bytes"
	"io"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/droverhq/drover/cmd/drover/internal/ptytest"
	"github.com/droverhq/drover/dataset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const gib = int64(dataset.GiB)

func TestLines(t *testing.T) {
	tests := map[string]struct {
		updates []dataset.Progress
		want    []string
	}{
		"nothing to say": {updates: []dataset.Progress{{}, {Done: 5}}},
		"a line a step": {
			updates: []dataset.Progress{{Step: "format"}, {Step: "format"}, {Step: "mount"}, {Step: "format"}},
			want:    []string{"create db: format", "create db: mount", "create db: format"},
		},
		"a line a tenth": {
			updates: []dataset.Progress{
				{Step: "copy", Total: 10 * gib}, {Step: "copy", Done: gib - 1, Total: 10 * gib},
				{Step: "copy", Done: gib, Total: 10 * gib}, {Step: "copy", Done: gib + 1, Total: 10 * gib},
				{Step: "copy", Done: 5 * gib, Total: 10 * gib}, {Step: "copy", Done: 4 * gib, Total: 10 * gib},
				{Step: "copy", Done: 10 * gib, Total: 10 * gib}, {Step: "copy", Done: 11 * gib, Total: 10 * gib},
			},
			want: []string{
				"create db: copy 0% (0B of 10GiB)", "create db: copy 10% (1GiB of 10GiB)",
				"create db: copy 50% (5GiB of 10GiB)", "create db: copy 100% (10GiB of 10GiB)",
			},
		},
		"the next step begins anew": {
			updates: []dataset.Progress{{Step: "copy", Done: 9, Total: 10}, {Step: "verify", Done: 1, Total: 10}},
			want:    []string{"create db: copy 90% (9B of 10B)", "create db: verify 10% (1B of 10B)"},
		},
		"no total": {
			updates: []dataset.Progress{{Step: "read", Done: 1}, {Step: "read", Done: 2 * gib}},
			want:    []string{"create db: read"},
		},
		"one line, whatever a step says": {
			updates: []dataset.Progress{{Step: "a\nb\x1b[2J"}}, want: []string{`create db: a\nb\x1b[2J`},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			l := NewLines(&b, "create db")
			for _, p := range tc.updates {
				l.Update(p)
			}
			l.Close()
			l.Update(dataset.Progress{Step: "late"})
			want := ""
			if len(tc.want) > 0 {
				want = strings.Join(tc.want, "\n") + "\n"
			}
			if d := cmp.Diff(want, b.String()); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestReaderAndWriterCount(t *testing.T) {
	var log, out bytes.Buffer
	r := &Reader{R: strings.NewReader("12345"), Meter: NewLines(&log, "import db"), At: dataset.Progress{Step: "send", Total: 5}}
	w := &Writer{W: &out, Meter: NewLines(&log, "export db"), At: dataset.Progress{Step: "receive"}}
	if n, err := io.Copy(w, r); n != 5 || err != nil || out.String() != "12345" {
		t.Fatalf("%d, %v, %q", n, err, out.String())
	}
	if want := "import db: send 100% (5B of 5B)\nexport db: receive\n"; log.String() != want || w.At.Done != 5 {
		t.Errorf("log %q, written %d", log.String(), w.At.Done)
	}
}

// TestBarOnATerminal checks the output on a real terminal: one bar continues over several steps, and is removed by
// Close.
func TestBarOnATerminal(t *testing.T) {
	screen := ptytest.Open(t)
	b := NewBar(screen.File, "import db")
	b.Update(dataset.Progress{Step: "copy", Done: 10, Total: 10})
	b.Update(dataset.Progress{Step: "count", Done: 7})
	b.Update(dataset.Progress{Step: "verify", Done: 3, Total: 10})
	var users sync.WaitGroup
	for range 4 {
		users.Go(func() {
			for i := range int64(1000) {
				b.Update(dataset.Progress{Step: "verify", Done: i % 10, Total: 10})
			}
			b.Update(dataset.Progress{Step: "settle", Done: 5, Total: 10})
		})
	}
	users.Wait()
	b.Close()
	b.Update(dataset.Progress{Step: "late", Total: 1})
	b.Close()
	got := screen.Screen()
	if !strings.Contains(got, "import db: settle") || !strings.Contains(got, "50% (5B of 10B)") {
		t.Errorf("no bar: %q", got)
	}
	if strings.Contains(got, "late") || !strings.HasSuffix(got, "\x1b[1A\x1b[J") {
		t.Errorf("the bar stays: %q", got)
	}
}

// TestSpinnerWhereTheTotalIsUnknown: an empty bar would look as if nothing happened.
func TestSpinnerWhereTheTotalIsUnknown(t *testing.T) {
	screen := ptytest.Open(t)
	b := NewBar(screen.File, "import db")
	b.Update(dataset.Progress{Step: "copy", Done: 7})
	b.Close()
	if got := screen.Screen(); !strings.Contains(got, "import db: copy") || !strings.Contains(got, "7B") || strings.Contains(got, "---") {
		t.Errorf("drew %q", got)
	}
}

func TestBarOfWorkDoneAtOnceDrawsNothing(t *testing.T) {
	var out bytes.Buffer
	b := NewBar(&out, "create db")
	b.Close()
	if out.Len() != 0 {
		t.Errorf("drew %q", out.String())
	}
}

// TestGroupOnATerminal: each piece of work has a bar, and Close removes those that are left.
func TestGroupOnATerminal(t *testing.T) {
	screen := ptytest.Open(t)
	g := NewGroup(screen.File, true)
	var users sync.WaitGroup
	drawn := make(chan struct{})
	for _, volume := range []string{"db", "web"} {
		users.Go(func() {
			m := g.Meter("recover " + volume)
			defer m.Close()
			for range 1000 {
				m.Update(dataset.Progress{Step: "restoring", Done: 5, Total: 10})
			}
			<-drawn
		})
	}
	screen.Await(t, "recover db: restoring", "recover web: restoring")
	close(drawn)
	users.Wait()
	g.Close()
	g.Close()
	got := screen.Screen()
	if !strings.HasSuffix(got, "\x1b[J") {
		t.Errorf("the bars stay: %q", got)
	}
}

// TestGroupWithoutATerminal: the lines of several pieces of work do not mix.
func TestGroupWithoutATerminal(t *testing.T) {
	var out bytes.Buffer
	g := NewGroup(&out, false)
	var users sync.WaitGroup
	for range 8 {
		users.Go(func() {
			m := g.Meter("recover db")
			defer m.Close()
			m.Update(dataset.Progress{Step: "restoring"})
			g.Exclusively(func() { out.WriteString("recovered\n") })
		})
	}
	users.Wait()
	g.Close()
	if n := strings.Count(out.String(), "recover db: restoring\n") + strings.Count(out.String(), "recovered\n"); n != 16 {
		t.Errorf("%d lines: %q", n, out.String())
	}
}
