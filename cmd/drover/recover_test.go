package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
	"github.com/droverhq/drover/test/require"
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

// TestBackupsOfAllRepositoriesAreListedTogether: a repository that does not answer does not delay the others. Each
// answer waits here until all repositories were asked.
func TestBackupsOfAllRepositoriesAreListedTogether(t *testing.T) {
	w := theWorld()
	w.repositories = append(w.repositories, dataset.Repository{Name: "away"}, dataset.Repository{Name: "nas"})
	c := newConsole(w)
	var asked sync.WaitGroup
	asked.Add(len(w.repositories))
	all := make(chan struct{})
	go func() { asked.Wait(); close(all) }()
	c.fake.hook = func(method string) {
		if method != "VolumeBackups" {
			return
		}
		asked.Done()
		select {
		case <-all:
		case <-time.After(10 * time.Second):
			t.Error("the repositories are asked one after the other")
		}
	}
	if code := c.run(t, "backup", "ls", "-q"); code != 0 {
		t.Errorf("exit %d: %s", code, c.err.String())
	}
}

// TestRestoreListsOnlyIfItMust: a restore asks for one backup if only one repository can have it and enough digits are
// given. If the answer is an error about the backup, the list explains it.
func TestRestoreListsOnlyIfItMust(t *testing.T) {
	id := strings.Repeat("1c09bb5f", 8)
	for words, want := range map[string]string{
		id[:8] + " new":                          "VolumeBackup",
		id[:16] + " new":                         "VolumeBackup",
		id + " new":                              "VolumeBackup",
		id[:8] + " new --repository offsite":     "VolumeBackup",
		id[:7] + " new":                          "VolumeBackups",                            // of a volume with this name
		id[:8] + "000 new":                       "VolumeBackup VolumeBackups VolumeBackups", // the next digits differ
		"00000000 new":                           "VolumeBackup VolumeBackups VolumeBackups",
		"db new":                                 "VolumeBackups VolumeBackup",
		id[:8] + " new --repository offsite two": "VolumeBackup",
		id[:8] + " new two":                      "VolumeBackups VolumeBackups VolumeBackup",
		id[:8] + " new offline":                  "VolumeBackup",
		id[:8] + " new --repository offsite ambiguous": "VolumeBackup VolumeBackups",
	} {
		w := theWorld()
		words := strings.Fields(words)
		switch last := len(words) - 1; words[last] {
		case "two":
			w.repositories, words = append(w.repositories, dataset.Repository{Name: "nas"}), words[:last]
		case "ambiguous":
			other := w.backups[0]
			other.ID, words = id[:8]+strings.Repeat("0", 56), words[:last]
			w.backups = append(w.backups, other)
		case "offline":
			w.fail = map[string]error{"VolumeBackup": dataset.Errorf(dataset.ErrOffline, "it does not answer")}
			words = words[:last]
		}
		c := newConsole(w)
		var mu sync.Mutex
		var called []string
		c.fake.hook = func(method string) {
			mu.Lock()
			defer mu.Unlock()
			if strings.HasPrefix(method, "VolumeBackup") {
				called = append(called, method)
			}
		}
		_ = c.run(t, append([]string{"backup", "restore"}, words...)...) // the fake restores nothing
		if got := strings.Join(called, " "); got != want {
			t.Errorf("restore %s: called %s, want %s\n%s", words, got, want, c.err.String())
		}
	}
}

// storeIn makes a store with one volume in a root.
func storeIn(t *testing.T, root string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(t.Context(), filepath.Join(root, "store.db"), bolt.Options{Clock: clock.System{}})
	require.NoError(t, err)
	if _, err := s.Txn(t.Context(), nil, []store.Write{
		{Key: "cluster/id", Value: []byte(`{"id":"6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1"}`)},
		{Key: "names/db", Value: []byte(`{"id":"3f0e0cd5-8a1f-4e9f-a3c4-111111111111"}`)},
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStoreIsCarried exports a store and imports it into another root. A problem is reported in one line.
func TestStoreIsCarried(t *testing.T) {
	dir := t.TempDir()
	old, other, config, file := filepath.Join(dir, "old"), filepath.Join(dir, "new"), filepath.Join(dir, "drover.yaml"), filepath.Join(dir, "a.jsonl")
	for path, text := range map[string]string{config: "", filepath.Join(dir, "half"): `{"format":"drover store","version":1}` + "\n"} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
	}
	require.NoError(t, os.Mkdir(old, 0o755))
	say := func(code int, words string, args ...string) {
		t.Helper()
		c := newConsole(theWorld())
		got := c.run(t, append(args, "--config", config)...)
		text := c.out.String() + c.err.String()
		if got != code || !strings.Contains(text, words) || code != 0 && strings.Count(text, "\n") != 1 {
			t.Fatalf("%v: exit %d, %q; want %d, %q", args, got, text, code, words)
		}
	}
	absent := func(path string) {
		t.Helper()
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	say(1, "no store at", "store", "export", file, "--root", filepath.Join(dir, "none"))
	say(1, "no store at", "store", "export", file, "--root", old)
	absent(file)
	absent(filepath.Join(dir, "none"))
	open := storeIn(t, old)
	say(1, "is open in another drover, process ", "store", "export", file, "--root", old)
	require.NoError(t, open.Close())
	say(0, "exported 2 records of cluster 6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1, including 1 volumes to "+file, "store", "export", file, "--root", old)
	say(1, "overwrites nothing", "store", "export", file, "--root", old)
	say(0, `{"key":"names/db","value":{"id":"3f0e0cd5`, "store", "export", "-", "--root", old)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}

	say(1, "no such file", "store", "import", filepath.Join(dir, "none"), "--root", other)
	say(2, "it is not an export of a store", "store", "import", config, "--root", other)
	say(1, "was cut off", "store", "import", filepath.Join(dir, "half"), "--root", other)
	say(1, "was cut off", "store", "import", filepath.Join(dir, "half"), "--root", other, "--dry-run")
	say(0, "dry run: would import 2 records", "store", "import", file, "--root", other, "--dry-run")
	absent(other)
	say(0, "including 1 volumes from "+file+" into the file "+filepath.Join(other, "store.db"), "store", "import", file, "--root", other)
	say(1, "the store is not empty", "store", "import", file, "--root", other)
	say(1, "the store is not empty", "store", "import", file, "--root", other, "--dry-run")
	before, err := os.ReadFile(filepath.Join(other, "store.db"))
	require.NoError(t, err)
	say(0, "dry run: would replace every record in the store, and import 2 records", "store", "import", file, "--root", other, "--force", "--dry-run")
	if after, err := os.ReadFile(filepath.Join(other, "store.db")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the dry run changed the store: %v", err)
	}
	say(0, "imported 2 records", "store", "import", file, "--root", other, "--force", "--yes")
	say(0, "names/db", "store", "export", "-", "--root", other)
	say(2, "", "store", "import")
}
