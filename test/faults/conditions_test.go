package faults

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/test/host"
)

// statusTime is how long the test waits until drover status names a condition, and until it is quiet after its end. The
// goal is 20 seconds: the log has how long it took. A busy machine takes longer, and timings do not decide.
const statusTime = 2 * time.Minute

// A condition is something that needs an operator's attention.
type condition struct {
	name    string
	cause   func(t *testing.T, w *world)
	level   string // of the finding that names it
	subject string // part of the subject
	text    string // part of the text
	fix     string // part of the next command; empty: the text says what to do, or nothing can be done
	mend    func(t *testing.T, w *world)
}

// statusReport is the output of drover status -o json.
type statusReport struct {
	Healthy  bool
	Findings []api.Finding
}

// status returns the report of drover status. Its exit status must agree with the report.
func (w *world) status(t testing.TB) (r statusReport) {
	t.Helper()
	out := w.h.Exec(t, "status", "-o", "json")
	if err := json.Unmarshal([]byte(out.Out), &r); err != nil {
		t.Fatalf("drover status: %v\n%s%s", err, out.Out, out.Err)
	}
	for _, f := range r.Findings {
		if strings.Contains(f.Subject, " on ") { // the only node is the one that answers
			t.Errorf("the subject %q names a node", f.Subject)
		}
	}
	if r.Healthy != (out.Exit == 0) {
		t.Errorf("drover status: exit %d, but healthy is %t", out.Exit, r.Healthy)
	}
	return r
}

// awaitStatus waits until drover status satisfies a condition, but no longer than statusTime.
func (w *world) awaitStatus(t *testing.T, what string, ok func(statusReport) bool) {
	t.Helper()
	began := time.Now()
	for {
		r := w.status(t)
		took := time.Since(began)
		if ok(r) {
			t.Logf("%s after %v", what, took.Round(100*time.Millisecond))
			return
		}
		if took > statusTime {
			t.Fatalf("%s: not within %v; drover status has:\n%s", what, statusTime, lines(r))
		}
		time.Sleep(200 * time.Millisecond) // nothing announces what the next examination of the host finds
	}
}

func lines(r statusReport) string {
	var b strings.Builder
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "%s | %s | %s | %s\n", f.Level, f.Subject, f.Text, f.Fix)
	}
	return b.String()
}

