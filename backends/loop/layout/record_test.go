package layout

import (
	"os"
	"testing"

	"github.com/droverhq/drover/backends/loop/folder"
	"github.com/droverhq/drover/internal/scratch"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// In a pool without direct I/O, the bytes of a record are on the disk when WriteNew returns.
func TestRecordWithoutDirectIOSurvivesPowerCut(t *testing.T) {
	image := scratch.Image(t, "xfs", scratch.XFS)
	dir, err := folder.Open(scratch.MountImage(t, "xfs", image))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := (RecordWriter{}).WriteNew(dir, RecordFile, map[string]int{"format": 1}); err != nil {
		t.Fatal(err)
	}
	if err := dir.Sync(); err != nil { // flushes the name, and no bytes
		t.Fatal(err)
	}
	after, err := folder.Open(scratch.CutPower(t, "xfs", image))
	if err != nil {
		t.Fatal(err)
	}
	defer after.Close()
	var got map[string]int
	if err := ReadRecord(after, RecordFile, &got); err != nil || got["format"] != 1 {
		t.Errorf("after a power cut, the record has %v, %v", got, err)
	}
}
