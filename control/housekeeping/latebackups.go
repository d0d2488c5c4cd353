package housekeeping

import (
	"cmp"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// backupGrace is how late a scheduled backup may be before it is reported. Backups wait for each other.
const backupGrace = 2 * time.Hour

// BackupSchedule is the state of the scheduled backups of a volume.
type BackupSchedule struct {
	Volume string
	// Age is the time since the newest good scheduled backup, or since the schedule applies to the volume if it has
	// none.
	Age time.Duration
	// Overdue is the time since the next scheduled backup became due. It is 0 if the backup is not due yet.
	Overdue  time.Duration
	Failures int // since the last good backup
}

// backupStates remembers the scheduled backups of each volume as they were when Housekeeper.Run last looked at them. It
// is safe for concurrent use.
type backupStates struct {
	mu sync.Mutex
	of map[uuid.UUID]seenBackups
}

// seenBackups is the state of the scheduled backups of a volume.
type seenBackups struct {
	volume, repository string
	last, due          time.Time
	none               bool // there is no good backup yet, and last is when the schedule began
	failures           int
	problem            string // why the last backup failed, or could not be requested
	missing            bool   // the repository is not recorded
}

// see remembers the state of the scheduled backups of a dataset.
func (s *backupStates) see(d dataset.Dataset, b record.Backups, now time.Time, missing bool) {
	is := seenBackups{
		volume: d.Volume, repository: d.Profile.Backup.To, last: b.Last, failures: b.Failures, problem: b.Problem,
		missing: missing,
	}
	if b.Last.IsZero() {
		is.last, is.none = ScheduleStart(d), true
	}
	b.Failures = 0                   // a backup that is tried again later is late nevertheless
	is.due, _ = backupDue(d, b, now) // zero for a schedule that is not valid
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		s.of = map[uuid.UUID]seenBackups{}
	}
	s.of[d.ID] = is
}

func (s *backupStates) remove(id uuid.UUID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.of, id)
}

// clear forgets all volumes: another control replica does the background work now.
func (s *backupStates) clear() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.of = nil
}

// list returns the states by the name of the volume.
func (s *backupStates) list() []seenBackups {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]seenBackups, 0, len(s.of))
	for _, is := range s.of {
		out = append(out, is)
	}
	slices.SortFunc(out, func(a, b seenBackups) int { return cmp.Compare(a.volume, b.volume) })
	return out
}

func (is seenBackups) overdue(now time.Time) time.Duration {
	if is.due.IsZero() {
		return 0
	}
	return max(0, now.Sub(is.due))
}

// BackupSchedules returns the state of the volumes whose profile has scheduled backups, by name. It is empty while
// another control replica does the background work.
func (k *Housekeeper) BackupSchedules() []BackupSchedule {
	now := k.Ledger.Clock.Now()
	list := k.backupStates.list()
	out := make([]BackupSchedule, len(list))
	for i, is := range list {
		out[i] = BackupSchedule{
			Volume: is.volume, Age: max(0, now.Sub(is.last)), Overdue: is.overdue(now), Failures: is.failures,
		}
	}
	return out
}

// LateBackups returns a warning for each volume whose scheduled backup is late, and for each whose repository is not
// recorded. It returns none while another control replica does the background work.
func (k *Housekeeper) LateBackups() (out []api.Finding) {
	now := k.Ledger.Clock.Now()
	for _, is := range k.backupStates.list() {
		finding := api.Finding{Level: "warning", Subject: "volume " + is.volume}
		overdue := is.overdue(now)
		switch {
		case is.missing:
			finding.Text = fmt.Sprintf("its profile has it backed up to repository %s, which is not recorded",
				is.repository)
			finding.Fix = "drover repository add " + is.repository + " URL"
		case overdue > backupGrace:
			finding.Text = fmt.Sprintf("its scheduled backup is %s late, ", overdue.Round(time.Minute))
			if is.none {
				finding.Text += "and it has no good one"
			} else {
				finding.Text += "and the last good one is from " + is.last.UTC().Format(time.DateTime) + " UTC"
			}
			if is.problem != "" {
				finding.Text += fmt.Sprintf("; failed attempts: %d, the last one because %s", is.failures, is.problem)
			}
			finding.Fix = "drover volume inspect " + is.volume
		default:
			continue
		}
		out = append(out, finding)
	}
	return out
}
