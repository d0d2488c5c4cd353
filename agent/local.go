package agent

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

	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/fsctl"
	"github.com/droverhq/drover/internal/safefile"
)

// CreatePool makes a pool on this node and has control record it.
func (a *Agent) CreatePool(ctx context.Context, p api.NewPool) (dataset.Pool, error) {
	if err := dataset.CheckPoolName(p.Name); err != nil {
		return dataset.Pool{}, err
	}
	rec, err := a.pools.Asked(p)
	if err != nil {
		return dataset.Pool{}, err
	}
	rec.ID = uuid.New()
	unlock, err := a.lockPools(ctx, "making of pool "+p.Name)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer unlock()
	op, err := a.pools.Make(ctx, p.Name, rec)
	if err != nil {
		return dataset.Pool{}, err
	}
	defer a.News.Soon()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel() // the pool exists, and control must learn of it even if the caller no longer waits
	if err := a.registration.Register(ctx); err != nil {
		return op.Pool, err
	}
	a.reporter.ReportPools(ctx)
	return op.Pool, nil
}

// lockPools lets only one pool at a time be made or adopted, because two could want one name or one place.
func (a *Agent) lockPools(ctx context.Context, what string) (unlock func(), err error) {
	return a.Locks.Lock(ctx, uuid.Nil, what)
}

// AdoptPool adopts a pool that was made on another node, or before the store was lost, and brings its volumes
// back.
func (a *Agent) AdoptPool(ctx context.Context, path string) (dataset.Pool, []api.Rebuilt, error) {
	if !filepath.IsAbs(path) || filepath.Clean(path) != path {
		return dataset.Pool{}, nil, dataset.Errorf(dataset.ErrInvalid, "path %q is not absolute and clean", path)
	}
	found, err := foundAt(path)
	if errors.Is(err, os.ErrNotExist) {
		err = errors.New("it is absent")
	}
	if err != nil {
		return dataset.Pool{}, nil, dataset.Errorf(dataset.ErrInvalid,
			"nothing at %s can be adopted: %w (is its disk mounted?)", path, err)
	}
	unlock, err := a.lockPools(ctx, "adoption of "+path)
	if err != nil {
		return dataset.Pool{}, nil, err
	}
	defer unlock()
	for _, o := range a.pools.All() {
		if o.Record.Place() == path || o.Record.Path == path { // checked before the pool is read, whose disk may hang
			if err := o.Leaves(); err != nil {
				return dataset.Pool{}, nil, err
			}
		}
		if o.Record.Image == 0 {
			continue
		}
		if err := a.here(ctx, o); err != nil && sameFile(path, o.Record.Path) { // an online pool's disk does not hang
			return dataset.Pool{}, nil, err
		}
	}
	name := a.freePoolName(path)
	defer a.pools.Tidy(name)
	var tried, unable []unadopted
	for _, kind := range a.config.Backends.Kinds() {
		if err := backends.Serves(ctx, kind); err != nil {
			unable = append(unable, unadopted{kind.Name(), err})
			continue
		}
		rec := found
		rec.Backend = kind.Name()
		a.pools.Place(name, &rec)
		var b backends.Pool
		err := a.pools.Formable(ctx, name, rec, kind)
		if err == nil {
			b, err = kind.Open(ctx, rec.Configured(name, a.keys))
		}
		if err != nil {
			tried = append(tried, unadopted{kind.Name(), err})
			continue
		}
		rec.ID = b.ID()
		if err := b.Close(); err != nil {
			return dataset.Pool{}, nil, err
		}
		return a.adopt(ctx, name, rec)
	}
	return dataset.Pool{}, nil, notAdopted(path, tried, unable)
}

// unadopted says why a backend found no pool of its own.
type unadopted struct {
	backend string
	err     error
}

