package backup_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/backup"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	controlstore "github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/restic"
)

// backUpOnSchedule makes a backup as control requests it for a volume of profile backed, which keeps two of them.
func backUpOnSchedule(f *agenttest.Cluster, volume string) string {
	f.Helper()
	op := awaitEnd(f, *f.Submit(api.Request{Kind: dataset.OpBackup, Volume: volume, Repository: "offsite", Scheduled: true}).Operation)
	if op.State != dataset.OpDone {
		f.Fatalf("the backup is %s: %+v", op.State, op.Problem)
	}
	// While the test lists the backups, none can be removed.
	agenttest.Await(f.T, func() bool { return !f.A.Runner.IsRunning(op.ID) })
	return op.Backup
}

// wantBackups waits until a repository has exactly the given backups.
func wantBackups(t *testing.T, r *restic.Repository, want ...string) {
	t.Helper()
	want = slices.Sorted(slices.Values(want)) // the caller's slice keeps its order
	var got []string
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		list, err := r.Backups(t.Context(), backup.TagDrover)
		if dataset.KindOf(err) == dataset.ErrInUse {
			continue // a removal runs
		}
		must(t, err)
		got = nil
		for _, b := range list {
			got = append(got, b.ID)
		}
		if slices.Sort(got); slices.Equal(got, want) {
			return
		}
	}
	t.Fatalf("the repository has %d backups %v, want %v", len(got), got, want)
}

// Scheduled backups that expired are removed, and nothing else: no manual backup, none of another dataset, and none that
// another cluster made, also if its tags name the same volume and dataset.
func TestExpiredBackupsAreRemoved(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	d := f.A.NewVolume("db@backed")
	f.A.NewVolume("other@backed")
	manual := backUp(f, "db", "").Backup
	other := backUpOnSchedule(f, "other")
	tags := backup.Tags{Volume: "db", Dataset: d.ID, Operation: uuid.New()}
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), []byte("x"), 0o600))
	foreign, _, err := r.Backup(t.Context(), restic.Request{Dir: dir, Names: []string{"file"}, Tags: tags.List()})
	must(t, err)
	stay := []string{manual, other, foreign.ID}
	first := backUpOnSchedule(f, "db")
	second := backUpOnSchedule(f, "db")
	wantBackups(t, r, append(slices.Clone(stay), first, second)...)
	third := backUpOnSchedule(f, "db")
	wantBackups(t, r, append(slices.Clone(stay), second, third)...)
	fourth := backUpOnSchedule(f, "db")
	wantBackups(t, r, append(slices.Clone(stay), third, fourth)...)
	agenttest.Await(t, func() bool { return len(marks(f.A)) == 0 })
}

// While something else uses the repository, such as a restore, nothing is removed. It is removed after a later backup of
// the volume, when control names it again.
func TestExpiredBackupIsRemovedLater(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@backed")
	f.A.NewVolume("other@free")
	first, second := backUpOnSchedule(f, "db"), backUpOnSchedule(f, "db")
	release := use(t, folderOf(t, f))
	third := backUpOnSchedule(f, "db")
	release()
	other := backUpOther(f)
	wantBackups(t, r, first, second, third, other)
	fourth := backUpOnSchedule(f, "db")
	wantBackups(t, r, third, fourth, other)
}

// A backup that could not be removed stays if its profile does not make it expire any more, also after a restart of the
// agent.
func TestRemovalEndsWithRetention(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@backed")
	f.A.NewVolume("other@free")
	want := []string{backUpOnSchedule(f, "db"), backUpOnSchedule(f, "db")}
	release := use(t, folderOf(t, f))
	want = append(want, backUpOnSchedule(f, "db"))
	release()
	keepAll(f, "db")
	want = append(want, backUpOther(f))
	wantBackups(t, r, want...)
	f.A.Restart()
	want = append(want, backUpOther(f))
	wantBackups(t, r, want...)
}

