package faults

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/long"
	"github.com/droverhq/drover/test/host"
)

// nights are the scheduled backups of many volumes of one host, whose clock the test sets.
type nights struct {
	*world
	seen    map[uuid.UUID]dataset.Operation // all backups, as they were at the last look
	maxRSS  int64
	started time.Time
}

// TestNightlyBackups: all volumes of a host are backed up in each of two simulated nights, by restic to a repository.
// No two backups of a volume run at once, the backups are spread over an hour, and the daemon needs little memory.
// Retention removes the backups of the first night in the second one. DROVER_TEST_VOLUMES chooses the number of
// volumes. With 1,000, the test takes half an hour on a busy machine with two cores.
func TestNightlyBackups(t *testing.T) {
	long.Only(t) // control/housekeeping has a short form, without restic: TestThousandVolumesAreSpread
	volumes := envNumber(t, "DROVER_TEST_VOLUMES", 200)
	w := &nights{seen: map[uuid.UUID]dataset.Operation{}, world: newWorld(t, host.Options{
		Pool: "subvolumes", Size: 16 << 30, Env: []string{"TZ=UTC", "DROVER_SESSION=1s"}, Down: true,
		Profiles: `default: nightly
profiles:
  nightly: {backup: {to: offsite, schedule: "15 2 * * *", keep: {last: 1}}}
`})}
	w.started = time.Now()
	midnight := w.started.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
	w.setTime(t, midnight)
	w.h.Up(t)
	r := w.newNamedRepository(t, "offsite")
	w.makeMany(t, volumes)
	t.Logf("made %d volumes after %s", volumes, w.passed())
	for night := range 2 {
		first := midnight.Add(time.Duration(24*night) * time.Hour)
		w.pass(t, first)
		w.check(t, first, volumes)
		left := w.awaitRetention(t, r, volumes)
		t.Logf("night %d: %d backups are in the repository after %s; at most %d MiB of memory", night+1, left,
			w.passed(), w.maxRSS>>20)
	}
	if w.maxRSS > 100<<20 {
		t.Errorf("the daemon had %d MiB of memory, want at most 100", w.maxRSS>>20)
	}
	r.restic(t, "check", "--read-data", "--no-lock")
	w.h.Clean(t)
}

func (w *nights) passed() time.Duration { return time.Since(w.started).Round(time.Second) }

// setTime sets the clock of the host.
func (w *nights) setTime(t *testing.T, at time.Time) { w.h.SetClock(t, time.Until(at)) }

// makeMany makes volumes with one file each.
func (w *nights) makeMany(t *testing.T, volumes int) {
	todo := make(chan string)
	var all sync.WaitGroup
	for range 16 {
		all.Go(func() {
			for name := range todo {
				id := host.NewID()
				err := w.plug.Create(name, nil)
				if err == nil {
					var root string
					if root, err = w.plug.Mount(name, id); err == nil {
						err = os.WriteFile(filepath.Join(root, "file"), block(name), 0o600)
						err = errors.Join(err, w.plug.Unmount(name, id))
					}
				}
				if err != nil {
					t.Errorf("volume %s: %v", name, err)
				}
			}
		})
	}
	for i := range volumes {
		todo <- fmt.Sprintf("volume-%04d", i)
	}
	close(todo)
	all.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

// pass lets a night pass: from two o'clock on, the clock is set five minutes ahead whenever no backup runs.
func (w *nights) pass(t *testing.T, midnight time.Time) {
	const step = 5 * time.Minute
	begin, end := midnight.Add(2*time.Hour), midnight.Add(3*time.Hour+30*time.Minute)
	for at := begin; at.Before(end); at = at.Add(step) {
		w.setTime(t, at.Add(-10*time.Second)) // the backups of this step begin before the next quarter of an hour
		time.Sleep(5 * time.Second)           // two rounds of housekeeping
		for open := -1; open != 0; {
			if open = w.look(t); open > 0 {
				time.Sleep(500 * time.Millisecond)
			}
		}
	}
}

// look reads the operations of backups and the memory of the daemon. It returns how many backups have not ended, and
// fails the test if two of them are of one volume.
func (w *nights) look(t *testing.T) (open int) {
	t.Helper()
	c := w.h.Client(t)
	defer c.Close()
	running := map[string]uuid.UUID{}
	for page := (api.Page{}); ; {
		ops, err := c.Operations(t.Context(), page)
		w.ok(t, err)
		for _, op := range ops.Items {
			if op.Kind != dataset.OpBackup {
				continue
			}
			w.seen[op.ID] = op
			if op.State.Final() {
				continue
			}
			open++
			if other, two := running[op.Volume]; two {
				t.Errorf("backups %s and %s of volume %s run at once", other, op.ID, op.Volume)
			}
			running[op.Volume] = op.ID
		}
		if ops.Next == "" {
			break
		}
		page.After = ops.Next
	}
	w.maxRSS = max(w.maxRSS, w.residentMemory(t))
	return open
}

// awaitRetention waits until the repository has one backup of each volume, and returns the number of backups. Expired
// backups are removed while no backup runs.
func (w *nights) awaitRetention(t *testing.T, r backupRepository, volumes int) (n int) {
	t.Helper()
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(time.Second) {
		n = len(strings.Fields(w.h.Must(t, "backup", "ls", "--repository", r.name, "-q")))
		switch {
		case n == volumes:
			return n
		case n < volumes || time.Now().After(end):
			t.Errorf("%d backups are in the repository, want %d", n, volumes)
			return n
		}
	}
}

// check checks the backups of one night, and prints how many began in each quarter of an hour.
func (w *nights) check(t *testing.T, midnight time.Time, volumes int) {
	t.Helper()
	of := map[string][]dataset.Operation{}
	quarters := map[string]int{}
	for _, op := range w.seen {
		if op.Created.Before(midnight) {
			continue
		}
		of[op.Volume] = append(of[op.Volume], op)
		quarters[op.Created.UTC().Truncate(15*time.Minute).Format("15:04")]++
		if op.State != dataset.OpDone || !op.Scheduled {
			t.Errorf("backup of volume %s: %s, %v", op.Volume, op.State, op.Problem.Err())
		}
	}
	t.Logf("backups by the quarter of an hour in which they began: %v", quarters)
	if len(of) != volumes {
		t.Errorf("%d volumes were backed up, want %d", len(of), volumes)
	}
	for volume, ops := range of {
		slices.SortFunc(ops, func(a, b dataset.Operation) int { return a.Created.Compare(b.Created) })
		if len(ops) != 1 {
			t.Errorf("volume %s was backed up %d times", volume, len(ops))
		}
		for i := 1; i < len(ops); i++ {
			if ops[i].Created.Before(ops[i-1].Ended) {
				t.Errorf("two backups of volume %s at once: %s and %s", volume, ops[i-1].ID, ops[i].ID)
			}
		}
	}
	for quarter, n := range quarters {
		if volumes >= 100 && n > volumes*2/5 {
			t.Errorf("%d of %d backups began in the quarter of an hour from %s on", n, volumes, quarter)
		}
	}
}
