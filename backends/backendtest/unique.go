package backendtest

import (
	"os"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/tree/treetest"
)

// uniqueSizeIsWhatIsFreed overwrites a file after a snapshot, so that only the snapshot has the old bytes. Before that,
// the snapshot shares them with the head. A pool that cannot measure this is not a SnapshotMeasurer.
func uniqueSizeIsWhatIsFreed(f *fixture) {
	const size, slack = 24 * dataset.MiB, 8 * dataset.MiB
	pool, ok := f.Pool.(backends.SnapshotMeasurer)
	if !ok {
		return
	}
	d := f.Create()
	m := f.Mount(d.ID)
	write := func(seed uint64) {
		file, err := os.OpenFile(m.PathOf("file"), os.O_CREATE|os.O_WRONLY, 0o600)
		f.OK(err)
		_, err = file.Write(treetest.Bytes(seed, int(size)))
		f.OK(err)
		f.OK(file.Sync())
		f.OK(file.Close())
	}
	unique := func(s dataset.Snapshot, least, most dataset.Size) {
		f.Helper()
		got, err := pool.UniqueSize(f.Ctx, d.ID, s.ID)
		f.OK(err)
		if got < least || got > most {
			f.Errorf("only the snapshot uses %s, want %s to %s", got, least, most)
		}
	}
	write(1)
	first := f.TakeSnapshot(d)
	unique(first, 0, slack)
	write(2)
	second := f.TakeSnapshot(d)
	unique(first, size, size+slack)
	unique(second, 0, slack)
	m.Unmount()
	f.OK(f.Pool.DeleteSnapshot(f.Ctx, d.ID, first.ID))
	_, err := pool.UniqueSize(f.Ctx, d.ID, first.ID)
	f.CheckFails(err, dataset.ErrNotFound)
	unique(second, 0, slack)
	_, err = pool.UniqueSize(f.Ctx, uuid.New(), second.ID)
	f.CheckFails(err, dataset.ErrNotFound)
}