// TestStatusNamesConditions: drover status names what needs attention, with the next command, and is quiet again when
// it is mended.
func TestStatusNamesConditions(t *testing.T) {
	w, far := twoPools(t)
	w.make(t, "small", "sized", "small")
	small, near := filepath.Join(w.h.Root, "mnt", w.volume(t, "small").ID.String()), filepath.Dir(w.h.Root)
	var frozen api.Outcome
	var open *os.File
	var unfreeze func()
	use := host.NewID()
	grow := func(dir string, percent int) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.ok(t, host.FillTo(dir, percent)) }
	}
	shrink := func(dir string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.ok(t, os.Remove(filepath.Join(dir, "filler"))) }
	}
	w.awaitStatus(t, "all is well", func(r statusReport) bool { return r.Healthy })

	for _, c := range []condition{
		{
			name: "volume full", level: "error", subject: "volume small", text: "FULL", fix: "drover volume resize small",
			cause: func(t *testing.T, w *world) {
				_, err := w.plug.Mount("small", use)
				w.ok(t, err)
				grow(small, 100)(t, w)
			},
			mend: func(t *testing.T, w *world) {
				shrink(small)(t, w)
				w.ok(t, w.plug.Unmount("small", use))
			},
		},
		{
			name: "volume in use is not mounted", level: "error", subject: "volume small", text: "is in use by 1 but not mounted",
			cause: func(t *testing.T, w *world) {
				_, err := w.plug.Mount("small", use)
				w.ok(t, err)
				w.ok(t, mount.Unmount(small))
			},
			mend: func(t *testing.T, w *world) { w.ok(t, w.plug.Unmount("small", use)) },
		},
		{
			name: "pool full", level: "error", subject: "pool far", text: "creates are refused",
			cause: grow(far.at, 100), mend: shrink(far.at),
		},
		{
			name: "pool offline", level: "error", subject: "pool far", text: "offline",
			cause: func(t *testing.T, _ *world) { far.unplug(t) },
			mend:  func(t *testing.T, _ *world) { far.plugIn(t) },
		},
		{
			name: "profiles cannot be loaded", level: "error", subject: "profiles", text: "keeping",
			cause: func(t *testing.T, w *world) { w.reload(t, "profiles: [") },
			mend:  func(t *testing.T, w *world) { w.reload(t, profiles) },
		},
		{
			name: "disk of the root filling up", level: "warning", subject: "root", text: "is filling up",
			fix:   "free space on that disk: df -h " + near,
			cause: grow(near, 98), mend: shrink(near),
		},
		{
			name: "operation takes long", level: "warning", subject: "operation ", text: "clone of ",
			fix: "drover operation inspect --wait ",
			cause: func(t *testing.T, w *world) {
				unfreeze = freeze(t, far.at)
				frozen = w.begin(t, api.Request{Kind: dataset.OpClone, Volume: "slow", Options: map[string]string{"from": "there"}})
				w.h.SetClock(t, 61*time.Minute)
			},
			mend: func(t *testing.T, w *world) { w.thaw(t, unfreeze, frozen) },
		},
		{
			name: "store damaged", level: "error", subject: "store", text: "changes are suspended",
			fix: "drover store recover --from-pools",
			cause: func(t *testing.T, w *world) {
				w.h.Stop(t)
				w.ok(t, os.WriteFile(filepath.Join(w.h.Root, "store.db"), []byte("damaged"), 0o600))
				w.h.Up(t)
			},
			mend: func(t *testing.T, w *world) {
				w.h.Must(t, "store", "recover", "--from-pools")
				aside, err := filepath.Glob(filepath.Join(w.h.Root, "store.db.damaged-*"))
				if err != nil || len(aside) != 1 {
					t.Fatal(aside, err)
				}
				w.ok(t, os.Remove(aside[0]))
			},
		},
		{
			name: "process keeps a volume mounted", level: "warning", subject: "mount ", text: "no recorded use",
			fix: "drover volume inspect small",
			cause: func(t *testing.T, w *world) {
				use := host.NewID()
				at, err := w.plug.Mount("small", use)
				w.ok(t, err)
				open, err = os.Create(filepath.Join(at, "open"))
				w.ok(t, err)
				w.says(t, w.plug.Unmount("small", use), "small", "still uses")
			},
			mend: func(t *testing.T, w *world) { w.ok(t, open.Close()) },
		},
	} {
		if !t.Run(c.name, func(t *testing.T) {
			c.cause(t, w)
			w.awaitStatus(t, "named", func(r statusReport) bool {
				for _, f := range r.Findings {
					if f.Level == c.level && strings.Contains(f.Subject, c.subject) && strings.Contains(f.Text, c.text) && strings.Contains(f.Fix, c.fix) {
						w.look(t, f.Fix)
						return !r.Healthy
					}
				}
				return false
			})
			c.mend(t, w)
			w.awaitStatus(t, "quiet", func(r statusReport) bool { return r.Healthy })
		}) {
			return // the next condition needs a host without this one
		}
	}
}

// lookCommand is a command in the Fix of a finding that only shows something, and does not wait.
var lookCommand = regexp.MustCompile(`drover (?:[a-z]+ )+?(?:inspect [^ ,;-][^ ,;]*|ls\b)`)

// look runs the first command of a fix that only shows something. It must work as it is printed.
func (w *world) look(t *testing.T, fix string) {
	t.Helper()
	if command := strings.Fields(lookCommand.FindString(fix)); len(command) > 0 {
		w.h.Must(t, command[1:]...)
	}
}

// begin requests an operation without waiting for its end.
func (w *world) begin(t *testing.T, req api.Request) api.Outcome {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	out, err := c.Submit(t.Context(), req)
	w.ok(t, err)
	return out
}

// thaw lets an operation on a frozen disk end.
func (w *world) thaw(t *testing.T, unfreeze func(), out api.Outcome) {
	t.Helper()
	unfreeze()
	w.h.Must(t, "operation", "inspect", "--wait", out.Operation.ID.String())
	w.h.SetClock(t, 0)
}

// reload replaces profiles.yaml and has drover read it.
func (w *world) reload(t *testing.T, text string) {
	t.Helper()
	w.ok(t, os.WriteFile(filepath.Join(w.h.Dir, "profiles.yaml"), []byte(text), 0o600))
	w.ok(t, unix.Kill(w.h.PID(), unix.SIGHUP))
}
