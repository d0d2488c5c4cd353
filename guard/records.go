package guard

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/guard/hand"
)

// records stores the table. It writes to a folder that never waits for a disk. The hand flushes the records to
// disk, in order and one at a time.
type records struct {
	run  string
	hand Hands

	mu      sync.Mutex
	queue   map[uuid.UUID]*pendingSave
	busy    bool
	problem func(error)
	ctx     context.Context
	wg      sync.WaitGroup
}

// pendingSave is a record that waits to be flushed. If record is nil, the file is removed.
type pendingSave struct {
	record []byte
	done   []chan error
}

func (r *records) path(id uuid.UUID) string { return filepath.Join(r.run, id.String()+".json") }

func (r *records) deadlinePath(id uuid.UUID) string {
	return filepath.Join(r.run, id.String()+".deadline")
}

// recordFormat is the format of the records that this version of Drover reads and writes.
const recordFormat = 1

// storedEntry is the content of the record of an entry.
type storedEntry struct {
	Format int `json:"format"` // absent: 1
	Entry
}

// decode decodes the record of a dataset. If the record has a later format, decode returns the keys that it can read
// together with dataset.ErrUnsupported, because a guard that forgot the dataset would never fence it. Keys that it
// cannot read are zero. A deadline of zero counts as passed. ok reports whether the entry can be fenced.
func decode(id uuid.UUID, b []byte) (e Entry, ok bool, err error) {
	var s storedEntry
	err = json.Unmarshal(b, &s) // if a key has another type, it decodes the others
	if later := dataset.CheckFormat("the record", s.Format, recordFormat); later != nil {
		s.Dataset = id
		switch s.State {
		case StateFencing, StateFenced, StateSuperseded, StateRebooted:
		default:
			s.State = StateArmed
		}
		return s.Entry, len(s.Paths) > 0, later
	}
	if err == nil && s.Dataset != id {
		err = fmt.Errorf("it belongs to dataset %s", s.Dataset)
	}
	return s.Entry, err == nil, err
}

// put stores an entry for the next guard of the same boot, and starts to flush it. The channel receives the result
// of the flush.
func (r *records) put(e Entry) (flushed <-chan error, err error) {
	b, err := json.Marshal(storedEntry{recordFormat, e})
	if err != nil {
		return nil, err
	}
	path := r.path(e.Dataset)
	if err := os.WriteFile(path+".tmp", b, 0o600); err != nil {
		return nil, err
	}
	if err := os.Rename(path+".tmp", path); err != nil {
		return nil, err
	}
	return r.flush(e.Dataset, b), nil
}

// drop removes an entry. The channel receives the result of the flush. A power cut before the flush can bring the
// entry back. That does no harm, because the entry then belongs to an earlier boot.
func (r *records) drop(id uuid.UUID) (flushed <-chan error, err error) {
	for _, path := range []string{r.path(id), r.deadlinePath(id)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return r.flush(id, nil), nil
}

func (r *records) flush(id uuid.UUID, record []byte) <-chan error {
	c := make(chan error, 1)
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.queue[id]
	if s == nil {
		s = &pendingSave{}
		r.queue[id] = s
	}
	s.record = record
	s.done = append(s.done, c)
	if !r.busy {
		r.busy = true
		r.wg.Go(r.work)
	}
	return c
}

// work flushes records until the queue is empty.
func (r *records) work() {
	for {
		r.mu.Lock()
		var id uuid.UUID
		var s *pendingSave
		for id, s = range r.queue {
			break
		}
		if s == nil {
			r.busy = false
			r.mu.Unlock()
			return
		}
		delete(r.queue, id)
		r.mu.Unlock()
		err := r.hand.Save(r.ctx, id, s.record)
		if err != nil {
			err = fmt.Errorf("flush the record of dataset %s: %w", id, err)
			r.problem(err)
		}
		for _, c := range s.done {
			c <- err
		}
	}
}

// forgetDeadline removes a deadline that was fed before a boot.
func (r *records) forgetDeadline(id uuid.UUID) error {
	if err := os.Remove(r.deadlinePath(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

const deadlineSize = 8 + 8 + 4

// putDeadline stores a deadline that was fed.
func (r *records) putDeadline(id uuid.UUID, epoch uint64, at time.Duration) error {
	b := make([]byte, 0, deadlineSize)
	b = binary.BigEndian.AppendUint64(b, epoch)
	b = binary.BigEndian.AppendUint64(b, uint64(at))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(append(id[:], b...)))
	f, err := os.OpenFile(r.deadlinePath(id), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return errors.Join(err, f.Close())
}

// deadline returns the last stored deadline for an epoch, or 0 if there is none or the file is damaged.
func (r *records) deadline(id uuid.UUID, epoch uint64) time.Duration {
	b, err := os.ReadFile(r.deadlinePath(id))
	if err != nil || len(b) != deadlineSize || binary.BigEndian.Uint64(b) != epoch {
		return 0
	}
	if binary.BigEndian.Uint32(b[16:]) != crc32.ChecksumIEEE(append(id[:], b[:16]...)) {
		return 0
	}
	return time.Duration(binary.BigEndian.Uint64(b[8:]))
}

// loadTime bounds how long load waits for the disk. Waiting longer is not necessary, because the datasets that were
// registered on this boot are also in the folder on the tmpfs.
const loadTime = 5 * time.Second

// sourceThisBoot names the place of the records of this boot, which is on a tmpfs.
const sourceThisBoot = "of this boot"

// load returns the stored table, and an error for each part that could not be read.
func (r *records) load(ctx context.Context, boot string) (table map[uuid.UUID]Entry, problems []error) {
	table = map[uuid.UUID]Entry{}
	take := func(id uuid.UUID, b []byte, where string) {
		e, ok, err := decode(id, b)
		switch {
		case err == nil:
		case ok:
			problems = append(problems, fmt.Errorf("dataset %s: %w; it is fenced by the keys that this guard "+
				"knows (%s)", id, err, where))
			if where == sourceThisBoot {
				e.Boot = boot
			}
		case errors.Is(err, dataset.ErrUnsupported):
			problems = append(problems, fmt.Errorf("dataset %s: %w; without its paths it is not fenced until it "+
				"is registered again (%s)", id, err, where))
			return
		default:
			problems = append(problems, fmt.Errorf("the record of dataset %s %s is damaged: it is not "+
				"fenced until it is registered again", id, where))
			return
		}
		if was, ok := table[id]; !ok || was.Boot != boot {
			table[id] = e
		}
	}
	kept, err := hand.LoadRecords(r.run)
	if err != nil {
		problems = append(problems, fmt.Errorf("read the records of this boot: %w", err))
	}
	for id, b := range kept {
		take(id, b, sourceThisBoot)
	}
	ctx, cancel := context.WithTimeout(ctx, loadTime)
	defer cancel()
	flushed, err := r.hand.Load(ctx)
	if err != nil {
		problems = append(problems, fmt.Errorf("read the flushed records: %w", err))
	}
	for id, b := range flushed {
		if e, ok := table[id]; ok && e.Boot == boot {
			continue // the record of this boot is as new, or newer
		}
		take(id, b, "on disk")
	}
	for id, e := range table {
		if e.Boot == boot {
			e.Deadline = max(e.Deadline, r.deadline(id, e.Epoch))
			table[id] = e
		}
	}
	return table, problems
}
