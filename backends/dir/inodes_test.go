package dir

import (
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/require"
)

// A filesystem can have free blocks and no free inodes. A create is refused as on a full disk, and leaves nothing.
func TestCreateWithoutFreeInodes(t *testing.T) {
	at := t.TempDir()
	require.NoError(t, unix.Mount("none", at, "tmpfs", 0, "size=64m,nr_inodes=60"))
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	p, err := Backend{}.Open(t.Context(), backends.Config{Name: "small", Path: at, Make: true})
	require.NoError(t, err)
	t.Cleanup(func() { _ = p.Close() })
	for created := 0; err == nil; created++ {
		if created > 60 {
			t.Fatal("61 datasets were created on 60 inodes")
		}
		d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady}
		_, err = p.Create(t.Context(), d)
	}
	assert.ErrorIs(t, err, dataset.ErrNoSpace)
}

// Stepping returns the backend with a hook between any two actions.
func Stepping(step func(string)) Backend { return Backend{step: step} }
