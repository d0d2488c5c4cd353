package loop

import (
	"testing"

	"github.com/droverhq/drover/backends/shelf"
	"github.com/droverhq/drover/internal/safefile"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// In a pool without direct I/O, the bytes of a record are on the disk when WriteNew returns.
func TestRecordWithoutDirectIOSurvivesPowerCut(t *testing.T) {
	image := scratch.Image(t, "xfs", scratch.XFS)
	dir, err := safefile.OpenDir(scratch.MountImage(t, "xfs", image))
	require.NoError(t, err)
	defer dir.Close()
	require.NoError(t, (recordWriter{}).WriteNew(dir, shelf.RecordFile, map[string]int{"format": 1}))
	if err := dir.Sync(); err != nil { // flushes the name, and no bytes
		t.Fatal(err)
	}
	after, err := safefile.OpenDir(scratch.CutPower(t, "xfs", image))
	require.NoError(t, err)
	defer after.Close()
	var got map[string]int
	if err := shelf.ReadJSON(after, shelf.RecordFile, &got); err != nil || got["format"] != 1 {
		t.Errorf("after a power cut, the record has %v, %v", got, err)
	}
}
