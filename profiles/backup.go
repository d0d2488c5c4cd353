package profiles

import (
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// maxKeptBackups is how many backups of a volume the rules of keep may retain in total. Control records the ID of each
// of them in one record.
const maxKeptBackups = 500

// backup reads {to: offsite, schedule: "15 2 * * *", keep: {daily: 7}}. Whether the repository is recorded is not
// checked: it may be added later.
func backup(n strictyaml.Node, b *dataset.Backups) error {
	keys, err := n.Keys([]string{"to", "schedule", "keep"}, nil)
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
	return bad.Err()
}
