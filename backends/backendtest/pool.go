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
	id := f.Pool.ID()
	if id != f.Config.ID {
		f.Fatalf("the pool is %s, want %s", id, f.Config.ID)
	}
	if f.Kind.Name() == "" || f.Pool.Info().Note == "" || f.Pool.Info().Path == "" {
		f.Errorf("name %q, info %+v: want every field set", f.Kind.Name(), f.Pool.Info())
	}
	d := f.Create()
	f.Open() // Make opens an existing pool unchanged
	f.Config.Make = false
	f.Open()
	if e := f.Entries(d.ID); len(e) != 1 {
		f.Errorf("the list contains %v", e)
	}
	f.Config.ID = uuid.Nil // without an ID, any existing pool is accepted
	f.Open()
	if f.Pool.ID() != id {
		f.Errorf("the pool is %s, want %s", f.Pool.ID(), id)
	}
	other := f.Config
	other.ID = uuid.New()
	_, err := f.Kind.Open(f.Ctx, other)
	f.CheckFails(err, dataset.ErrOffline)
	other.Make = true
	_, err = f.Kind.Open(f.Ctx, other)
	f.CheckFails(err, dataset.ErrExists, dataset.ErrOffline)
	f.Open()
	if e := f.Entries(d.ID); len(e) != 1 {
		f.Errorf("the list contains %v", e)
	}
}

// poolFolder returns the folder that a test has for a pool.
func poolFolder(cfg backends.Config) string {
	if cfg.Mount != "" { // the path of the pool may be that of a device
		return filepath.Dir(cfg.Mount)
	}
	return filepath.Dir(cfg.Path)
}

func poolRefusesNonEmptyPlace(f *fixture) {
	cfg := f.Sibling("full")
	if cfg.Image != 0 {
		f.OK(os.WriteFile(cfg.Path, []byte("precious"), 0o600))
		_, err := f.Kind.Open(f.Ctx, cfg)
		f.CheckFails(err, dataset.ErrExists)
		f.CheckFile(cfg.Path, "precious")
		return
	}
	f.OK(os.MkdirAll(filepath.Join(cfg.Path, "dir"), 0o755))
	f.OK(os.WriteFile(filepath.Join(cfg.Path, "dir/file"), []byte("precious"), 0o600))
	_, err := f.Kind.Open(f.Ctx, cfg)
	f.CheckFails(err, dataset.ErrExists)
	f.CheckFile(filepath.Join(cfg.Path, "dir/file"), "precious")
	if names := f.Names(cfg.Path); !slices.Equal(names, []string{"dir"}) {
		f.Errorf("the directory now contains %q", names)
	}

	cfg = f.Sibling("absent")
	cfg.Make = false
	_, err = f.Kind.Open(f.Ctx, cfg)
	f.CheckFails(err, dataset.ErrOffline)
	if _, err := os.Lstat(cfg.Path); err == nil {
		f.Error("the directory was created")
	}

	cfg = f.Sibling("link")
	f.OK(os.Symlink(f.Config.Path, cfg.Path))
	cfg.ID = f.Config.ID
	_, err = f.Kind.Open(f.Ctx, cfg)
	f.CheckFails(err, dataset.ErrExists, dataset.ErrInvalid, dataset.ErrOffline)

	cfg.Path = "relative/path"
	_, err = f.Kind.Open(f.Ctx, cfg)
	f.CheckFails(err, dataset.ErrInvalid)
}

