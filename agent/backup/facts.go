package backup

import (
	"context"
	"sync"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// maxFacts bounds the backups in facts. When it is reached, all are forgotten.
const maxFacts = 5_000

// facts keeps the contents of backups that this agent has read or made. They never change, because the ID of a backup
// is a hash of its content. But the repository may no longer have the backup. facts is safe for concurrent use.
type facts struct {
	mu sync.Mutex
	of map[factKey]fact
}

type factKey struct{ url, id string } // id has 64 digits

type fact struct {
	backup restic.Backup // without an ID if it is not known
	record *Record       // nil if it is not known
	size   dataset.Size  // what a restore writes, or 0 if it is not known
}

// get returns what is known of a backup.
func (f *facts) get(r *restic.Repository, id string) fact {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.of[factKey{r.URL(), id}]
}

// note calls change for what is known of a backup, and keeps the result.
func (f *facts) note(r *restic.Repository, id string, change func(*fact)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := factKey{r.URL(), id}
	now, known := f.of[key]
	if change(&now); f.of == nil || !known && len(f.of) >= maxFacts {
		f.of = map[factKey]fact{}
	}
	f.of[key] = now
}

// noteAll notes the backups in a list, unless there are too many.
func (f *facts) noteAll(r *restic.Repository, list []restic.Backup) {
	if len(list) > maxFacts {
		return
	}
	for _, b := range list {
		f.note(r, b.ID, func(now *fact) { now.backup = b })
	}
}

// readBackup is the function readBackup, without a run of restic if the backup is known. The repository may not have
// the backup any more: the caller must then read something else of it.
func (f *facts) readBackup(ctx context.Context, r *restic.Repository, id, remedy string) (b restic.Backup, t Tags,
	err error) {
	if b = f.get(r, id).backup; b.ID != "" {
		t, err = checkTags(b, remedy)
		return b, t, err
	}
	b, t, err = readBackup(ctx, r, id, remedy)
	if err == nil {
		f.note(r, b.ID, func(now *fact) { now.backup = b })
	}
	return b, t, err
}

// readRecord is the function readRecord, and notes the record.
func (f *facts) readRecord(ctx context.Context, r *restic.Repository, b restic.Backup, tags Tags) (Record, error) {
	record, err := readRecord(ctx, r, b, tags)
	if err == nil {
		f.note(r, b.ID, func(now *fact) { now.record = &record })
	}
	return record, err
}
