package backendtest

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

func poolIsMadeOnce(f *fixture) {
	id := f.pool.ID()
	if id != f.cfg.ID {
		f.Fatalf("the pool is %s, want %s", id, f.cfg.ID)
	}
	if f.kind.Name() == "" || f.pool.Info().Note == "" || f.pool.Info().Path == "" {
		f.Errorf("name %q, info %+v: want every field set", f.kind.Name(), f.pool.Info())
	}
	d := f.create()
	f.open() // Make on an existing pool: the same pool
	f.cfg.Make = false
	f.open()
	if e := f.entries(d.ID); len(e) != 1 {
		f.Errorf("the list contains %v", e)
	}
	f.cfg.ID = uuid.Nil // without an ID, any existing pool is accepted
	f.open()
	if f.pool.ID() != id {
		f.Errorf("the pool is %s, want %s", f.pool.ID(), id)
	}
	other := f.cfg
	other.ID = uuid.New()
	_, err := f.kind.Open(f.ctx, other)
	f.fails(err, dataset.ErrOffline)
	other.Make = true
	_, err = f.kind.Open(f.ctx, other)
	f.fails(err, dataset.ErrExists, dataset.ErrOffline)
	f.open()
	if e := f.entries(d.ID); len(e) != 1 {
		f.Errorf("the list contains %v", e)
	}
}

// poolFolder returns the folder that a test has for a pool.
func poolFolder(cfg backends.Config) string {
	if cfg.Mount != "" { // its path is of a device, among others
		return filepath.Dir(cfg.Mount)
	}
	return filepath.Dir(cfg.Path)
}

func poolRefusesWhatHoldsSomething(f *fixture) {
	cfg := f.sibling("full")
	if cfg.Image != 0 {
		f.ok(os.WriteFile(cfg.Path, []byte("precious"), 0o600))
		_, err := f.kind.Open(f.ctx, cfg)
		f.fails(err, dataset.ErrExists)
		f.fileHolds(cfg.Path, "precious")
		return
	}
	f.ok(os.MkdirAll(filepath.Join(cfg.Path, "dir"), 0o755))
	f.ok(os.WriteFile(filepath.Join(cfg.Path, "dir/file"), []byte("precious"), 0o600))
	_, err := f.kind.Open(f.ctx, cfg)
	f.fails(err, dataset.ErrExists)
	f.fileHolds(filepath.Join(cfg.Path, "dir/file"), "precious")
	if names := f.names(cfg.Path); !slices.Equal(names, []string{"dir"}) {
		f.Errorf("the directory now contains %q", names)
	}

	cfg = f.sibling("absent")
	cfg.Make = false
	_, err = f.kind.Open(f.ctx, cfg)
	f.fails(err, dataset.ErrOffline)
	if _, err := os.Lstat(cfg.Path); err == nil {
		f.Error("the directory was created")
	}

	cfg = f.sibling("link")
	f.ok(os.Symlink(f.cfg.Path, cfg.Path))
	cfg.ID = f.cfg.ID
	_, err = f.kind.Open(f.ctx, cfg)
	f.fails(err, dataset.ErrExists, dataset.ErrInvalid, dataset.ErrOffline)

	cfg.Path = "relative/path"
	_, err = f.kind.Open(f.ctx, cfg)
	f.fails(err, dataset.ErrInvalid)
}

// offlineCalls returns the error of every call on the pool.
func (f *fixture) offlineCalls(d dataset.Dataset, s dataset.Snapshot) map[string]error {
	_, created := f.pool.Create(f.ctx, f.record())
	_, cloned := f.pool.Clone(f.ctx, f.record(), dataset.Source{Dataset: d.ID, Snapshot: s.ID}, nil)
	_, listed := f.pool.List(f.ctx)
	_, asked := f.pool.Stat(f.ctx, d.ID)
	_, used := f.pool.Used(f.ctx, d.ID)
	_, reaped := f.pool.Reap(f.ctx, func(uuid.UUID) bool { return true })
	_, attached := f.pool.Attach(f.ctx, d.ID, backends.AttachOptions{})
	_, numbered := f.pool.Generation()
	return map[string]error{
		"create": created, "clone": cloned, "list": listed, "stat": asked, "used": used, "reap": reaped,
		"attach":          attached,
		"commit":          f.pool.Commit(f.ctx, d.ID),
		"delete":          f.pool.Delete(f.ctx, d.ID),
		"snapshot":        f.pool.Snapshot(f.ctx, f.snapshot(d), nil),
		"delete snapshot": f.pool.DeleteSnapshot(f.ctx, d.ID, s.ID),
		"restore":         f.pool.Restore(f.ctx, d.ID, s.ID, f.snapshot(d), nil),
		"write record":    f.pool.WriteRecord(f.ctx, d, true),
		"generation":      numbered,
		"raise":           f.pool.Raise(1),
	}
}

// poolThatIsAwayIsOffline removes the pool while it is open, and then puts an empty directory and another pool in its
// place. Nothing may be made there.
func poolThatIsAwayIsOffline(f *fixture) {
	if f.cfg.Mount != "" {
		return // the mount holds its image, or its devices
	}
	d := f.create()
	s := f.take(d)
	f.write(d.ID, "file", "content")
	away := f.cfg.Path + "-away"
	offline := func(what string) {
		f.Helper()
		for call, err := range f.offlineCalls(d, s) {
			if !errors.Is(err, dataset.ErrOffline) {
				f.Errorf("%s: %s: got %v, want an offline error", what, call, err)
			}
		}
		if st := f.pool.Status(f.ctx); st.Online || st.Reason == "" {
			f.Errorf("%s: status is %+v", what, st)
		}
	}
	f.ok(os.Rename(f.cfg.Path, away))
	offline("absent")

	f.ok(os.Mkdir(f.cfg.Path, 0o700))
	offline("empty")
	if names := f.names(f.cfg.Path); len(names) > 0 {
		f.Errorf("the empty directory now contains %q", names)
	}
	f.ok(os.Remove(f.cfg.Path))

	other := f.cfg
	other.ID = uuid.New()
	pool, err := f.kind.Open(f.ctx, other)
	f.ok(err)
	f.ok(pool.Close())
	offline("exchanged")
	f.ok(os.Rename(f.cfg.Path, f.cfg.Path+"-other"))

	f.ok(os.Rename(away, f.cfg.Path))
	if st := f.pool.Status(f.ctx); !st.Online {
		f.Errorf("reachable again: status is %+v", st)
	}
	f.holds(d.ID, "file", "content")
	f.hasSnapshots(d.ID, s)
}