// offlineCalls returns the error of every call on the pool.
func (f *fixture) offlineCalls(d dataset.Dataset, s dataset.Snapshot) map[string]error {
	_, created := f.Pool.Create(f.Ctx, f.Record())
	_, cloned := f.Pool.Clone(f.Ctx, f.Record(), dataset.Source{Dataset: d.ID, Snapshot: s.ID}, nil)
	_, listed := f.Pool.List(f.Ctx)
	_, statErr := f.Pool.Stat(f.Ctx, d.ID)
	_, used := f.Pool.Used(f.Ctx, d.ID)
	_, reapErr := f.Pool.Reap(f.Ctx, func(uuid.UUID) bool { return true })
	_, attached := f.Pool.Attach(f.Ctx, d.ID, backends.AttachOptions{})
	_, numbered := f.Pool.Generation()
	return map[string]error{
		"create": created, "clone": cloned, "list": listed, "stat": statErr, "used": used, "reap": reapErr,
		"attach":          attached,
		"commit":          f.Pool.Commit(f.Ctx, d.ID),
		"delete":          f.Pool.Delete(f.Ctx, d.ID),
		"snapshot":        f.Pool.Snapshot(f.Ctx, f.NewSnapshot(d), nil),
		"delete snapshot": f.Pool.DeleteSnapshot(f.Ctx, d.ID, s.ID),
		"restore":         f.Pool.Restore(f.Ctx, d.ID, s.ID, f.NewSnapshot(d), nil),
		"write record":    f.Pool.WriteRecord(f.Ctx, d, true),
		"generation":      numbered,
		"raise":           f.Pool.Raise(1),
	}
}

// absentPoolIsOffline removes the pool while it is open, and then puts an empty directory and another pool in its
// place. Nothing may be made there.
func absentPoolIsOffline(f *fixture) {
	if f.Config.Mount != "" {
		return // the pool's image or devices are mounted, so they cannot be removed
	}
	d := f.Create()
	s := f.TakeSnapshot(d)
	f.Write(d.ID, "file", "content")
	away := f.Config.Path + "-away"
	offline := func(what string) {
		f.Helper()
		for call, err := range f.offlineCalls(d, s) {
			if !errors.Is(err, dataset.ErrOffline) {
				f.Errorf("%s: %s: got %v, want an offline error", what, call, err)
			}
		}
		if st := f.Pool.Status(f.Ctx); st.Online || st.Reason == "" {
			f.Errorf("%s: status is %+v", what, st)
		}
	}
	f.OK(os.Rename(f.Config.Path, away))
	offline("absent")

	f.OK(os.Mkdir(f.Config.Path, 0o700))
	offline("empty")
	if names := f.Names(f.Config.Path); len(names) > 0 {
		f.Errorf("the empty directory now contains %q", names)
	}
	f.OK(os.Remove(f.Config.Path))

	other := f.Config
	other.ID = uuid.New()
	pool, err := f.Kind.Open(f.Ctx, other)
	f.OK(err)
	f.OK(pool.Close())
	offline("exchanged")
	f.OK(os.Rename(f.Config.Path, f.Config.Path+"-other"))

	f.OK(os.Rename(away, f.Config.Path))
	if st := f.Pool.Status(f.Ctx); !st.Online {
		f.Errorf("reachable again: status is %+v", st)
	}
	f.CheckContent(d.ID, "file", "content")
	f.CheckSnapshots(d.ID, s)
}

// generationIsRaised checks that a raised generation is recorded in the pool and still has its value after the pool is
// opened again, and that nothing else changed.
func generationIsRaised(f *fixture) {
	want := func(n uint64) {
		f.Helper()
		for range 2 {
			if got, err := f.Pool.Generation(); got != n || err != nil {
				f.Errorf("generation %d, %v; want %d", got, err, n)
			}
			f.Open()
		}
	}
	id, d := f.Pool.ID(), f.Create()
	want(0)
	for _, n := range []uint64{1, 7, 1 << 40} {
		f.Twice(func() error { return f.Pool.Raise(n) })
		want(n)
	}
	policyIsKept(f)
	want(1 << 40)
	f.Config.Make = true // existing files stay as they are
	f.Open()
	want(1 << 40)
	if f.Pool.ID() != id {
		f.Errorf("the pool is %s, was %s", f.Pool.ID(), id)
	}
	f.CheckState(d, backends.EntryReady)
	for _, e := range f.Entries(uuid.Nil) {
		f.Errorf("it left %+v", e)
	}
}

