package pooladmin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/safefile"
)

// lockPools serializes changes of this host's pools and of their records, because two pools could want the same name or
// path.
func lockPools(ctx context.Context, h *host.Host, what string) (unlock func(), err error) {
	return h.Locks.Lock(ctx, uuid.Nil, what)
}

// CreatePool makes a pool on this node and has control record it.
func (a *Admin) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	if err := dataset.CheckPoolName(p.Name); err != nil {
		return dataset.Pool{}, err
	}
	rec, err := a.Pools.RequestedRecord(p)
	if err != nil {
		return dataset.Pool{}, err
	}
	rec.ID = uuid.New()
	unlock, err := lockPools(ctx, a.Host, "making of pool "+p.Name)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer unlock()
	pl, err := a.Pools.Make(ctx, p.Name, rec)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer a.News.Soon()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel() // the pool exists, and control must learn of it even if the caller no longer waits
	if err := a.Registration.Register(ctx); err != nil {
		return pl.Pool, err
	}
	a.Reporter.ReportPools(ctx)
	return pl.Pool, nil
}

// SetPool changes the policy of a pool. The new policy is checked when the next volume is made or grows. A policy of
// drover.yaml cannot be changed, because the next start would restore it. Idempotent.
func (a *Admin) SetPool(ctx context.Context, name string, p api.PoolPolicy) (dataset.Pool, error) {
	if err := dataset.CheckOvercommit(p.Overcommit); err != nil {
		return dataset.Pool{}, fmt.Errorf("pool %s: %w", dataset.Clip(name), err)
	}
	unlock, err := lockPools(ctx, a.Host, "change of pool "+name)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer unlock()
	pl, known := a.Pools.ByName(name)
	if !known {
		return dataset.Pool{}, dataset.Errorf(dataset.ErrNotFound, "no such pool: %q on this node (drover pool ls)",
			dataset.Clip(name))
	}
	for _, of := range a.Pools.Configured {
		if of.Name == name && of.Overcommit > 0 {
			return dataset.Pool{}, dataset.Errorf(dataset.ErrConflict,
				"pool %s: drover.yaml sets its overcommit to %s: change it there, and restart drover", name,
				dataset.FormatRatio(of.Overcommit))
		}
	}
	err = a.Pools.UpdateRecord(ctx, pl.ID, func(rec *pool.Record) {
		rec.Overcommit, rec.OvercommitConfigured, rec.OvercommitUnknown = p.Overcommit, false, false
	})
	if err != nil {
		return dataset.Pool{}, err
	}
	a.Pools.SyncPolicy(ctx, pl.ID)
	a.Reporter.ReportPools(ctx)
	return pl.Pool, nil
}

// AdoptPool adopts a pool that was made on another node, or before the store was lost, and records its volumes again.
// For a pool that this node has, it only records the volumes that the store does not know. With dryRun it opens the
// pool, reads its content, closes it again, and records nothing. It then returns the result that the adoption would
// have. A dry run does not compare the generation of the pool with the one that control knows, so the adoption can fail
// although the dry run succeeded.
func (a *Admin) AdoptPool(ctx context.Context, path string, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return dataset.Pool{}, nil, dataset.Errorf(dataset.ErrInvalid, "path %q is not absolute and clean", path)
	}
	found, err := recordAt(path)
	if errors.Is(err, os.ErrNotExist) {
		err = errors.New("it does not exist")
	}
	if err != nil {
		return dataset.Pool{}, nil, dataset.Errorf(dataset.ErrInvalid,
			"adopt %s: cannot find a pool: %w (is its disk mounted?)", path, err)
	}
	unlock, err := lockPools(ctx, a.Host, "adoption of "+path)
	if err != nil {
		return dataset.Pool{}, nil, err
	}
	defer unlock()
	for _, o := range a.Pools.All() {
		// Checked before the pool is read, whose disk may hang.
		if o.Record.AdoptPath() == path || o.Record.Path == path {
			if err := o.CheckNotLeaving(); err != nil {
				return dataset.Pool{}, nil, err
			}
		}
		// If the pool is online, its disk does not hang, so sameFile may read its path.
		if a.isOnline(ctx, o) && (o.Record.AdoptPath() == path || sameFile(path, o.Record.Path)) {
			return a.restoreRecords(ctx, o, dryRun)
		}
	}
	name := a.unusedName(path)
	defer a.Pools.RemoveMountPoint(name)
	var tried, unable []adoptFailure
	for _, kind := range a.Pools.Backends.Kinds() {
		if err := backends.CheckOpen(ctx, kind); err != nil {
			unable = append(unable, adoptFailure{kind.Name(), err})
			continue
		}
		rec := found
		rec.Backend = kind.Name()
		a.Pools.SetPlace(name, &rec)
		var b backends.Pool
		err := a.Pools.CheckDevices(ctx, name, rec, kind)
		if err == nil {
			b, err = kind.Open(ctx, rec.Config(name, a.Keys, a.MountRoot()))
		}
		if err != nil {
			tried = append(tried, adoptFailure{kind.Name(), err})
			continue
		}
		rec.ID = b.ID()
		var found []api.FoundDataset
		if dryRun {
			found, err = a.Holdings.ListStorage(ctx, b, func(uuid.UUID) bool { return rec.Unexamined })
		}
		if err := errors.Join(err, b.Close()); err != nil {
			return dataset.Pool{}, nil, err
		}
		if dryRun {
			return a.previewAdoption(ctx, name, rec, found)
		}
		return a.adopt(ctx, name, rec)
	}
	return dataset.Pool{}, nil, notAdoptedError(path, tried, unable)
}