// backUpOther makes a backup of the volume other, and waits until what could be removed after it is removed.
func backUpOther(f *agenttest.Cluster) string {
	f.Helper()
	op := backUp(f, "other", "")
	agenttest.Await(f.T, func() bool { return !f.A.Runner.IsRunning(op.ID) })
	return op.Backup
}

// keepAll gives a volume a profile without retention.
func keepAll(f *agenttest.Cluster, volume string) {
	f.Helper()
	f.Submit(api.Request{ID: uuid.New(), Kind: dataset.OpUpdate, Volume: volume, Profile: "free"})
}

// While another backup of the host runs, nothing is removed. After that backup, the agent asks control again what
// expires.
func TestRemovalWaitsForOtherBackup(t *testing.T) {
	for name, changed := range map[string]bool{"same": false, "changed": true} {
		t.Run(name, func(t *testing.T) {
			f := agenttest.NewCluster(t, "loop", "loop")
			r := newRepository(t, f)
			f.A.NewVolume("db@backed")
			other := f.A.NewVolume("other@free")
			first, second := backUpOnSchedule(f, "db"), backUpOnSchedule(f, "db")
			at := wrapped(t, `case "$*" in *dataset=`+other.ID.String()+`*) touch $D/begun; read x <$D/gate ;; esac`)
			gate := filepath.Join(at, "gate")
			must(t, unix.Mkfifo(gate, 0o600))
			op := begin(f, "other", "")
			agenttest.Await(t, func() bool {
				_, err := os.Stat(filepath.Join(at, "begun"))
				return err == nil
			})
			third := backUpOnSchedule(f, "db")
			want := []string{second, third}
			if changed {
				keepAll(f, "db")
				want = append(want, first)
			}
			must(t, os.WriteFile(gate, []byte("\n"), 0o600))
			op = awaitEnd(f, op)
			agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(op.ID) })
			wantBackups(t, r, append(want, op.Backup)...)
		})
	}
}

// On a host whose backups always overlap, a removal waits once a day for those that run, and holds the next ones.
func TestRemovalWaitsOnceADay(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	f.A.Stop()
	at := &later{Clock: f.A.Config.Clock}
	f.A.Config.Clock = at
	f.A.Start()
	r := newRepository(t, f)
	f.A.NewVolume("db@backed")
	folder := wrapped(t, `case "$*" in
*volume=other*) read x <$D/gate-other ;;
*volume=next*) read x <$D/gate-next ;;
esac`)
	var ops []dataset.Operation
	open := func(volume string) {
		must(t, os.WriteFile(filepath.Join(folder, "gate-"+volume), []byte("\n"), 0o600))
	}
	start := func(volume string) {
		must(t, unix.Mkfifo(filepath.Join(folder, "gate-"+volume), 0o600))
		f.A.NewVolume(volume + "@free")
		ops = append(ops, begin(f, volume, ""))
	}
	backUpOnSchedule(f, "db")
	second := backUpOnSchedule(f, "db")
	at.by.Add(int64(24 * time.Hour))
	start("other")
	agenttest.Await(t, func() bool { return f.A.Runner.IsRunning(ops[0].ID) })
	third := awaitEnd(f, *f.Submit(api.Request{Kind: dataset.OpBackup, Volume: "db", Repository: "offsite", Scheduled: true}).Operation)
	agenttest.Await(t, func() bool { return f.A.Backups.IsFull("offsite") })
	start("next")
	open("other")
	other := awaitEnd(f, ops[0])
	wantBackups(t, r, second, third.Backup, other.Backup)
	open("next")
	wantBackups(t, r, second, third.Backup, other.Backup, awaitEnd(f, ops[1]).Backup)
}

