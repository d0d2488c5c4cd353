package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/mount"
)

// mounts is the set of mount IDs of every mounted dataset, in memory as on disk.
// A record changes only under its dataset's lock; mu guards the map.
type mounts struct {
	mu       sync.Mutex
	records  map[uuid.UUID]*mountRecord
	idle     map[uuid.UUID]time.Duration // mounted without an ID, since when by the steady clock
	flushing map[chan struct{}]string    // what flushes of this agent's own have open; closed as one ends
}

func (a *Agent) loadMounts(ctx context.Context) error {
	return a.DB.Each(ctx, "mounts/", func(rest string, v []byte) error {
		id, err := uuid.Parse(rest)
		if err != nil {
			return err
		}
		var r mountRecord
		if err := json.Unmarshal(v, &r); err != nil {
			return err
		}
		for use, c := range r.IDs {
			c.inherited = true
			r.IDs[use] = c
		}
		if r.Boot == a.Boot && len(r.IDs) > 0 {
			a.verifyAt = a.Clock.Steady() + unverifiedGrace
		}
		a.mounts.records[id] = &r
		return nil
	})
}

// record returns a copy of a dataset's mount record as it is on this boot.
func (a *Agent) record(id uuid.UUID) mountRecord {
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	r := mountRecord{Boot: a.Boot, IDs: map[string]idCount{}}
	if old := a.mounts.records[id]; old != nil {
		r.Epoch = old.Epoch
		if old.Boot == a.Boot {
			r.IDs = maps.Clone(old.IDs)
		}
	}
	if r.IDs == nil {
		r.IDs = map[string]idCount{}
	}
	return r
}

// save puts a mount record on disk, with the copy of the dataset's own record
// that a mount without control needs, and then in memory.
func (a *Agent) save(ctx context.Context, d dataset.Dataset, r mountRecord, more map[string]any) error {
	values := map[string]any{"mounts/" + d.ID.String(): r}
	if _, left := a.Cache.Copy(d.ID); !left && d.Home == a.NodeID { // whose home is elsewhere is mounted by no start
		values["volumes/"+d.ID.String()] = api.Indexed{Dataset: d, Index: a.Cache.Index(d.ID)}
	}
	maps.Copy(values, more)
	if err := a.DB.Put(ctx, values); err != nil {
		return err
	}
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	a.mounts.records[d.ID] = &r
	return nil
}

// drop forgets the mount record of a dataset that is gone.
func (a *Agent) drop(ctx context.Context, id uuid.UUID) error {
	a.mounts.mu.Lock()
	_, known := a.mounts.records[id]
	delete(a.mounts.records, id)
	a.mounts.mu.Unlock()
	if !known {
		return nil
	}
	return a.DB.Put(ctx, map[string]any{"mounts/" + id.String(): nil})
}

// mounted returns the records of datasets that have mount IDs on this boot.
func (a *Agent) mountedIDs() []uuid.UUID {
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	var out []uuid.UUID
	for id, r := range a.mounts.records {
		if r.Boot == a.Boot && len(r.IDs) > 0 {
			out = append(out, id)
		}
	}
	return out
}

// mountAttached mounts what a backend has attached on path, and lets go of it.
func mountAttached(att backends.Attachment, path string) error {
	if err := mountOn(att.Mount, path); err != nil {
		return errors.Join(unmountable(err), att.Release())
	}
	if err := att.Release(); err != nil {
		return errors.Join(err, mount.Unmount(path))
	}
	return nil
}

// unmountable says what to do next where the kernel does not mount a filesystem that it has: it says
// why in its own log alone.
func unmountable(err error) error {
	var failed *mount.Error
	if !errors.As(err, &failed) || failed.Step != mount.StepCreate {
		return err
	}
	for _, why := range []error{unix.EIO, unix.EUCLEAN, unix.EBADMSG, unix.EINVAL} {
		if errors.Is(err, why) {
			return fmt.Errorf("%w (dmesg says why; where its filesystem is damaged, drover snapshot restore "+
				"VOLUME SNAPSHOT goes on from a snapshot, and keeps what is there)", err)
		}
	}
	return err
}

func (a *Agent) idle(id uuid.UUID) {
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	if a.mounts.idle == nil {
		a.mounts.idle = map[uuid.UUID]time.Duration{}
	}
	a.mounts.idle[id] = a.Clock.Steady()
}

func (a *Agent) unidle(id uuid.UUID) {
	a.mounts.mu.Lock()
	defer a.mounts.mu.Unlock()
	delete(a.mounts.idle, id)
}