// notAdopted returns the error if no backend found a pool, from the reasons of the backends that tried and of
// those that cannot work on this host. It has only the reasons that concern what is there.
func notAdopted(path string, tried, unable []unadopted) error {
	all := slices.Concat(tried, unable)
	var is struct{ Backend string }
	raw, err := safefile.Read(filepath.Join(path, "pool.json")) // every pool in a folder has this file
	if err == nil && json.Unmarshal(raw, &is) == nil &&
		slices.ContainsFunc(all, func(u unadopted) bool { return u.backend == is.Backend }) {
		all = slices.DeleteFunc(all, func(u unadopted) bool { return u.backend != is.Backend })
	}
	st, serr := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) && serr == nil && st.IsDir() {
		but := ""
		if len(unable) > 0 {
			but = "; not every backend works on this host: drover doctor"
		}
		return dataset.Errorf(dataset.ErrInvalid,
			"nothing at %s can be adopted: no pool lies there (is its disk mounted? drover pool create NAME "+
				"--backend KIND --path %[1]s makes a new one%s)", path, but)
	}
	if content, cerr := fsctl.Identify(path); cerr == nil && content == fsctl.Empty && serr == nil &&
		st.Mode()&os.ModeDevice != 0 {
		return dataset.Errorf(dataset.ErrInvalid,
			"nothing at %s can be adopted: it is empty (drover pool create NAME --backend KIND --device "+
				"%[1]s makes a pool of it)", path)
	}
	holds := func(u unadopted) bool { // something of this backend is there, and it is not a pool
		kind := dataset.KindOf(u.err)
		return kind == dataset.ErrExists || kind == dataset.ErrCorrupt
	}
	if slices.ContainsFunc(all, holds) {
		all = slices.DeleteFunc(all, func(u unadopted) bool { return !holds(u) })
	}
	var why []string
	for _, u := range all {
		text := u.err.Error()
		if who := "backend " + u.backend; !strings.HasPrefix(text, who) {
			text = who + ": " + text
		}
		why = append(why, text)
	}
	return dataset.Errorf(dataset.ErrInvalid, "nothing at %s can be adopted: %s", path, strings.Join(why, "; "))
}

