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

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/internal/linux/mount"
	"github.com/droverhq/drover/internal/linux/reflink"
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
	id := map[string]uuid.UUID{}
	for _, name := range []string{"here", "there", "small"} {
		id[name] = w.volume(t, name).ID
	}
	inDefault := func(name string) string { return filepath.Join(w.poolPath(t, "default"), name) }
	inFar := func(name string) string { return filepath.Join(far.at, "pool", name) }
	use := host.NewID()
	grow := func(dir string, percent int) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.ok(t, host.FillTo(dir, percent)) }
	}
	shrink := func(dir string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.ok(t, os.Remove(filepath.Join(dir, "filler"))) }
	}
	move := func(from, to string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.ok(t, os.Rename(from, to)) }
	}
	small := filepath.Join(w.h.Root, "mnt", id["small"].String())
	record := inDefault("datasets/" + id["here"].String() + "/record.json")
	w.awaitStatus(t, "all is well", func(r statusReport) bool { return r.Healthy })

	for _, c := range append([]condition{
		{
			name: "volume nearly full", level: "warning", subject: "volume small", text: "NEARLY FULL", fix: "drover volume resize small",
			cause: func(t *testing.T, w *world) {
				_, err := w.plug.Mount("small", use)
				w.ok(t, err)
				w.ok(t, host.FillTo(small, 90))
			},
			mend: shrink(small),
		},
		{
			name: "volume full", level: "error", subject: "volume small", text: "FULL", fix: "drover volume resize small",
			cause: grow(small, 100),
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
			name: "pool nearly full", level: "warning", subject: "pool far", text: "NEARLY FULL",
			cause: grow(far.at, 90), mend: shrink(far.at),
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
			name: "dataset missing", level: "error", subject: "dataset " + id["there"].String(), text: "missing", fix: "put back the disk",
			cause: move(inFar("datasets/"+id["there"].String()), filepath.Join(far.at, "away")),
			mend:  move(filepath.Join(far.at, "away"), inFar("datasets/"+id["there"].String())),
		},
		{
			name: "record damaged", level: "error", subject: "dataset " + id["here"].String(), text: "cannot read its record",
			cause: func(t *testing.T, w *world) {
				move(record, record+".kept")(t, w)
				w.ok(t, os.WriteFile(record, []byte("{"), 0o600))
			},
			mend: move(record+".kept", record),
		},
		{
			name: "image missing", level: "error", subject: "dataset " + id["here"].String(), text: "image is missing",
			cause: move(inDefault("datasets/"+id["here"].String()+"/head.img"), inDefault("head.kept")),
			mend:  move(inDefault("head.kept"), inDefault("datasets/"+id["here"].String()+"/head.img")),
		},
		{
			name: "foreign file", level: "warning", subject: "pool default", text: "notes.txt is not Drover's",
			cause: func(t *testing.T, w *world) { w.ok(t, os.WriteFile(inDefault("datasets/notes.txt"), nil, 0o600)) },
			mend:  func(t *testing.T, w *world) { w.ok(t, os.Remove(inDefault("datasets/notes.txt"))) },
		},
		{
			name: "dataset that the store does not know", level: "warning", subject: "dataset 99999999-0000-4000-8000-000000000009", text: "quarantined",
			cause: func(t *testing.T, w *world) {
				w.ok(t, copyDataset(inDefault("datasets/"+id["here"].String()), inDefault("datasets/99999999-0000-4000-8000-000000000009")))
			},
			mend: func(t *testing.T, w *world) {
				w.ok(t, os.RemoveAll(inDefault("datasets/99999999-0000-4000-8000-000000000009")))
			},
		},
		{
			name: "operation failed", level: "warning", subject: "operation", text: "import of later failed",
			cause: func(t *testing.T, w *world) {
				// The kernel answers reads of some of these files with EINVAL.
				if r := w.h.Exec(t, "volume", "import", "later", "--from", "/sys/devices/virtual/net/lo"); r.Exit == 0 {
					t.Fatalf("an import of unreadable files succeeded: %s", r.Out)
				}
			},
			mend: func(t *testing.T, w *world) {
				w.ok(t, os.MkdirAll(filepath.Join(w.h.Dir, "later"), 0o755))
				w.h.Must(t, "volume", "import", "later", "--from", filepath.Join(w.h.Dir, "later"))
			},
		},
		{
			name: "profiles cannot be loaded", level: "error", subject: "profiles", text: "keeping",
			cause: func(t *testing.T, w *world) { w.reload(t, "profiles: [") },
			mend:  func(t *testing.T, w *world) { w.reload(t, profiles) },
		},
	}, hostConditions(filepath.Dir(w.h.Root), far)...) {
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

// copyDataset copies the directory of a dataset, with shared blocks.
func copyDataset(from, to string) error {
	if err := os.Mkdir(to, 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range list {
		source, err := os.Open(filepath.Join(from, e.Name()))
		if err != nil {
			return err
		}
		defer source.Close()
		target, err := os.Create(filepath.Join(to, e.Name()))
		if err != nil {
			return err
		}
		if err := reflink.Clone(target, source); err != nil {
			return err
		}
		if err := target.Close(); err != nil {
			return err
		}
	}
	return nil
}

// reload replaces profiles.yaml and has drover read it.
func (w *world) reload(t *testing.T, text string) {
	t.Helper()
	w.ok(t, os.WriteFile(filepath.Join(w.h.Dir, "profiles.yaml"), []byte(text), 0o600))
	w.ok(t, unix.Kill(w.h.PID(), unix.SIGHUP))
}
