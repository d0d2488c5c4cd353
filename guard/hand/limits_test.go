package hand

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/linux/iolimit"
)

// The limit of every group is recorded while it is lifted. It is restored, except for values that
// another program has set meanwhile. Limits of other devices stay.
func TestLimitsAreLiftedAndComeBack(t *testing.T) {
	h := iolimit.Hierarchy{Version: iolimit.V2, Dir: t.TempDir()}
	dev, other := iolimit.Device{Major: 7, Minor: 5}, iolimit.Device{Major: 8}
	mine, theirs := iolimit.Limits{WriteBPS: 5 << 20}, iolimit.Limits{ReadBPS: 9, WriteIOPS: 7}
	for g, rule := range map[string]string{
		"system.slice":        "7:5 rbps=max wbps=5242880 riops=max wiops=max\n",
		"user.slice/app":      "7:5 rbps=9 wbps=max riops=max wiops=7\n",
		"machine.slice/other": "8:0 rbps=1 wbps=max riops=max wiops=max\n",
	} {
		if err := os.MkdirAll(filepath.Join(h.Dir, g), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(h.Dir, g, "io.max"), []byte(rule), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := func(when string, all map[string]iolimit.Limits) {
		t.Helper()
		got, err := h.LimitsOn(dev)
		if diff := cmp.Diff(all, got); err != nil || diff != "" {
			t.Errorf("%s: %v %s", when, err, diff)
		}
	}
	tool, id := New(Options{Run: t.TempDir()}), uuid.New()
	l, err := liftDevice(tool.marks, id, h, dev)
	if err != nil {
		t.Fatal(err)
	}
	want("lifted", map[string]iolimit.Limits{})
	if marks, err := tool.marks.of(id); err != nil || len(marks) != 2 || marks[0].kind != markLimit {
		t.Errorf("%v, %v", marks, err)
	}
	if err := h.Set("/user.slice/app", dev, iolimit.Limits{ReadBPS: 4}); err != nil {
		t.Fatal(err)
	}
	if err := l.restore(tool.marks, id); err != nil {
		t.Error(err)
	}
	theirs.ReadBPS = 4
	want("again", map[string]iolimit.Limits{"/system.slice": mine, "/user.slice/app": theirs})
	if marks, err := tool.marks.of(id); err != nil || len(marks) != 0 {
		t.Errorf("%v, %v", marks, err)
	}
	if got, err := h.Get("/machine.slice/other", other); err != nil || got.ReadBPS != 1 {
		t.Errorf("another device: %+v, %v", got, err)
	}
}
