package profiles

import (
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// maxKeptBackups is how many backups of a volume the rules of keep may retain in total. Control records the ID of each
// of them in one record.
const maxKeptBackups = 500

// backup reads {to: offsite, schedule: "15 2 * * *", keep: {daily: 7}}. Whether the repository is recorded is not
// checked: it may be added later.
func backup(n strictyaml.Node, b *dataset.Backups) error {
	keys, err := n.Keys([]string{"to", "schedule", "keep", "verify"}, map[string]string{
		"mode": "a backup always has the files of the volume: omit mode",
	})
	if err != nil {
		return err
	}
	for _, need := range []string{"to", "schedule"} {
		if _, ok := keys[need]; !ok {
			return n.Errorf("expected a repository and a schedule, such as {to: offsite, schedule: \"15 2 * * *\"}")
		}
	}
	var bad strictyaml.Mistakes
	b.To, err = keys["to"].String()
	if bad.Add(err) {
		bad.Add(keys["to"].Wrap(dataset.CheckRepositoryName(b.To)))
	}
	bad.Add(schedule(keys["schedule"], &b.Schedule))
	if v, ok := keys["keep"]; ok {
		if bad.Add(keep(v, &b.Keep)) {
			k := b.Keep
			if most := k.Last + k.Hourly + k.Daily + k.Weekly + k.Monthly; most > maxKeptBackups {
				bad.Add(v.Errorf("its numbers add up to %d backups of a volume (%d at most)", most, maxKeptBackups))
			}
		}
	}
	if v, ok := keys["verify"]; ok {
		bad.Add(verify(v, &b.Verify))
	}
	return bad.Err()
}

// minVerifyEvery and maxVerifyEvery are the shortest and the longest time between two verifications.
const (
	minVerifyEvery = dataset.Duration(time.Hour)
	maxVerifyEvery = dataset.Duration(366 * 24 * time.Hour)
)

// verify reads {every: 7d, restore: true, check: /etc/drover/checks/mariadb}. Whether a node has the program is not
// checked: only the node that verifies needs it.
func verify(n strictyaml.Node, v *dataset.Verification) error {
	keys, err := n.Keys([]string{"every", "restore", "check"}, nil)
	if err != nil {
		return err
	}
	for _, need := range []string{"every", "restore"} {
		if _, ok := keys[need]; !ok {
			return n.Errorf("expected how often the newest backup is restored for a test: {every: 7d, restore: true}")
		}
	}
	var bad strictyaml.Mistakes
	if bad.Add(duration(keys["every"], &v.Every)) && (v.Every < minVerifyEvery || v.Every > maxVerifyEvery) {
		bad.Add(keys["every"].Errorf("expected 1h or more, and 366d at most"))
	}
	restore, err := keys["restore"].Bool()
	if bad.Add(err) && !restore {
		bad.Add(keys["restore"].Errorf("expected true: omit verify if backups are not verified"))
	}
	v.Restore = restore
	if at, ok := keys["check"]; ok {
		v.Check, err = at.String()
		if bad.Add(err) {
			bad.Add(at.Wrap(dataset.CheckCheckProgram(v.Check)))
		}
	}
	return bad.Err()
}
