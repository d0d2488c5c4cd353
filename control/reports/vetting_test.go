package reports_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// cutsOff makes the profile auto fence the last home by a command.
func cutsOff(p *controltest.ProfileSet, args ...string) {
	auto := p.ByName["auto"]
	auto.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec, Exec: args, Timeout: dataset.DefaultFenceTimeout}
	p.ByName["auto"] = auto
}

// mounts sets the mount options of all profiles.
func mounts(p *controltest.ProfileSet, options ...string) {
	for name, is := range p.ByName {
		is.Filesystem.Mount = options
		p.ByName[name] = is
	}
}

// hostile is a profile with a command that only the reporting node has.
func hostile(p dataset.Profile) dataset.Profile {
	p = p.Clone()
	p.Replicas.Count = 1
	p.Failover = dataset.Failover{Auto: true, MaxLoss: dataset.Duration(10_000 * time.Hour)}
	p.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec, Exec: []string{"/bin/sh", "-c", "evil"}, Timeout: dataset.DefaultFenceTimeout}
	return p
}

// A fence command runs as root on another node than the one that reports it, and mount options apply on each node to
// which the volume goes. So only those that come from control's profiles, or that are already on record, are
// recorded.
func TestForeignProfilesOfReports(t *testing.T) {
	for what, change := range map[string]func(p *dataset.Profile){
		"a fence command": func(p *dataset.Profile) { *p = hostile(*p) },
		"mount options":   func(p *dataset.Profile) { p.Filesystem.Mount = []string{"nosuid", "dev"} },
		"mount options ":  func(p *dataset.Profile) { p.Filesystem.Mount = nil }, // it leaves nosuid out
	} {
		t.Run(what, func(t *testing.T) { testForeign(t, strings.TrimSpace(what), change) })
	}
}

func testForeign(t *testing.T, what string, change func(p *dataset.Profile)) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	controltest.AddAutoFailover(m.Profiles, 1)
	cutsOff(m.Profiles, "/sbin/off", "-f")
	mounts(m.Profiles, "nosuid")
	a := m.Agents["alpha"]
	a.ReportGuard()
	m.Agents["beta"].ReportGuard()
	a.MustCreate("db@auto")
	snap := a.MustSnapshot("db", "")
	for name, req := range map[string]api.Request{
		"create":                  controltest.Create("new@gold"),
		"create of that profile":  controltest.Create("new@auto"),
		"clone":                   controltest.Create("copy", "from=db"),
		"snapshot":                {Kind: dataset.OpSnapshot, Volume: "db"},
		"restore":                 {Kind: dataset.OpRestore, Volume: "db", Snapshot: snap.ID.String()},
		"resize":                  {Kind: dataset.OpResize, Volume: "db", Size: "30GiB"},
		"resize for a profile":    {Kind: dataset.OpResize, Volume: "db", Size: "30GiB", Options: map[string]string{"profile": "auto"}},
		"resize for no profile's": {Kind: dataset.OpResize, Volume: "db", Size: "30GiB", Options: map[string]string{"profile": "gone"}},
	} {
		op := a.MustPlan(req)
		op.Options = req.Options
		if op.DatasetRecord != nil {
			change(&op.DatasetRecord.Profile)
		}
		if op.Snapshot != nil {
			change(&op.Snapshot.Profile)
		}
		if name == "resize for no profile's" {
			op.DatasetRecord.Profile.Name = "gone"
		}
		before := m.Dump()
		controltest.Refused(t, a.Record(a.Ctx, a.ID, a.ReportOf(op)), dataset.ErrForbidden, op.ID.String(), what)
		controltest.Refused(t, a.TryCommit(op), dataset.ErrForbidden, op.ID.String(), what)
		if diff := cmp.Diff(before, m.Dump()); diff != "" {
			t.Error(name, diff)
		}
	}
	// A command that was control's when the volume was planned, recorded or made is recorded.
	clone, again := a.MustPlan(controltest.Create("copy", "from=db")), a.MustPlan(controltest.Create("late@auto"))
	if err := a.Record(a.Ctx, a.ID, a.ReportOf(again)); err != nil {
		t.Error(err)
	}
	cutsOff(m.Profiles, "/sbin/other")
	mounts(m.Profiles, "noatime")
	a.MustCommit(clone)
	a.MustCommit(again)
	for _, name := range []string{"copy", "late"} {
		p := m.MustVolume(name).Profile
		if got := p.Failover.Fence.Exec; len(got) != 2 || got[0] != "/sbin/off" || !slices.Equal(p.Filesystem.Mount, []string{"nosuid"}) {
			t.Errorf("%s: %q, %q", name, got, p.Filesystem.Mount)
		}
	}
	// A snapshot may have the command that its volume once had.
	if _, err := m.Ledger.Update(a.Ctx, func(x *record.Tx) error {
		d, err := x.Dataset(snap.Dataset)
		d.Profile = m.Profiles.ByName["auto"]
		return errors.Join(err, x.Put(record.DatasetKey(d.ID), d))
	}); err != nil {
		t.Fatal(err)
	}
	a.MustCommit(a.MustPlan(api.Request{Kind: dataset.OpSnapshotDelete, Volume: "db", Snapshot: snap.ID.String()}))
}

