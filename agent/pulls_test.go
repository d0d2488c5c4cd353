package agent

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/droverhq/drover/agent/findings"
	"github.com/droverhq/drover/agent/replication"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// What a move brought in vain is kept for another try, is named by doctor, and goes when
// its time is over; never while a move may need it, nor what has its home here.
func TestBroughtInVain(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.mounts("db", "user")
	if op := f.ended(f.begins("db", f.b)); op.State != dataset.OpFailed {
		t.Fatalf("%s", op.State)
	}
	await(t, func() bool { return !f.b.moveTable.IsActive(d.ID) })
	there := func() bool {
		e, err := f.b.thePool().Stat(t.Context(), d.ID)
		if err != nil && !errors.Is(err, dataset.ErrNotFound) {
			t.Fatal(err)
		}
		return err == nil && e.State == backends.EntryCopy
	}
	f.b.installer.Resume(t.Context())
	if !there() {
		t.Error("what came is gone at once")
	}
	list, err := f.b.Doctor(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range list {
		if (l.Level == findings.Warning || l.Level == findings.Error) && !strings.Contains(l.Text, "its data is in memory") {
			t.Errorf("doctor: %+v", l)
		}
	}
	p, known := f.b.moveTable.Get(d.ID)
	if !known {
		t.Fatal("what came is not on record")
	}
	if err := f.b.Collect(t.Context(), d.ID); !errors.Is(err, dataset.ErrExists) {
		t.Errorf("it is collected: %v", err)
	}
	p.Since = time.Now().Add(-replication.KeepFailed)
	if err := f.b.moveTable.Set(t.Context(), d.ID, p); err != nil {
		t.Fatal(err)
	}
	f.b.installer.Resume(t.Context())
	if _, known := f.b.moveTable.Get(d.ID); known || there() {
		t.Error("what came in vain stays")
	}
	f.a.unmounts("db", "user")
	f.moves("db", f.b)
	f.b.installer.Resume(t.Context())
	f.b.mounts("db", "user")
	f.b.unmounts("db", "user")
}

// What a move brought in vain goes with the volume.
func TestBroughtInVainOfDeleted(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "loop", "loop")
	d := f.a.volume("db", map[string]string{"size": "320MiB"})
	f.a.mounts("db", "user")
	if op := f.ended(f.begins("db", f.b)); op.State != dataset.OpFailed {
		t.Fatalf("%s", op.State)
	}
	await(t, func() bool { return f.a.opener(d.ID) && !f.b.moveTable.IsActive(d.ID) }) // both heard that it is over
	f.a.unmounts("db", "user")
	if err := f.a.Remove(t.Context(), "db"); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool {
		_, err := f.b.thePool().Stat(t.Context(), d.ID)
		return errors.Is(err, dataset.ErrNotFound)
	})
}
