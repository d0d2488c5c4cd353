package guard_test

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/guard/hand"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/internal/linux/iolimit"
	"github.com/droverhq/drover/internal/linux/mount"
)

// limits returns the hierarchy with which this host limits devices, a new group, and the device at a path. The limits
// of the device are removed after the test.
func limits(t *testing.T, path string) (h iolimit.Hierarchy, group string, dev iolimit.Device) {
	t.Helper()
	table, err := mount.Table()
	if err != nil {
		t.Fatal(err)
	}
	if h, err = iolimit.Detect(table); err != nil {
		t.Fatal(err)
	}
	group = filepath.Join(iolimit.Root, "drover-guard-test-"+uuid.NewString())
	if err := os.Mkdir(filepath.Join(h.Dir, group), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.Remove(filepath.Join(h.Dir, group)); err != nil {
			t.Error(err)
		}
	})
	if dev, _, err = iolimit.DeviceOf(path); err != nil {
		t.Fatal(err)
	}
	return h, group, dev
}

// A freeze does not wait for a rate limit of the device, whoever set it. After the freeze the limit is as before.
func TestFreezeLiftsLimits(t *testing.T) {
	r := own(t)
	tool := hand.New(hand.Options{Run: t.TempDir(), Root: t.TempDir(), Clock: clock.System{}})
	target := hand.Target{Dataset: r.Dataset, Paths: r.Paths, Own: true}
	h, group, dev := limits(t, r.Paths[0])
	slow, theirs := iolimit.Limits{WriteBPS: 1 << 20}, iolimit.Limits{ReadIOPS: 70, WriteIOPS: 10}
	t.Cleanup(func() { // the kernel writes dirty data for its root group
		if err := h.Clear(iolimit.Root, dev); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(filepath.Join(r.Paths[0], "file"), make([]byte, 60<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for g, l := range map[string]iolimit.Limits{iolimit.Root: slow, group: theirs} {
		if err := h.Set(g, dev, l); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second) // with the limit it would take a minute
	defer cancel()
	if o := tool.Freeze(ctx, target); !o.Done || o.Note != "" {
		t.Errorf("%+v", o)
	}
	same := func(when string) {
		t.Helper()
		for g, want := range map[string]iolimit.Limits{iolimit.Root: slow, group: theirs} {
			if got, err := h.Get(g, dev); err != nil || got != want {
				t.Errorf("%s, group %s: %+v, %v, want %+v", when, g, got, err, want)
			}
		}
	}
	same("frozen")
	if err := tool.Undo(t.Context(), target); err != nil {
		t.Error(err)
	}
	same("thawed")
	tool.Wait()
}

// Limits that a hand lifted, and that it did not restore before it ended, are restored by another hand. They are not
// restored on a device that belongs to another dataset by now.
func TestUndoGivesLimitsBack(t *testing.T) {
	r := own(t)
	tool := hand.New(hand.Options{Run: t.TempDir(), Root: t.TempDir(), Clock: clock.System{}})
	target := hand.Target{Dataset: r.Dataset, Paths: r.Paths, Own: true}
	h, group, dev := limits(t, r.Paths[0])
	was, since := iolimit.Limits{ReadIOPS: 70, WriteBPS: 1 << 20}, iolimit.Limits{WriteBPS: 2 << 20}
	for _, c := range []struct {
		paths []string
		want  iolimit.Limits
	}{{r.Paths, iolimit.Limits{ReadIOPS: 70, WriteBPS: 2 << 20}}, {[]string{"/proc"}, since}} {
		b, err := json.Marshal(map[string]any{"device": dev, "group": group, "limits": was})
		if err == nil {
			err = os.WriteFile(filepath.Join(tool.Run, r.Dataset.String()+".undo"), append([]byte("limit "), append(b, '\n')...), 0o600)
		}
		if err == nil {
			err = h.Set(group, dev, since)
		}
		target.Paths = c.paths
		if err != nil {
			t.Fatal(err)
		}
		if err := tool.Undo(t.Context(), target); err != nil {
			t.Error(err)
		}
		if got, err := h.Get(group, dev); err != nil || got != c.want {
			t.Errorf("%+v, %v, want %+v", got, err, c.want)
		}
	}
	if err := h.Clear(group, dev); err != nil {
		t.Error(err)
	}
}