// adoptFailure is the reason why a backend found none of its pools at a path.
type adoptFailure struct {
	backend string
	err     error
}

// notAdoptedError returns the error for a path at which no backend found a pool. tried has the reasons of the backends
// that examined the path. unable has the reasons of the backends that cannot work on this host. The error contains
// only the reasons that concern the content of the path.
func notAdoptedError(path string, tried, unable []adoptFailure) error {
	all := slices.Concat(tried, unable)
	var is struct{ Backend string }
	raw, err := safefile.Read(filepath.Join(path, "pool.json")) // every pool in a folder has this file
	if err == nil && json.Unmarshal(raw, &is) == nil &&
		slices.ContainsFunc(all, func(u adoptFailure) bool { return u.backend == is.Backend }) {
		all = slices.DeleteFunc(all, func(u adoptFailure) bool { return u.backend != is.Backend })
	}
	st, serr := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) && serr == nil && st.IsDir() {
		but := ""
		if len(unable) > 0 {
			but = "; not every backend works on this host: drover doctor"
		}
		return dataset.Errorf(dataset.ErrInvalid,
			"adopt %s: no pool found (is its disk mounted? drover pool create NAME --backend KIND --path %[1]s "+
				"creates a new one%s)", path, but)
	}
	if content, cerr := fsctl.Identify(path); cerr == nil && content == fsctl.Empty && serr == nil &&
		st.Mode()&os.ModeDevice != 0 {
		return dataset.Errorf(dataset.ErrInvalid,
			"adopt %s: the device is empty (drover pool create NAME --backend KIND --device %[1]s creates a pool "+
				"on it)", path)
	}
	holds := func(u adoptFailure) bool { // the path has something of this backend that is not a pool
		kind := dataset.KindOf(u.err)
		return kind == dataset.ErrExists || kind == dataset.ErrCorrupt
	}
	if slices.ContainsFunc(all, holds) {
		all = slices.DeleteFunc(all, func(u adoptFailure) bool { return !holds(u) })
	}
	var why []string
	for _, u := range all {
		text := u.err.Error()
		if who := "backend " + u.backend; !strings.HasPrefix(text, who) {
			text = who + ": " + text
		}
		why = append(why, text)
	}
	return dataset.Errorf(dataset.ErrInvalid, "adopt %s: %s", path, strings.Join(why, "; "))
}

func recordAt(path string) (pool.Record, error) {
	found := pool.Record{Path: path, Unexamined: true, OvercommitUnknown: true}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && pool.IsWithin(path, "/dev"): // a volume group without an active volume
	case err != nil:
		return found, err
	case st.Mode().IsRegular():
		found.Image = dataset.Size(st.Size())
	case !st.IsDir():
		if st, err = os.Stat(path); err == nil && st.Mode().Type() == os.ModeDevice {
			found.Path, found.Devices = "", []string{path}
		}
	}
	return found, nil
}