// generationIsRaised checks that the counter is in the pool for everyone who opens it, and that nothing else changed.
func generationIsRaised(f *fixture) {
	want := func(n uint64) {
		f.Helper()
		for range 2 {
			if got, err := f.pool.Generation(); got != n || err != nil {
				f.Errorf("generation %d, %v; want %d", got, err, n)
			}
			f.open()
		}
	}
	id, d := f.pool.ID(), f.create()
	want(0)
	for _, n := range []uint64{1, 7, 1 << 40} {
		f.twice(func() error { return f.pool.Raise(n) })
		want(n)
	}
	f.cfg.Make = true // existing files stay as they are
	f.open()
	want(1 << 40)
	if f.pool.ID() != id {
		f.Errorf("the pool is %s, was %s", f.pool.ID(), id)
	}
	f.inState(d, backends.EntryReady)
	for _, e := range f.entries(uuid.Nil) {
		f.Errorf("it left %+v", e)
	}
}

// declaredInterfaces returns which optional interfaces a pool has.
func declaredInterfaces(p backends.Pool) (resizer, copier, staller bool) {
	_, resizer = p.(backends.Resizer)
	_, copier = p.(backends.Copier)
	_, staller = p.(backends.StallPredictor)
	return resizer, copier, staller
}

// isWithin reports whether a pool declares nothing that is not in best.
func isWithin(can, best dataset.Capabilities) bool {
	is, most := reflect.ValueOf(can), reflect.ValueOf(best)
	for i := range is.NumField() {
		if f := is.Field(i); f.Kind() == reflect.Bool && f.Bool() && !most.Field(i).Bool() {
			return false
		}
	}
	return !slices.ContainsFunc(can.Filesystems, func(fs string) bool { return !slices.Contains(best.Filesystems, fs) })
}

func capabilitiesMatchInterfaces(f *fixture) {
	resizer, copier, staller := declaredInterfaces(f.pool)
	_, sharer := f.pool.(backends.Sharer)
	bounded, ok := f.kind.(backends.BoundedKind)
	for what, wrong := range map[string]bool{
		"more than the maximum of its backend": ok && !isWithin(f.can, bounded.MaxCapabilities()),
		"ManyHosts without a share": f.can.ManyHosts &&
			(!sharer || f.pool.Info().Share == uuid.Nil),
		"EnforcesSize without Resizer":    f.can.EnforcesSize && !resizer,
		"OnlineGrow without EnforcesSize": f.can.OnlineGrow && !f.can.EnforcesSize,
		"OfflineGrow of something not supported": slices.ContainsFunc(f.can.OfflineGrow,
			func(fs string) bool { return !slices.Contains(f.can.Filesystems, fs) }),
		"OnlineGrow without OfflineGrow": f.can.OnlineGrow && f.can.OwnFilesystem &&
			len(f.can.OfflineGrow) >= len(f.can.Filesystems),
		"Shrink without EnforcesSize":                   f.can.Shrink && !f.can.EnforcesSize,
		"CountsWritten without EnforcesSize":            f.can.CountsWritten && !f.can.EnforcesSize,
		"a default size without EnforcesSize":           f.pool.Info().DefaultSize != 0 && !f.can.EnforcesSize,
		"Delta without Copier, or Copier without Delta": f.can.Delta != copier,
		"ConstantSnapshot without InstantSnapshot":      f.can.ConstantSnapshot && !f.can.InstantSnapshot,
		"OwnFilesystem without Filesystems":             f.can.OwnFilesystem != (len(f.can.Filesystems) > 0),
		"EnforcesSize without a default size": f.can.EnforcesSize && f.can.OwnFilesystem &&
			f.pool.Info().DefaultSize == 0,
		"Limits, which only the node may set":    f.can.Limits != "",
		"OwnDevice without OwnFilesystem":        f.can.OwnDevice && !f.can.OwnFilesystem,
		"StallPredictor without InstantSnapshot": staller && !f.can.InstantSnapshot,
		"Info that changes":                      !reflect.DeepEqual(f.pool.Info(), f.pool.Info()),
		"several lines in the note":              strings.Contains(f.pool.Info().Note, "\n"),
		"the same filesystem twice in Filesystems": len(
			slices.Compact(slices.Sorted(slices.Values(f.can.Filesystems)))) != len(f.can.Filesystems),
		"an absolute path missing in Info": !filepath.IsAbs(f.pool.Info().Path),
		"a status without size, or not online": f.pool.Status(f.ctx).Size == 0 ||
			!f.pool.Status(f.ctx).Online,
		"a status of another pool":                            f.pool.Status(f.ctx).ID != f.pool.ID(),
		"more free space than total space":                    f.pool.Status(f.ctx).Free > f.pool.Status(f.ctx).Size,
		"a backend that is not available at the second check": f.kind.Available(f.ctx) != nil,
	} {
		if wrong {
			f.Errorf("the pool declares %s", what)
		}
	}
}
