package hand

import (
	"os"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/internal/scratch"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// I2: after a power cut a saved record is complete, and a removed record does not exist.
func TestI2RecordsSurviveAPowerCut(t *testing.T) {
	image := scratch.Image(t, "ext4", scratch.Ext4)
	tool := New(Options{Root: scratch.MountImage(t, "ext4", image)})
	cut := func() map[uuid.UUID][]byte {
		t.Helper()
		all, err := LoadRecords(scratch.CutPower(t, "ext4", image))
		if err != nil {
			t.Fatal(err)
		}
		return all
	}
	id := uuid.New()
	if err := tool.Save(id, []byte(`{"epoch":3}`)); err != nil {
		t.Fatal(err)
	}
	if all := cut(); string(all[id]) != `{"epoch":3}` {
		t.Errorf("saved: %q", all)
	}
	if err := tool.Save(id, nil); err != nil {
		t.Fatal(err)
	}
	if all := cut(); len(all) != 0 {
		t.Errorf("removed: %q", all)
	}
}