// isOnline reports whether a pool of this node is online. A pool that is not may have been moved to another path.
func (a *Admin) isOnline(ctx context.Context, p *pool.Pool) bool {
	st, err := a.Pools.ReadStatus(ctx, p.ID)
	return err == nil && st.Online
}

// restoreRecords has control record the datasets in a pool of this node that the store does not know.
func (a *Admin) restoreRecords(ctx context.Context, p *pool.Pool, dryRun bool) (dataset.Pool, []api.Rebuilt, error) {
	found, err := a.Holdings.ListPool(ctx, p)
	if err != nil {
		return p.Pool, nil, err
	}
	back, err := a.Control.Rebuild(ctx, a.NodeID, found, dryRun)
	return p.Pool, back, err
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	other, oerr := os.Stat(b)
	return err == nil && oerr == nil && os.SameFile(one, other)
}

// previewAdoption returns what adopt would return for a pool that contains the given datasets.
func (a *Admin) previewAdoption(ctx context.Context, name string, rec pool.Record, found []api.FoundDataset) (
	dataset.Pool, []api.Rebuilt, error) {
	name, rec, err := a.placeMoved(ctx, name, rec)
	if err != nil {
		return dataset.Pool{}, nil, err
	}
	p := a.Pools.UnopenedPool(name, rec).Pool
	p.Node = a.NodeID
	back, err := a.Control.Rebuild(ctx, a.NodeID, found, true)
	return p, back, err
}

// placeMoved returns the name and the record with which a pool is adopted. A pool of this node that has moved keeps its
// position and name. placeMoved fails if this node has the pool already and it is online, or is being removed.
func (a *Admin) placeMoved(ctx context.Context, name string, rec pool.Record) (string, pool.Record, error) {
	for _, p := range a.Pools.All() {
		if p.ID != rec.ID {
			continue
		}
		if err := p.CheckNotLeaving(); err != nil { // being removed, by whichever path it was found
			return name, rec, err
		}
		if a.isOnline(ctx, p) {
			return name, rec, dataset.Errorf(dataset.ErrExists, "it is already pool %s of this node, at %s", p.Name,
				p.Record.Path)
		}
		name, rec.Default, rec.Generation = p.Name, p.Record.Default, p.Record.Generation
		rec.Overcommit, rec.OvercommitConfigured = p.Record.Overcommit, p.Record.OvercommitConfigured
		rec.OvercommitUnknown = p.Record.OvercommitUnknown
		if len(rec.Devices) > 0 && rec.Path == rec.Mount {
			rec.Path = ""
		}
		a.Pools.SetPlace(name, &rec)
	}
	return name, rec, nil
}

func (a *Admin) adopt(ctx context.Context, name string, rec pool.Record) (dataset.Pool, []api.Rebuilt, error) {
	name, rec, err := a.placeMoved(ctx, name, rec)
	if err != nil {
		return dataset.Pool{}, nil, err
	}
	if err := a.DB.Put(ctx, map[string]any{"pools/" + name: rec}); err != nil {
		return dataset.Pool{}, nil, err
	}
	a.Pools.OpenAll(ctx, true, a.Pools.UnopenedPool(name, rec))
	defer a.News.Soon()
	if err := a.Generations.AnnounceLate(ctx); err != nil {
		return dataset.Pool{}, nil, err
	}
	p, _ := a.Pools.ByName(name)
	if err := p.CheckServed(); err != nil {
		if p.QuarantineReason() != "" {
			err = fmt.Errorf("%w; then drover pool adopt %s restores its volumes", err, p.Record.AdoptPath())
		}
		return p.Pool, nil, err
	}
	defer a.Reporter.ReportPools(ctx)
	return a.restoreRecords(ctx, p, false)
}

var notPoolName = regexp.MustCompile(`[^a-z0-9]+`)

func (a *Admin) unusedName(path string) string {
	base := strings.Trim(notPoolName.ReplaceAllString(strings.ToLower(strings.TrimSuffix(filepath.Base(path),
		".img")), "-"), "-")
	if dataset.CheckPoolName(base) != nil {
		base = "adopted"
	}
	name := base
	for n := 2; ; n++ {
		if _, taken := a.Pools.ByName(name); !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
}
