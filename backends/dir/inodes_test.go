package dir

import (
	"errors"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// A filesystem can have free blocks and no free inodes. A create is refused as on a full disk, and leaves nothing.
func TestCreateWithoutFreeInodes(t *testing.T) {
	at := t.TempDir()
	if err := unix.Mount("none", at, "tmpfs", 0, "size=64m,nr_inodes=60"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	p, err := Backend{}.Open(t.Context(), backends.Config{Name: "small", Path: at, Make: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Close() })
	for created := 0; err == nil; created++ {
		if created > 60 {
			t.Fatal("61 datasets were created on 60 inodes")
		}
		d := dataset.Dataset{ID: uuid.New(), Volume: "db", State: dataset.StateReady}
		_, err = p.Create(t.Context(), d)
	}
	if !errors.Is(err, dataset.ErrNoSpace) {
		t.Errorf("a create without free inodes: got error %v, want %v", err, dataset.ErrNoSpace)
	}
}
