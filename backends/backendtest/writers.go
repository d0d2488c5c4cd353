package backendtest

import (
	"encoding/binary"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// recordSize is the size of a record of a journal. It does not divide the page size, so some records cross the boundary
// of a page.
const recordSize = 1000

// journal is a writer on a mounted dataset. It writes numbered records and flushes each before the next.
type journal struct {
	f    *fixture
	mu   sync.Mutex
	cond *sync.Cond // acked, halt or err changed

	acked int64 // one more than the number of records on the disk; see ack
	halt  bool
	err   error
	ended sync.WaitGroup
}

// journal starts a writer. The caller ends it with stop.
func (f *fixture) journal(m *Mounted) *journal {
	f.Helper()
	file, err := os.OpenFile(m.PathOf("journal"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	f.OK(err)
	j := &journal{f: f}
	j.cond = sync.NewCond(&j.mu)
	j.ended.Go(func() {
		defer file.Close()
		record := make([]byte, recordSize)
		for i := uint64(1); j.ack(err); i++ {
			binary.LittleEndian.PutUint64(record, i)
			if _, err = file.Write(record); err == nil {
				err = unix.Fdatasync(int(file.Fd()))
			}
		}
	})
	f.Cleanup(j.halted)
	return j
}

// ack counts a written record or keeps the error, and reports whether to continue. The writer also calls it before the
// first record, so acked is one too high.
func (j *journal) ack(err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acked++
	j.err = err
	j.cond.Broadcast()
	return err == nil && !j.halt
}

// await waits until the given number of additional records is acknowledged. It returns the number of records on the
// disk.
func (j *journal) await(more int64) int64 {
	j.f.Helper()
	j.mu.Lock()
	defer j.mu.Unlock()
	for from := j.acked; j.acked < from+more && j.err == nil; {
		j.cond.Wait()
	}
	if j.err != nil {
		j.f.Fatalf("the writer failed: %v", j.err)
	}
	return j.acked - 1 // see ack
}

func (j *journal) halted() {
	j.mu.Lock()
	j.halt = true
	j.mu.Unlock()
	j.ended.Wait()
}

// stop ends the writer, which must not have failed.
func (j *journal) stop() {
	j.f.Helper()
	j.halted()
	j.f.OK(j.err)
}

// checkJournal fails unless the dataset has all records from 1 on without a gap, and at least atLeast of them.
func (f *fixture) checkJournal(d dataset.Dataset, atLeast int64) {
	f.Helper()
	m := f.Mount(d.ID)
	defer m.Unmount()
	file, err := os.Open(m.PathOf("journal"))
	f.OK(err)
	defer file.Close()
	record := make([]byte, recordSize)
	n := int64(0)
	for {
		// A record that was never acknowledged may be cut or missing.
		if _, err := io.ReadFull(file, record); err != nil || int64(binary.LittleEndian.Uint64(record)) != n+1 {
			break
		}
		n++
	}
	if n < atLeast {
		f.Fatalf("%d records exist, and %d were acknowledged before", n, atLeast)
	}
}

// freezeBlocksWriters takes a snapshot while the filesystem is frozen, as the agent does. The
// snapshot must contain writes that were not flushed. A writer is blocked during the snapshot, and continues after it.
// A pool whose datasets have no own filesystem is never frozen, and neither is a pool that freezes by itself.
func freezeBlocksWriters(f *fixture) {
	if !f.Can.OwnFilesystem {
		return
	}
	d := f.Create()
	m := f.Mount(d.ID)
	f.OK(os.WriteFile(m.PathOf("before"), []byte("before the freeze"), 0o600))
	s := f.NewSnapshot(d)
	take := func() { f.OK(f.Pool.Snapshot(f.Ctx, s, nil)) }
	if f.Pool.Info().Exact && d.Encryption == nil { // on LUKS, the pool does not see the filesystem
		take()
	} else {
		f.WhileFrozen(m, take)
		f.CheckFile(m.PathOf("meanwhile"), "written")
	}
	m.Unmount()
	c := f.Clone(f.Source(s))
	f.CheckContent(c.ID, "before", "before the freeze")
	f.CheckContent(c.ID, "meanwhile", "")
}
