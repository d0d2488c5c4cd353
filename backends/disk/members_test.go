package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

// The error for a missing device names the content of the configured device only if that device has other content. It
// names no content if the configured path is not a device.
func TestReasonOfAMissingDevice(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disk")
	require.NoError(t, os.WriteFile(file, make([]byte, 1<<20), 0o600))
	_, err := members(uuid.New(), fsctl.XFS, []string{file})
	require.ErrorIs(t, err, dataset.ErrOffline)
	want := file + " is a file: for a pool in a file use --path FILE and --image SIZE)"
	if !strings.HasSuffix(err.Error(), want) {
		t.Errorf("%q does not end with %q", err, want)
	}
}

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }
