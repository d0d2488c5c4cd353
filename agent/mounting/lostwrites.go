package mounting

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/condition"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/linux/mount"
)

// Key is the prefix of the losses in the agent's database.
const Key = "lost/"

const (
	// afterFull is how long volumes are still flushed after their pool was last full, because an error that occurred
	// while it was full may not have been reported yet.
	afterFull = time.Minute
	// flushPause is the time between two flushes of a mounted volume: its status is read more often.
	flushPause = 5 * time.Second
	// maxFlushes is how many flushes Look has in progress at most. Each blocks a thread, and they share the disks.
	maxLossFlushes = 4
)

// Loss is what a volume may have lost: writes between Since and Until that were not synced. It is also the record on
// disk.
type Loss struct {
	Since     time.Time `json:"since,omitzero"`      // the zero time if it is not known
	Until     time.Time `json:"until"`               // when the last error was found
	Pool      string    `json:"pool"`                // name of the pool
	Reason    string    `json:"reason"`              // the error of the kernel
	Boot      string    `json:"boot"`                // the boot in which the volume was mounted
	Unmounted bool      `json:"unmounted,omitempty"` // the volume was unmounted since Until
}

// text describes the loss.
func (l Loss) text() string {
	span := "before " + utc(l.Until)
	if !l.Since.IsZero() {
		span = "between " + utc(l.Since) + " and " + utc(l.Until)
	}
	return dataset.LostWrites + span + " and not synced: pool " + l.Pool +
		" was full, and the kernel could not write the data (" + l.Reason + ")"
}

