package profiles

import (
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/strictyaml"
)

// maxKeptBackups is how many backups of a volume the rules of keep may retain in total. Control records the ID of each
// of them in one record.
const maxKeptBackups = 500

// backupKeys returns the keys of backup.
func backupKeys(n strictyaml.Node) (map[string]strictyaml.Node, error) {
	return n.Keys([]string{"to", "schedule", "keep", "verify", "mode"}, nil)
}

// backup reads {to: offsite, schedule: "15 2 * * *", keep: {daily: 7}, mode: image}, or only {mode: image} for volumes
// that are backed up by hand. Whether the repository is recorded is not checked: it may be added later.
func backup(n strictyaml.Node, b *dataset.Backups) error {
	keys, err := backupKeys(n)
	if err != nil {
		return err
	}
	mode, hasMode := keys["mode"]
	if hasMode && len(keys) == 1 {
		return backupMode(mode, &b.Mode)
	}
	for _, need := range []string{"to", "schedule"} {
		if _, ok := keys[need]; !ok {
			return n.Errorf("expected a repository and a schedule, such as {to: offsite, schedule: \"15 2 * * *\"}")
		}
	}
	var bad strictyaml.Mistakes
	if hasMode {
		bad.Add(backupMode(mode, &b.Mode))
	}
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

// backupMode reads "files" or "image". It stores files as the zero value.
func backupMode(n strictyaml.Node, m *dataset.BackupMode) error {
	s, err := n.String()
	if err != nil {
		return err
	}
	switch mode := dataset.BackupMode(s); mode {
	case dataset.BackupFiles:
		*m = ""
	case dataset.BackupImage:
		*m = mode
	default:
		return n.Errorf("unknown choice %q (available: files, image)", dataset.Clip(s))
	}
	return nil
}

// checkBackupMode refuses backups of images in a profile whose volumes have none that can be backed up.
func checkBackupMode(keys map[string]strictyaml.Node, p *dataset.Profile) error {
	if p.Backup.Mode != dataset.BackupImage {
		return nil
	}
	at := keys["backup"]
	if in, err := backupKeys(at); err == nil {
		at = in["mode"]
	}
	var bad strictyaml.Mistakes
	if p.Encryption.Wanted() {
		bad.Add(at.Errorf("the image of an encrypted volume cannot be backed up: omit mode, to have the files " +
			"backed up"))
	}
	if p.Backend != "" && p.Backend != dataset.ImageBackend {
		bad.Add(at.Errorf("a pool of backend %s has no images: omit mode, to have the files backed up, or use "+
			"backend: %s", p.Backend, dataset.ImageBackend))
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
