package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// encryptGold gives the profile gold encryption.
func encryptGold(c *console) {
	for i, p := range c.fake.profiles {
		if p.Name == "gold" {
			c.fake.profiles[i].Encryption.KeyFile = "/etc/drover/keys/gold"
		}
	}
}

// wiped makes the world of a new machine. Its repository has backups of the volumes db and web, whose profile exists, of
// lost, whose profile does not, and of an earlier volume that was named db.
func wiped(c *console) { wipedThen(c) }

// wipedThen is wiped, with the answers to requests about operations.
func wipedThen(c *console, answers ...answer) {
	encryptGold(c)
	c.fake.volumes, c.fake.operations = nil, nil
	web, earlier := c.fake.backups[0], c.fake.backups[0]
	web.ID, web.Volume, web.Dataset, web.Operation = strings.Repeat("3a0b77c2", 8), "web", idBare, uuid.Nil
	earlier.ID, earlier.Dataset, earlier.Operation = strings.Repeat("9d3e4c1b", 8), idOther, uuid.Nil
	earlier.Taken = now.Add(-100 * time.Hour)
	c.fake.backups = append(slices.Insert(c.fake.backups, 0, earlier), web)
	if len(answers) > 0 {
		works(c.fake, answers[len(answers)-1], answers[:len(answers)-1]...)
	}
}

func wipedRestores(c *console) { wipedThen(c, ended(dataset.OpDone, nil), ended(dataset.OpDone, nil)) }

// wipedUnencrypted: db was encrypted, and the profiles of the new machine do not encrypt.
func wipedUnencrypted(c *console) {
	wipedRestores(c)
	for i := range c.fake.profiles {
		c.fake.profiles[i].Encryption = dataset.KeySource{}
	}
}

// wipedFails: the restore of db fails, and that of web succeeds.
func wipedFails(c *console) {
	full := &dataset.Problem{Code: dataset.ErrNoSpace.Code, Message: "import of volume db: pool default is full"}
	wipedThen(c, ended(dataset.OpFailed, full), ended(dataset.OpDone, nil))
}

// rehearses: the verification of the first backup succeeds after 90 seconds, and that of the second one fails.
func rehearses(c *console) {
	damaged := &dataset.Problem{Code: dataset.ErrCorrupt.Code, Message: "verification of a backup of volume web: pack 5a1f is damaged"}
	done, failed := ended(dataset.OpDone, nil), ended(dataset.OpFailed, damaged)
	done.op.Created, failed.op.Created = now.Add(-90*time.Second), now.Add(-3*time.Second)
	done.op.Progress = dataset.Progress{Done: 3 << 30, Total: 3 << 30}
	wipedThen(c, done, failed)
	db := dbVolume()
	c.fake.volumes = []api.Volume{db}
}

// wipedRestoring: the command was killed while it restored db.
func wipedRestoring(c *console) {
	wipedRestores(c)
	op := running("restoring", 0, 0).op
	op.Kind, op.Volume, op.Backup, op.Repository = dataset.OpImport, "db", strings.Repeat("1c09bb5f", 8), "offsite"
	c.fake.operations = []dataset.Operation{op}
}

// wipedRestored: db was recovered, and another volume web was made meanwhile.
func wipedRestored(c *console) {
	wiped(c)
	done := ended(dataset.OpDone, nil).op
	done.Kind, done.Volume, done.Backup, done.DatasetID = dataset.OpImport, "db", strings.Repeat("1c09bb5f", 8), idReq
	c.fake.operations = []dataset.Operation{done}
	db, web := dbVolume(), dbVolume()
	db.ID, web.ID, web.Volume = idReq, idOther, "web"
	c.fake.volumes = []api.Volume{db, web}
}

// wipedElsewhere: another cluster made the backups.
func wipedElsewhere(c *console) {
	wipedThen(c, ended(dataset.OpDone, nil), ended(dataset.OpDone, nil))
	madeElsewhere(c)
}

// rehearsesElsewhere is rehearses with backups of another cluster.
func rehearsesElsewhere(c *console) {
	rehearses(c)
	madeElsewhere(c)
}

func madeElsewhere(c *console) {
	for i := range c.fake.backups {
		b := &c.fake.backups[i]
		b.Elsewhere, b.Cluster, b.Node = true, idOther, "old-host"
	}
}

// wipedApart: another cluster made the backups, db was recovered from them and is kept apart, and has a backup since.
func wipedApart(c *console) {
	wipedElsewhere(c)
	db := dbVolume()
	db.ID, db.KeptApart = idReq, &dataset.KeptApart{Cluster: idOther, URL: "/mnt/nas/backups"}
	c.fake.volumes = []api.Volume{db}
	mine := c.fake.backups[1]
	mine.ID, mine.Dataset, mine.Elsewhere, mine.Cluster = strings.Repeat("5e5e5e5e", 8), idReq, false, uuid.Nil
	mine.Taken = now.Add(-time.Hour)
	c.fake.backups = append(c.fake.backups, mine)
}

// wipedApartRenamed: db was restored from a backup of another cluster as db4, and is kept apart.
func wipedApartRenamed(c *console) {
	wipedElsewhere(c)
	db := dbVolume()
	db.ID, db.Volume, db.KeptApart = idReq, "db4", &dataset.KeptApart{Cluster: idOther, URL: "/mnt/nas/backups"}
	c.fake.volumes = []api.Volume{db}
}