// The expired backups of all volumes whose removal had to wait are removed by one run of restic. The others stay: those
// that the profile keeps, the newest ones, and one more in place of one that was removed by hand.
func TestWaitingRemovalsShareARun(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	other := f.A.NewVolume("other@free")
	made := map[string][]string{}
	for _, v := range []string{"va", "vb", "vc"} {
		f.A.NewVolume(v + "@backed") // keeps two
		made[v] = []string{backUpOnSchedule(f, v), backUpOnSchedule(f, v)}
	}
	at := wrapped(t, `case "$*" in *dataset=`+other.ID.String()+`*) touch $D/begun; read x <$D/gate ;; esac`)
	real, err := exec.LookPath("restic")
	must(t, err)
	counter := t.TempDir()
	must(t, os.WriteFile(filepath.Join(counter, "restic"), fmt.Appendf(nil, `#!/bin/sh
case " $* " in *" forget "*) echo "$@" >>%s/forgets ;; esac
exec %s "$@"
`, counter, real), 0o700))
	t.Setenv("PATH", counter+":"+os.Getenv("PATH"))
	must(t, unix.Mkfifo(filepath.Join(at, "gate"), 0o600))
	op := begin(f, "other", "")
	agenttest.Await(t, func() bool {
		_, err := os.Stat(filepath.Join(at, "begun"))
		return err == nil
	})
	for v := range made {
		made[v] = append(made[v], backUpOnSchedule(f, v))
	}
	lost := filepath.Join(folderOf(t, f).url, "snapshots", made["vc"][1])
	must(t, os.Remove(lost))
	must(t, os.WriteFile(filepath.Join(at, "gate"), []byte("\n"), 0o600))
	op = awaitEnd(f, op)
	agenttest.Await(t, func() bool { return !f.A.Runner.IsRunning(op.ID) })
	wantBackups(t, r, made["va"][1], made["va"][2], made["vb"][1], made["vb"][2], made["vc"][0], made["vc"][2], op.Backup)
	text, err := os.ReadFile(filepath.Join(counter, "forgets"))
	must(t, err)
	if n := strings.Count(string(text), "\n"); n != 1 {
		t.Errorf("restic removed backups in %d runs: %s", n, text)
	}
}

// If the backups that control retains were removed by hand, the newest expired ones stay in their place.
func TestBackupStaysInPlaceOfRemovedOne(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@backed") // keeps two
	var ids []string
	release := use(t, folderOf(t, f))
	for range 4 {
		ids = append(ids, backUpOnSchedule(f, "db"))
	}
	release()
	must(t, r.Remove(t.Context(), ids[3]))
	wantBackups(t, r, ids[:3]...)
	ids = append(ids, backUpOnSchedule(f, "db"))
	wantBackups(t, r, ids[2], ids[4])
	ids = append(ids, backUpOnSchedule(f, "db"))
	wantBackups(t, r, ids[4], ids[5])
}

// A backup that cannot be removed does not prevent the removal of the others, and one that cannot be read does not.
func TestDamagedBackupDoesNotKeepOthers(t *testing.T) {
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	f.A.NewVolume("db@backed")
	first := backUpOnSchedule(f, "db")
	backUpOnSchedule(f, "db")
	real, err := exec.LookPath("restic")
	must(t, err)
	folder := t.TempDir()
	must(t, os.WriteFile(filepath.Join(folder, "restic"), fmt.Appendf(nil, `#!/bin/sh
case " $* " in
*" forget "*%s*) echo "Fatal: cannot remove it" >&2; exit 1 ;;
*" forget "*) [ -e %s/refused ] || exit 1 ;;
esac
exec %s "$@"
`, first, folder, real), 0o700))
	t.Setenv("PATH", folder+":"+os.Getenv("PATH"))
	found, err := f.Service.Repository(t.Context(), "offsite")
	must(t, err)
	garbage := filepath.Join(found.URL, "snapshots", strings.Repeat("0", 64))
	must(t, os.WriteFile(garbage, []byte("garbage"), 0o600))
	backUpOnSchedule(f, "db")           // first expires
	fourth := backUpOnSchedule(f, "db") // first and second expire
	must(t, os.WriteFile(filepath.Join(folder, "refused"), nil, 0o600))
	fifth := backUpOnSchedule(f, "db")
	must(t, os.Remove(garbage))
	wantBackups(t, r, first, fourth, fifth)
}