// policyIsKept checks that a pool keeps its policy, if it can keep one.
func policyIsKept(f *fixture) {
	if _, can := f.Pool.(backends.PolicyKeeper); !can {
		return
	}
	for _, ratio := range []float64{1.5, 0, 3} {
		f.Twice(func() error { return f.Pool.(backends.PolicyKeeper).KeepOvercommit(ratio) })
		f.Open()
		if got, err := f.Pool.(backends.PolicyKeeper).Overcommit(); got != ratio || err != nil {
			f.Errorf("overcommit %v, %v; want %v", got, err, ratio)
		}
	}
}

// declaredInterfaces returns which optional interfaces a pool has.
func declaredInterfaces(p backends.Pool) (resizer, copier, staller bool) {
	_, resizer = p.(backends.Resizer)
	_, copier = p.(backends.Copier)
	_, staller = p.(backends.StallPredictor)
	return resizer, copier, staller
}

// isWithin reports whether every capability in can is also in best.
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
	resizer, copier, staller := declaredInterfaces(f.Pool)
	_, sharer := f.Pool.(backends.Sharer)
	bounded, ok := f.Kind.(backends.BoundedKind)
	for what, wrong := range map[string]bool{
		"more than the maximum of its backend": ok && !isWithin(f.Can, bounded.MaxCapabilities()),
		"ManyHosts without a share": f.Can.ManyHosts &&
			(!sharer || f.Pool.Info().Share == uuid.Nil),
		"EnforcesSize without Resizer":    f.Can.EnforcesSize && !resizer,
		"OnlineGrow without EnforcesSize": f.Can.OnlineGrow && !f.Can.EnforcesSize,
		"OfflineGrow of something not supported": slices.ContainsFunc(f.Can.OfflineGrow,
			func(fs string) bool { return !slices.Contains(f.Can.Filesystems, fs) }),
		"OnlineGrow without OfflineGrow": f.Can.OnlineGrow && f.Can.OwnFilesystem &&
			len(f.Can.OfflineGrow) >= len(f.Can.Filesystems),
		"Shrink without EnforcesSize":                   f.Can.Shrink && !f.Can.EnforcesSize,
		"CountsWritten without EnforcesSize":            f.Can.CountsWritten && !f.Can.EnforcesSize,
		"a default size without EnforcesSize":           f.Pool.Info().DefaultSize != 0 && !f.Can.EnforcesSize,
		"Delta without Copier, or Copier without Delta": f.Can.Delta != copier,
		"ConstantSnapshot without InstantSnapshot":      f.Can.ConstantSnapshot && !f.Can.InstantSnapshot,
		"OwnFilesystem without Filesystems":             f.Can.OwnFilesystem != (len(f.Can.Filesystems) > 0),
		"EnforcesSize without a default size": f.Can.EnforcesSize && f.Can.OwnFilesystem &&
			f.Pool.Info().DefaultSize == 0,
		"Limits, which only the node may set":    f.Can.Limits != "",
		"OwnDevice without OwnFilesystem":        f.Can.OwnDevice && !f.Can.OwnFilesystem,
		"StallPredictor without InstantSnapshot": staller && !f.Can.InstantSnapshot,
		"Info that changes":                      !reflect.DeepEqual(f.Pool.Info(), f.Pool.Info()),
		"several lines in the note":              strings.Contains(f.Pool.Info().Note, "\n"),
		"the same filesystem twice in Filesystems": len(
			slices.Compact(slices.Sorted(slices.Values(f.Can.Filesystems)))) != len(f.Can.Filesystems),
		"an absolute path missing in Info": !filepath.IsAbs(f.Pool.Info().Path),
		"a status without size, or not online": f.Pool.Status(f.Ctx).Size == 0 ||
			!f.Pool.Status(f.Ctx).Online,
		"a status of another pool":                            f.Pool.Status(f.Ctx).ID != f.Pool.ID(),
		"more free space than total space":                    f.Pool.Status(f.Ctx).Free > f.Pool.Status(f.Ctx).Size,
		"a backend that is not available at the second check": f.Kind.Available(f.Ctx) != nil,
	} {
		if wrong {
			f.Errorf("the pool declares %s", what)
		}
	}
}