// wipedRestoredOlder: another cluster made the backups, and one of them after db was recovered.
func wipedRestoredOlder(c *console) {
	wipedElsewhere(c)
	done := ended(dataset.OpDone, nil).op
	done.Kind, done.Volume, done.Backup, done.DatasetID = dataset.OpImport, "db", strings.Repeat("1c09aa5f", 8), idReq
	c.fake.operations = []dataset.Operation{done}
	db := dbVolume()
	db.ID, db.KeptApart = idReq, &dataset.KeptApart{Cluster: idOther, URL: "/mnt/nas/backups"}
	c.fake.volumes = []api.Volume{db}
}

// wipedPushing: a push made the newest backup of db, and has not ended.
func wipedPushing(c *console) {
	wipedThen(c, ended(dataset.OpDone, nil))
	for i := range c.fake.backups {
		c.fake.backups[i].Incomplete = strings.HasPrefix(c.fake.backups[i].ID, "1c09bb5f")
	}
}

// clockWasAhead dates the first backup of db to a time in the future.
func clockWasAhead(c *console) {
	i := slices.IndexFunc(c.fake.backups, func(b api.VolumeBackup) bool { return strings.HasPrefix(b.ID, "1c09aa5f") })
	c.fake.backups[i].Taken = now.Add(300 * 24 * time.Hour)
}

func wipedUnreadable(c *console) {
	wiped(c)
	c.fake.fail = map[string]error{"VolumeBackup": dataset.Errorf(dataset.ErrCorrupt, "backups in offsite: backup 1c09bb5f is damaged")}
}

// TestInterruptOfARecovery: no other restore begins, and the error says that those in progress continue.
func TestInterruptOfARecovery(t *testing.T) {
	c := newConsole(theWorld())
	wipedThen(c, ended(dataset.OpDone, nil))
	c.fake.progress = nil
	c.fake.fail = map[string]error{"Operation": dataset.Errorf(dataset.ErrUnavailable, "cannot reach drover")}
	var stops []context.CancelFunc
	c.Signals = func(ctx context.Context) (context.Context, context.CancelFunc) {
		ctx, stop := context.WithCancel(ctx)
		stops = append(stops, stop)
		return ctx, stop
	}
	c.fake.hook = func(method string) {
		if method == "Operation" {
			for _, stop := range stops {
				stop()
			}
		}
	}
	code := c.run(t, "recover", "--from", "offsite", "db", "web", "--parallel", "1")
	if code != 1 || len(c.fake.asked) != 1 || !strings.Contains(c.err.String(),
		"drover: interrupted: 2 of 2 volumes are not recovered yet, and restores in progress continue (drover operation ls") {
		t.Errorf("exit %d, asked %q, said %q", code, c.fake.asked, c.err.String())
	}
}

// TestFilesystemOfRestoredVolume: a restore asks for the filesystem that a user or the profile had named, unless the
// user names another one, or a profile.
func TestFilesystemOfRestoredVolume(t *testing.T) {
	for words, want := range map[string]string{
		"backup restore 1c09bb5f new":            `"fs":"xfs"`,
		"backup restore 1c09bb5f new -o fs=ext4": `"fs":"ext4"`,
		"backup restore 1c09bb5f new@gold":       "",
		"recover --from offsite db":              `"fs":"xfs"`,
		"recover --from offsite db --profile db": "",
	} {
		c := newConsole(theWorld())
		wipedThen(c, ended(dataset.OpDone, nil))
		_ = c.run(t, strings.Fields(words)...) // the fake restores nothing
		asked := strings.Join(c.fake.asked, "\n")
		if !strings.Contains(asked, `"kind":"import"`) || !strings.Contains(asked, want) || want == "" && strings.Contains(asked, `"fs"`) {
			t.Errorf("drover %s: %s, want %s\n%s", words, asked, want, c.err.String())
		}
	}
}

// A renamed volume comes back once, under the name of its newest backup: a container that uses the former name, which
// was an alias, must not find old content.
func TestRecoverAllOfRenamedVolume(t *testing.T) {
	for words, want := range map[string][]string{
		"recover --from offsite --all": {"shop"},
		"recover --from offsite db":    {"db"},
	} {
		c := newConsole(theWorld())
		wipedThen(c, ended(dataset.OpDone, nil))
		newest := c.fake.backups[2]
		newest.ID, newest.Volume, newest.Taken = strings.Repeat("5eb1c3d7", 8), "shop", now.Add(-time.Hour)
		c.fake.backups = []api.VolumeBackup{c.fake.backups[2], newest}
		_ = c.run(t, strings.Fields(words)...) // the fake restores nothing
		asked := strings.Join(c.fake.asked, "\n")
		for _, name := range []string{"db", "shop"} {
			if got := strings.Contains(asked, `"volume":"`+name+`"`); got != slices.Contains(want, name) {
				t.Errorf("drover %s: %s was recovered: %t\n%s\n%s", words, name, got, asked, c.err.String())
			}
		}
		if renamed := "volume db was renamed: shop has its newer backups"; strings.Contains(c.err.String(), renamed) != (want[0] == "shop") {
			t.Errorf("drover %s said %s", words, c.err.String())
		}
	}
}
