package doctor

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/fakes"
)

// pauseClock is a fake clock that reports each pause that is asked of it.
type pauseClock struct {
	*fakes.Clock
	pauses chan time.Duration
}

func (c pauseClock) After(d time.Duration) <-chan time.Time {
	c.pauses <- d
	return c.Clock.After(d)
}

// watched is a Watcher whose examinations the test controls.
type watched struct {
	*Watcher
	clock pauseClock
	began chan struct{}      // receives a value when an examination has begun
	waits *time.Duration     // how long the examinations wait for other processes
	found chan []api.Finding // ends an examination with these findings
}

func watch(ctx context.Context) watched {
	w := watched{
		clock: pauseClock{fakes.NewClock(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)), make(chan time.Duration)},
		began: make(chan struct{}), found: make(chan []api.Finding), waits: new(time.Duration),
	}
	w.Watcher = &Watcher{ctx: ctx, clock: w.clock, examine: func(ctx context.Context) ([]api.Finding, time.Duration) {
		w.began <- struct{}{}
		select {
		case list := <-w.found:
			return list, *w.waits
		case <-ctx.Done():
			return nil, 0
		}
	}}
	return w
}

// TestWatcherReportsExaminationThatHangs: old findings are not reported as present ones.
func TestWatcherReportsExaminationThatHangs(t *testing.T) {
	w := watch(t.Context())
	var all []api.Finding
	for n := range api.MaxReportedFindings {
		all = append(all, api.Finding{Level: api.LevelWarning, Subject: fmt.Sprintf("volume %d", n)})
	}
	examine := func() <-chan struct{} {
		ended := make(chan struct{})
		go func() { defer close(ended); w.Examine(t.Context()) }()
		<-w.began
		return ended
	}
	ended := examine()
	w.clock.Advance(watchPatience)
	if got := w.Last(); got == nil || !got.Examined.IsZero() || len(got.Findings) != 1 ||
		!strings.Contains(got.Findings[0].Text, "has not ended for 2m0s; nothing was found out before") {
		t.Errorf("the first examination hangs: %+v, want only a warning about that", got)
	}
	w.found <- all
	<-ended
	if got := w.Last(); len(got.Findings) != len(all) || got.Omitted != 0 {
		t.Errorf("after it ended: %d findings and %d omitted, want %d and 0", len(got.Findings), got.Omitted, len(all))
	}
	ended = examine()
	w.clock.Advance(watchPatience - time.Second)
	if got := w.Last(); len(got.Findings) != len(all) || got.Omitted != 0 {
		t.Errorf("an examination takes long: %d findings and %d omitted, want %d and 0", len(got.Findings), got.Omitted, len(all))
	}
	w.clock.Advance(time.Second)
	got := w.Last()
	if len(got.Findings) != api.MaxReportedFindings || got.Omitted != 1 || got.Findings[0].Subject != "agent" ||
		!strings.Contains(got.Findings[0].Text, "the other findings are from 2026-03-01T12:02:00Z") {
		t.Errorf("an examination hangs: %d findings and %d omitted, first %+v, want a warning with the time of the others",
			len(got.Findings), got.Omitted, got.Findings[0])
	}
	w.found <- nil
	<-ended
	if got := w.Last(); len(got.Findings) != 0 || got.Omitted != 0 {
		t.Errorf("after it ended: %+v, want no findings", got)
	}
}