// The log says when Drover no longer tries to remove an expired backup.
func TestLastAttemptToRemoveIsLogged(t *testing.T) {
	t.Parallel()
	f := agenttest.NewCluster(t, "loop", "loop")
	r := newRepository(t, f)
	d := f.A.NewVolume("db@backed")
	first := backUpOnSchedule(f, "db")
	backUpOnSchedule(f, "db")
	key := record.BackupsKey(d.ID)
	entry, err := f.ControlStore.Get(t.Context(), key)
	must(t, err)
	var b record.Backups
	must(t, json.Unmarshal(entry.Value, &b))
	b.Made[0].Removals = 29
	value, err := json.Marshal(b)
	must(t, err)
	_, err = f.ControlStore.Txn(t.Context(), nil, []controlstore.Write{{Key: key, Value: value}})
	must(t, err)
	log := logtest.NewLocal(f.A.Config.Log.(*logrus.Logger))
	gaveUp := func() (n int) {
		for _, e := range log.AllEntries() {
			if strings.HasPrefix(e.Message, "an expired backup stays in its repository") && e.Data["backup"] == first {
				n++
			}
		}
		return n
	}
	release := use(t, folderOf(t, f))
	third := backUpOnSchedule(f, "db")
	release()
	if n := gaveUp(); n != 1 {
		t.Errorf("it was logged %d times, want once", n)
	}
	fourth := backUpOnSchedule(f, "db")
	wantBackups(t, r, first, third, fourth)
	if n := gaveUp(); n != 1 {
		t.Errorf("it was logged %d times, want once", n)
	}
	if got := f.A.Finding("repository offsite").Text; !strings.HasPrefix(got, "1 expired backups stay") {
		t.Errorf("doctor says %q", got)
	}
}

// Whatever control answers, the backup that was just made is not expired.
func TestNewBackupIsNotExpired(t *testing.T) {
	op := dataset.Operation{ID: uuid.New(), Backup: strings.Repeat("1", 64)}
	old := api.ExpiredBackup{ID: strings.Repeat("2", 64), Operation: uuid.New()}
	got := backup.StillThere(op, []api.ExpiredBackup{
		{ID: op.Backup, Operation: uuid.New()}, {ID: strings.Repeat("3", 64), Operation: op.ID}, old,
	})
	if len(got) != 1 || got[0] != old {
		t.Errorf("got %+v", got)
	}
}

// Only the backups that the recorded operations made of the dataset are removed, whatever else has the ID.
func TestOnlyBackupsOfTheDatasetExpire(t *testing.T) {
	op := dataset.Operation{ID: uuid.New(), DatasetID: uuid.New()}
	var list []restic.Backup
	var expired []api.ExpiredBackup
	for i, tags := range []backup.Tags{
		{Volume: "db", Dataset: op.DatasetID, Operation: uuid.New()},
		{Volume: "db", Dataset: uuid.New(), Operation: uuid.New()},
		{Volume: "db", Dataset: op.DatasetID, Operation: uuid.New()},
	} {
		e := api.ExpiredBackup{ID: strings.Repeat(string(rune('1'+i)), 64), Operation: tags.Operation}
		list = append(list, restic.Backup{ID: e.ID, Tags: tags.List()})
		if i == 2 {
			e.Operation = uuid.New()
		}
		expired = append(expired, e)
	}
	first := restic.Backup{ID: strings.Repeat("9", 64), Tags: list[0].Tags} // of an interrupted run
	read := restic.Backup{ID: strings.Repeat("8", 64), Tags: list[0].Tags}  // of another one
	got := backup.ChooseDue(append(list, first, read), op, expired, read.ID)
	if want := []string{list[0].ID, first.ID}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}
