package backendtest

import (
	"encoding/binary"
	"io"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// recordSize is that of a journal's records: they cross pages.
const recordSize = 1000

// journal is a writer at work on a mounted dataset: numbered records, each
// flushed before the next.
type journal struct {
	f    *fixture
	mu   sync.Mutex
	cond *sync.Cond // acked, halt or err changed

	acked int64 // records that are on the disk
	halt  bool
	err   error
	ended sync.WaitGroup
}

// journal starts a writer; stop ends it.
func (f *fixture) journal(m *mounted) *journal {
	f.Helper()
	file, err := os.OpenFile(m.in("journal"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	f.ok(err)
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

// ack notes whether a record was written, and reports whether to continue.
func (j *journal) ack(err error) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.acked++
	j.err = err
	j.cond.Broadcast()
	return err == nil && !j.halt
}

// await waits for so many records more, and returns how many there are.
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
	return j.acked - 1 // the first ack is before the first record
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
	j.f.ok(j.err)
}

// journalHolds wants the records from 1 on, at least so many, without a gap.
func (f *fixture) journalHolds(d dataset.Dataset, atLeast int64) {
	f.Helper()
	m := f.mount(d.ID)
	defer m.unmount()
	file, err := os.Open(m.in("journal"))
	f.ok(err)
	defer file.Close()
	record := make([]byte, recordSize)
	n := int64(0)
	for {
		// One that was never acknowledged may be cut, or not there.
		if _, err := io.ReadFull(file, record); err != nil || int64(binary.LittleEndian.Uint64(record)) != n+1 {
			break
		}
		n++
	}
	if n < atLeast {
		f.Fatalf("%d records are there, and %d were acknowledged before", n, atLeast)
	}
}