// What is stored next to the data may come from the node as well. A rebuild and a recovery record the command from
// profiles.yaml; without one there, none is recorded and nothing takes over automatically. Of the mount options they
// record those in profiles.yaml, and those that only forbid something.
func TestForeignProfilesOfWhatIsFound(t *testing.T) {
	m := controltest.NewRestoredStore(t, "alpha", "beta")
	controltest.AddAutoFailover(m.Profiles, 1)
	cutsOff(m.Profiles, "/sbin/off")
	mounts(m.Profiles, "noatime", "nosuid")
	a := m.Agents["alpha"]
	a.ReportGuard()
	m.Agents["beta"].ReportGuard()
	m.Saved = m.Save()
	a.MustCreate("db@auto")
	a.MustSnapshot("db", "")
	m.NoteHoldings()
	h := m.Holdings["alpha"]
	is := func(how, volume, mount string, want ...string) {
		t.Helper()
		v := m.MustVolume(volume)
		list, err := m.Snapshots(a.Ctx, volume, api.Page{})
		if err != nil || len(list.Items) != 1 {
			t.Fatal(how, list, err)
		}
		for _, p := range []dataset.Profile{v.Profile, list.Items[0].Profile} {
			if f := p.Failover.Fence; !p.Failover.Auto || f.Kind != dataset.FenceExec || !slices.Equal(f.Exec, want) {
				t.Errorf("%s: %s has the fence %+v, want %q", how, volume, f, want)
			}
			if got := strings.Join(p.Filesystem.Mount, " "); got != mount {
				t.Errorf("%s: %s is mounted with %q, want %q", how, volume, got, mount)
			}
		}
	}
	found := func(name, profile string) api.FoundDataset {
		f := h.Datasets[0]
		f.Dataset.ID, f.Dataset.Volume = uuid.New(), name
		f.Dataset.Profile = hostile(f.Dataset.Profile)
		f.Dataset.Profile.Name, f.Dataset.Profile.Filesystem.Mount = profile, []string{"noatime", "dev", "noexec"}
		s := f.Snapshots[0]
		s.ID, s.Dataset, s.Name, s.Profile = uuid.New(), f.Dataset.ID, "", f.Dataset.Profile
		f.Snapshots = []dataset.Snapshot{s}
		return f
	}
	a.MustRebuild(found("known", "auto"), found("unknown", "gone"))
	is("rebuild", "known", "noatime noexec", "/sbin/off")
	is("rebuild", "unknown", "noexec")

	h.Datasets = []api.FoundDataset{found("known", "auto"), found("unknown", "gone")}
	m.RestoreStore(m.Saved)
	if err := m.Services[0].Ledger.HaltRestored(a.Ctx, controltest.SeenIndex); err != nil {
		t.Fatal(err)
	}
	m.Holdings["alpha"] = h
	m.MustRecover("alpha", "beta")
	is("recovery", "known", "noatime noexec", "/sbin/off")
	is("recovery", "unknown", "noexec")
}

// A volume whose fence command is unknown does not fail over automatically until the command is known.
func TestFailoverWithoutItsCommand(t *testing.T) {
	l := controltest.NewLostHome(t, 1)
	if _, err := l.Ledger.Update(l.Ctx, func(x *record.Tx) error {
		d, err := x.Dataset(l.Dataset.ID)
		d.Profile.Failover.Fence = dataset.Fence{Kind: dataset.FenceExec}
		return errors.Join(err, x.Put(record.DatasetKey(d.ID), d))
	}); err != nil {
		t.Fatal(err)
	}
	l.Replicas.EndSession(l.Alpha)
	_, err := l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrPending)
	l.Wait(l.Timing.Session, l.Beta, l.Gamma)
	_, err = l.AskFailover(l.Service, "beta")
	controltest.Refused(t, err, dataset.ErrOffline, "profiles.yaml has no fence command for profile auto", "--force --fenced alpha")
	cutsOff(l.Replicas.Profiles, "/sbin/off")
	op, err := l.AskFailover(l.Service, "beta")
	if err != nil || op == nil || !slices.Equal(op.DatasetRecord.Profile.Failover.Fence.Exec, []string{"/sbin/off"}) {
		t.Fatalf("%+v, %v", op, err)
	}
	l.Beta.MustCommit(*op)
}