// foundAt returns the record of the pool at a path.
func foundAt(path string) (pool.Record, error) {
	found := pool.Record{Path: path, Found: true}
	st, err := os.Lstat(path)
	switch {
	case errors.Is(err, os.ErrNotExist) && pool.Within(path, "/dev"): // a volume group without an active volume
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

// here refuses to adopt a pool that this node has already and that is online.
func (a *Agent) here(ctx context.Context, p *pool.Pool) error {
	if st, err := a.pools.See(ctx, p.ID); err != nil || !st.Online {
		return nil //nolint:nilerr // it may lie elsewhere by now
	}
	return dataset.Errorf(dataset.ErrExists, "it is pool %s of this node already, at %s (drover store "+
		"rebuild brings back what is not on record)", p.Name, p.Record.Path)
}

func sameFile(a, b string) bool {
	one, err := os.Stat(a)
	other, oerr := os.Stat(b)
	return err == nil && oerr == nil && os.SameFile(one, other)
}

func (a *Agent) adopt(ctx context.Context, name string, rec pool.Record) (dataset.Pool, []api.Rebuilt, error) {
	for _, p := range a.pools.All() {
		if p.ID != rec.ID {
			continue
		}
		if err := p.Leaves(); err != nil { // by whatever path it was found
			return dataset.Pool{}, nil, err
		}
		if err := a.here(ctx, p); err != nil {
			return dataset.Pool{}, nil, err
		}
		// The pool has moved. It keeps its position and name.
		name, rec.Default, rec.Generation = p.Name, p.Record.Default, p.Record.Generation
		if len(rec.Devices) > 0 && rec.Path == rec.Mount {
			rec.Path = ""
		}
		a.pools.Place(name, &rec)
	}
	if err := a.DB.Put(ctx, map[string]any{"pools/" + name: rec}); err != nil {
		return dataset.Pool{}, nil, err
	}
	a.pools.OpenAll(ctx, true, a.pools.Known(name, rec))
	defer a.News.Soon()
	if err := a.takeLate(ctx); err != nil {
		return dataset.Pool{}, nil, err
	}
	op, _ := a.pools.ByName(name)
	if err := op.Serves(); err != nil {
		if op.Held() != "" {
			err = fmt.Errorf("%w; then drover store rebuild brings its volumes back", err)
		}
		return op.Pool, nil, err
	}
	found, err := a.holdings.InPool(ctx, op)
	if err != nil {
		return op.Pool, nil, err
	}
	back, err := a.Control.Rebuild(ctx, a.NodeID, found)
	a.reporter.ReportPools(ctx)
	return op.Pool, back, err
}

var notPoolName = regexp.MustCompile(`[^a-z0-9]+`)

func (a *Agent) freePoolName(path string) string {
	base := strings.Trim(notPoolName.ReplaceAllString(strings.ToLower(strings.TrimSuffix(filepath.Base(path),
		".img")), "-"), "-")
	if dataset.CheckPoolName(base) != nil {
		base = "adopted"
	}
	name := base
	for n := 2; ; n++ {
		if _, taken := a.pools.ByName(name); !taken {
			return name
		}
		name = fmt.Sprintf("%s-%d", base, n)
	}
}

// Collect destroys one dataset in a pool that the store does not know. It fails with ErrConflict while the store
// is inconsistent, because the dataset may be missing for that reason.
func (a *Agent) Collect(ctx context.Context, id uuid.UUID) error {
	if found, err := a.collectCorner(ctx, id); found {
		return err
	}
	if err := a.collectable(ctx, id); err != nil {
		return err
	}
	for _, p := range a.pools.All() {
		if p.Storage == nil {
			continue
		}
		e, err := p.Storage.Stat(ctx, id)
		if errors.Is(err, dataset.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		if err := p.Serves(); err != nil {
			return err
		}
		unlock, err := a.Locks.Lock(ctx, id, "gc of dataset "+id.String())
		if err != nil {
			return err
		}
		defer unlock()
		// The previous holder of the lock may have had it recorded.
		if err := a.collectable(ctx, id); err != nil {
			return err
		}
		if e.State != backends.EntryCopy {
			if err := a.datasets.EnsureUnrecorded(ctx, id); err != nil {
				return err
			}
		}
		d := dataset.Dataset{ID: id, Volume: id.String(), Pool: p.ID}
		if err := a.verifier.EnsureUnused(ctx, d, "destroy"); err != nil {
			return err
		}
		a.Log.WithFields(map[string]any{"pool": p.Name, "dataset": id}).
			Warn("destroyed what the store does not know, as asked")
		if err := p.Storage.Delete(ctx, id); err != nil {
			return err
		}
		a.Cache.Remove(id)
		return nil
	}
	return dataset.Errorf(dataset.ErrNotFound, "no dataset %s in any pool of this node", id)
}

// collectCorner removes what a drover backend verify has left, if it has the UUID.
func (a *Agent) collectCorner(ctx context.Context, id uuid.UUID) (found bool, err error) {
	for _, p := range a.pools.All() {
		if p.Storage == nil {
			continue
		}
		list, err := trialdir.Find(p.Storage.Info().Path)
		i := slices.IndexFunc(list, func(l trialdir.Left) bool { return l.ID == id })
		if err != nil || i < 0 {
			continue
		}
		if err := p.Serves(); err != nil {
			return true, err
		}
		a.Log.WithFields(map[string]any{"pool": p.Name, "path": list[i].Path}).
			Warn("removed what a verify has left, as asked")
		return true, trialdir.Remove(ctx, a.config.Backends, list[i])
	}
	return false, nil
}

// collectable fails unless it is certain that no record of a dataset exists.
func (a *Agent) collectable(ctx context.Context, id uuid.UUID) error {
	if err := a.Trust.Err(); err != nil {
		return fmt.Errorf("dataset %s: %w", id, err)
	}
	known, _, err := a.datasets.Recorded(ctx)
	if err != nil {
		return err
	}
	if _, ok := known[id]; ok {
		return dataset.Errorf(dataset.ErrExists,
			"dataset %s is on record: drover volume rm, then drover trash purge, destroy it", id)
	}
	if a.copies.IsRecorded(id) {
		return dataset.Errorf(dataset.ErrExists,
			"dataset %s is a copy of one whose home is another node, and on record (drover volume "+
				"superseded discard, for one that was overtaken)", id)
	}
	return nil
}