// TestWatcherRuns: the host is examined every ten seconds, less often if that takes long, until the agent stops.
func TestWatcherRuns(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	w := watch(ctx)
	ended := make(chan struct{})
	go func() { defer close(ended); w.Run() }()
	<-w.began
	w.found <- []api.Finding{{Level: api.LevelError, Subject: "root", Text: "is full"}}
	if d := <-w.clock.pauses; d != watchPause {
		t.Errorf("pause after an examination that took no time: %v, want %v", d, watchPause)
	}
	if got := w.Last(); got == nil || len(got.Findings) != 1 {
		t.Errorf("after the first examination: %+v, want one finding", got)
	}
	w.clock.Advance(watchPause)
	<-w.began
	w.clock.Advance(time.Second)
	w.found <- nil
	if d := <-w.clock.pauses; d != watchShare*time.Second {
		t.Errorf("pause after an examination that took a second: %v, want %v", d, watchShare*time.Second)
	}
	w.clock.Advance(watchShare * time.Second)
	<-w.began
	*w.waits = 20 * time.Second
	w.clock.Advance(*w.waits)
	w.found <- nil
	if d := <-w.clock.pauses; d != watchPause {
		t.Errorf("pause after an examination that waited for the guard: %v, want %v", d, watchPause)
	}
	w.clock.Advance(watchPause)
	<-w.began
	stop()
	select {
	case <-ended:
	case <-w.clock.pauses: // the watcher saw the end of the context at one of two places
		<-ended
	}
	if got := w.Last(); got == nil || len(got.Findings) != 0 || got.Examined.IsZero() {
		t.Errorf("after the stop: %+v, want the result of the last examination that ended", got)
	}
}

// TestSummary: warnings and errors are kept in their order, each once, and those beyond the limit are counted.
func TestSummary(t *testing.T) {
	find := func(level string, n int) api.Finding {
		return api.Finding{Level: level, Subject: fmt.Sprintf("volume %d", n), Text: "is damaged"}
	}
	all := []api.Finding{find(api.LevelOK, 0), find(api.LevelError, 1), find(api.LevelInfo, 2), find(api.LevelWarning, 3), find(api.LevelError, 1)}
	got := summary(all)
	if len(got.Findings) != 2 || got.Findings[0] != find(api.LevelError, 1) || got.Findings[1] != find(api.LevelWarning, 3) || got.Omitted != 0 {
		t.Errorf("summary of an error twice and a warning: %+v, want each once", got)
	}
	all = nil
	for n := range api.MaxReportedFindings + 7 {
		all = append(all, find(api.LevelWarning, n))
	}
	if got := summary(all); len(got.Findings) != api.MaxReportedFindings || got.Omitted != 7 {
		t.Errorf("%d findings and %d omitted, want %d and 7", len(got.Findings), got.Omitted, api.MaxReportedFindings)
	}
}

// TestSummaryCutsFindings: control refuses a heartbeat with a finding that is longer than a line. The text is cut
// before the remedy, and the remedy before the subject.
func TestSummaryCutsFindings(t *testing.T) {
	long := func(n int) string { return strings.Repeat("é", n/2) }
	for name, f := range map[string]api.Finding{
		"text":       {Subject: "volume db", Text: long(2 * dataset.MaxLine), Fix: "mount /srv"},
		"all parts":  {Subject: "volume db", Text: long(3000), Fix: long(3000)},
		"remedy":     {Subject: "volume db", Text: "is damaged", Fix: long(2 * dataset.MaxLine)},
		"subject":    {Subject: long(2 * dataset.MaxLine), Text: "is damaged", Fix: "mount /srv"},
		"just fits":  {Subject: "volume db", Text: strings.Repeat("x", dataset.MaxLine-len("warningvolume dbmount /srv")), Fix: "mount /srv"},
		"everything": {Subject: long(dataset.MaxLine), Text: long(dataset.MaxLine), Fix: long(dataset.MaxLine)},
	} {
		f.Level = api.LevelWarning
		list := summary([]api.Finding{f}).Findings
		if len(list) != 1 {
			t.Fatalf("%s: %d findings, want 1", name, len(list))
		}
		got := list[0]
		all := got.Level + got.Subject + got.Text + got.Fix
		if len(all) > dataset.MaxLine || !utf8.ValidString(all) || got.Level != f.Level {
			t.Errorf("%s: %d bytes, want %d at most, and whole characters", name, len(all), dataset.MaxLine)
		}
		switch name {
		case "text":
			if got.Fix != f.Fix || !strings.HasSuffix(got.Text, "(cut off: 8192 bytes)") {
				t.Errorf("text: %q, fix %q, want the text cut off and the fix as it was", got.Text[len(got.Text)-40:], got.Fix)
			}
		case "just fits":
			if got != f {
				t.Error("just fits: it was cut")
			}
		}
	}
}