func utc(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// Watcher finds the volumes that may have lost writes. Its methods are safe for concurrent use.
type Watcher struct {
	*Mounts

	flushing chan struct{} // has an element for each flush that Look started
	saving   sync.Mutex    // held while a loss is written to disk, so that the last value is written last

	mu       sync.Mutex
	losses   map[uuid.UUID]Loss
	pools    map[uuid.UUID]poolSpace
	looks    map[uuid.UUID]look
	roots    map[uuid.UUID]*os.File // the root directories of the mounted volumes: see mount.View
	sessions map[uuid.UUID]session
	// unsaved has the datasets whose loss could not be written to disk or removed there.
	unsaved map[uuid.UUID]bool
}

// look is when a volume was last flushed.
type look struct {
	steady time.Duration // when Look started a flush, by the steady clock
	clean  time.Time     // when the last flush without an error began, or the mount, or the zero time
}

// poolSpace is when a pool was last seen full. A pool counts as full while its free space is below backends.Reserve.
type poolSpace struct {
	full    time.Duration // by the steady clock
	wasFull bool          // full is set
}

// Load reads the losses from disk, and removes those of datasets that are no longer on this node.
func (w *Watcher) Load(ctx context.Context) error {
	gone := map[string]any{}
	err := host.EachDataset(ctx, w.DB, Key, func(id uuid.UUID, l Loss) error {
		if _, known := w.Cache.Dataset(id); !known {
			gone[Key+id.String()] = nil
			return nil
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.losses[id] = l
		return nil
	})
	if err != nil {
		return err
	}
	return w.DB.PutAll(ctx, gone)
}

// session is a time in which a dataset stayed mounted, or stayed unmounted.
type session struct {
	id    string
	mount uint64 // ID of the mount; 0 if the dataset is not mounted
}

// Session returns the ID of the present session of a dataset: of the time since its last mount or unmount, or since
// this agent first asked. Within a session no filesystem loses its journal and is mounted again. After that, a file
// could have new content with an old change time. The dataset's lock is held.
func (w *Watcher) Session(id uuid.UUID) string {
	now := mount.ID(w.MountPath(id))
	w.mu.Lock()
	defer w.mu.Unlock()
	s, known := w.sessions[id]
	if !known || s.mount != now {
		s = session{uuid.NewString(), now}
		w.sessions[id] = s
	}
	return s.id
}

func (w *Watcher) endSession(id uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.sessions, id)
}

// isWatched reports whether a dataset of pool b can lose writes: it has a filesystem of its own, and is not read-only.
func isWatched(b backends.Pool, d dataset.Dataset) bool {
	return !d.ReadOnly && b.Info().Capabilities.OwnFilesystem
}

// Mounted begins a session of a dataset of pool b that was just mounted at path, and begins to watch it.
func (w *Watcher) Mounted(ctx context.Context, b backends.Pool, d dataset.Dataset, path string) {
	w.closeRoot(d.ID) // of an earlier mount, which somebody else has unmounted
	w.endSession(d.ID)
	if !isWatched(b, d) {
		return
	}
	w.mu.Lock()
	w.looks[d.ID] = look{steady: w.Clock.Steady() - flushPause, clean: w.Clock.Now()} // its data was read from the disk
	w.mu.Unlock()
	if _, err := w.root(d.ID, path); err != nil {
		w.LogOf(ctx, d).WithError(err).Warn("cannot watch for lost writes yet")
	}
}

// root returns the root directory of a dataset that is mounted at path, and opens it if it is not open yet. It fails
// with mount.ErrNotMounted if the dataset is not mounted.
func (w *Watcher) root(id uuid.UUID, path string) (*os.File, error) {
	w.mu.Lock() // during View, too: Unmounted waits, and closes the directory
	defer w.mu.Unlock()
	if f, open := w.roots[id]; open {
		return f, nil
	}
	f, err := mount.View(path)
	if err == nil {
		w.roots[id] = f
	}
	return f, err
}

// closeRoot closes the root directory of a dataset, if it is open. A flush that uses the directory can continue.
func (w *Watcher) closeRoot(id uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if f, open := w.roots[id]; open {
		delete(w.roots, id)
		_ = f.Close() // nothing was written through it
	}
}

// Close closes all root directories. No other method is running or called later.
func (w *Watcher) Close() {
	for id := range maps.Clone(w.roots) {
		w.closeRoot(id)
	}
}

// Look examines a dataset that is mounted at path. If its pool b is full, or was a moment ago, Look starts a flush,
// and does not wait for it. If the dataset was mounted again since it lost writes and the pool has enough space, the
// loss ends. Look also repeats the writes to the database that failed.
func (w *Watcher) Look(ctx context.Context, b backends.Pool, d dataset.Dataset, path string) {
	w.saveAgain(ctx)
	if !isWatched(b, d) {
		return
	}
	_, _ = w.root(d.ID, path) // the agent may have started after the mount; a flush reports an error
	full, suspect := w.notePool(d.Pool, b.Status(ctx))
	if suspect && w.isDue(d.ID) {
		w.Jobs.Start("flush/"+d.ID.String(), func(ctx context.Context, _ *host.Job) error {
			select {
			case w.flushing <- struct{}{}:
				defer func() { <-w.flushing }()
				w.flush(ctx, d, path)
			default:
				w.makeDue(d.ID) // the next look tries again
			}
			return nil
		})
	}
	w.mu.Lock()
	loss, lost := w.losses[d.ID]
	w.mu.Unlock()
	if lost && !full && (loss.Unmounted || loss.Boot != w.Boot) {
		w.LogOf(ctx, d).Info("volume was mounted again since it may have lost data that was not synced")
		w.Forget(ctx, d.ID)
	}
}

// BeforeUnmount flushes a dataset of pool b that is mounted at path. The unmount would write the same data, and report
// no error.
func (w *Watcher) BeforeUnmount(ctx context.Context, b backends.Pool, d dataset.Dataset, path string) {
	if isWatched(b, d) {
		w.flush(ctx, d, path)
	}
}

// isDue reports whether the next flush of a dataset is due, and notes the time if it is.
func (w *Watcher) isDue(id uuid.UUID) bool {
	now := w.Clock.Steady()
	w.mu.Lock()
	defer w.mu.Unlock()
	last, flushed := w.looks[id]
	if flushed && now-last.steady < flushPause {
		return false
	}
	last.steady = now
	w.looks[id] = last
	return true
}

// makeDue makes the next flush of a dataset due at once.
func (w *Watcher) makeDue(id uuid.UUID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if last, known := w.looks[id]; known {
		last.steady = w.Clock.Steady() - flushPause
		w.looks[id] = last
	}
}

// notePool notes whether a pool is full. suspect is true if it is full, or was a moment ago.
func (w *Watcher) notePool(id uuid.UUID, st dataset.PoolStatus) (full, suspect bool) {
	now := w.Clock.Steady()
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.pools[id]
	full = st.Online && st.Free < backends.Reserve(st.Size)
	if full {
		p.full, p.wasFull = now, true
	}
	w.pools[id] = p
	return full, p.wasFull && now-p.full <= afterFull
}

// flush flushes the filesystem of a dataset, and records a loss if the kernel reports an error.
func (w *Watcher) flush(ctx context.Context, d dataset.Dataset, path string) {
	began := w.Clock.Now()
	root, err := w.root(d.ID, path)
	if err == nil {
		err = fsctl.Sync(root)
	}
	if err != nil {
		w.Failed(ctx, d, err) // it ignores mount.ErrNotMounted: BeforeUnmount has flushed the dataset
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.looks[d.ID]
	last.clean = began
	w.looks[d.ID] = last
}

// Failed records that the kernel could not write data of a mounted dataset because its pool was full. It records ENOSPC
// in any case, and EIO if the pool is full or was full a moment ago, or if its status cannot be read. It ignores other
// errors: they are those of a failing disk, which package pool examines (Pools.Suspect).
func (w *Watcher) Failed(ctx context.Context, d dataset.Dataset, err error) {
	switch {
	case errors.Is(err, unix.ENOSPC):
	case errors.Is(err, unix.EIO):
		if st, serr := w.Pools.ReadStatus(ctx, d.Pool); serr == nil {
			if _, suspect := w.notePool(d.Pool, st); !suspect {
				return
			}
		} // otherwise nobody knows whether the pool was full
	default:
		return
	}
	now := w.Clock.Now()
	w.mu.Lock()
	loss, again := w.losses[d.ID]
	if !again { // the pool may have been full for less time than between two looks, so only a flush says from when on
		loss.Since = w.looks[d.ID].clean
	}
	var errno unix.Errno
	errors.As(err, &errno)
	loss.Until, loss.Pool, loss.Reason = now, w.Pools.Name(d.Pool), errno.Error()
	loss.Boot, loss.Unmounted = w.Boot, false
	w.losses[d.ID] = loss
	w.mu.Unlock()
	w.save(ctx, d.ID)
	if !again {
		w.LogOf(ctx, d).Error("volume " + loss.text())
		w.News.Changed(d.ID)
	}
}

// Unmounted notes that a dataset was unmounted. It flushes once more what was written since BeforeUnmount. The next
// mount shows what is on the disk, so the loss ends then.
func (w *Watcher) Unmounted(ctx context.Context, d dataset.Dataset) {
	id := d.ID
	w.NotMounted(ctx, d)
	w.endSession(id)
	w.mu.Lock()
	delete(w.looks, id)
	loss, lost := w.losses[id]
	changed := lost && !loss.Unmounted
	if changed {
		loss.Unmounted = true
		w.losses[id] = loss
	}
	w.mu.Unlock()
	if changed {
		w.save(ctx, id)
	}
}

// NotMounted ends the watch of a dataset whose mount is gone, perhaps because somebody else has unmounted it. Otherwise
// the open directory would keep the filesystem alive.
func (w *Watcher) NotMounted(ctx context.Context, d dataset.Dataset) {
	w.mu.Lock()
	root, open := w.roots[d.ID]
	w.mu.Unlock()
	if !open {
		return
	}
	if err := fsctl.Sync(root); err != nil {
		w.Failed(ctx, d, err)
	}
	w.closeRoot(d.ID)
}

// Forget ends the loss and the session of a dataset. It is called for a dataset that is no longer on this node, and for
// one whose data was replaced.
func (w *Watcher) Forget(ctx context.Context, id uuid.UUID) {
	w.mu.Lock()
	_, lost := w.losses[id]
	delete(w.losses, id)
	delete(w.looks, id)
	delete(w.sessions, id)
	w.mu.Unlock()
	if lost {
		w.save(ctx, id)
	}
}

// saveAgain repeats the writes that failed. The database can be on the disk that is full.
func (w *Watcher) saveAgain(ctx context.Context) {
	w.mu.Lock()
	ids := slices.Collect(maps.Keys(w.unsaved))
	w.mu.Unlock()
	for _, id := range ids {
		w.save(ctx, id)
	}
}

// save writes the loss of a dataset to disk, or removes it there. If that fails, the log says so once, and the next
// Look tries again. Unless a later write succeeds, the next start reads the former value from disk.
func (w *Watcher) save(ctx context.Context, id uuid.UUID) {
	w.saving.Lock()
	defer w.saving.Unlock()
	w.mu.Lock()
	loss, lost := w.losses[id]
	w.mu.Unlock()
	var value any
	if lost {
		value = loss
	}
	err := w.DB.Put(context.WithoutCancel(ctx), map[string]any{Key + id.String(): value})
	w.mu.Lock()
	again := w.unsaved[id]
	if w.unsaved[id] = err != nil; err == nil {
		delete(w.unsaved, id)
	}
	w.mu.Unlock()
	if err != nil && !again {
		w.Log.WithError(err).WithField("dataset", id).Error("cannot record what a volume may have lost in a full pool")
	}
}

// Problem describes what a dataset may have lost, with the remedy. It returns "" if nothing is known.
func (w *Watcher) Problem(id uuid.UUID) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	loss, lost := w.losses[id]
	if !lost {
		return ""
	}
	return loss.text() + ": " + loss.remedy()
}

// remedy says what the operator should do.
func (l Loss) remedy() string {
	if l.Unmounted {
		return "free space in the pool, start the volume's containers, and check their data"
	}
	return "free space in the pool, stop the volume's containers, start them again, and check their data"
}

// Check adds findings about the volumes that may have lost writes.
func (w *Watcher) Check(r *condition.List) {
	w.mu.Lock()
	var ids []uuid.UUID
	for id := range w.losses {
		ids = append(ids, id)
	}
	w.mu.Unlock()
	var lines condition.List
	for _, id := range ids {
		d, known := w.Cache.Dataset(id)
		w.mu.Lock()
		loss, lost := w.losses[id]
		w.mu.Unlock()
		if !known || !lost || d.State != dataset.StateReady {
			continue
		}
		lines.Add(condition.WritesLost, "volume "+d.Volume, loss.remedy(), loss.text())
	}
	slices.SortFunc(lines, func(x, y api.Finding) int { return cmp.Compare(x.Subject, y.Subject) })
	*r = append(*r, lines...)
}
