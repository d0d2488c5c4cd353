package main

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

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

// TestNameMeansBackupsOfOneRepository: who knows the password of another repository can store backups of any name there,
// so the name of a volume means the backups in the repository of its profile or in the only one.
func TestNameMeansBackupsOfOneRepository(t *testing.T) {
	for name, tc := range map[string]struct{ profile, words, want, err string }{
		"of the profile": {profile: "offsite", words: "db new@gold", want: strings.Repeat("1", 64)},
		"unknown":        {words: "db new", err: "no profile says which one has the backups of volume db (use --repository: offsite, team)"},
		"given":          {words: "db new@gold --repository team", want: strings.Repeat("2", 64)},
	} {
		t.Run(name, func(t *testing.T) {
			w := theWorld()
			w.repositories = append(w.repositories, dataset.Repository{Name: "team"})
			for i := range w.volumes {
				w.volumes[i].Profile.Backup.To = tc.profile
			}
			ours := w.backups[0]
			ours.ID, ours.Operation = strings.Repeat("1", 64), uuid.Nil
			planted := ours
			planted.ID, planted.Repository, planted.Taken = strings.Repeat("2", 64), "team", ours.Taken.Add(time.Minute)
			w.backups = []api.VolumeBackup{ours, planted}
			c := newConsole(w)
			_ = c.run(t, append([]string{"backup", "restore"}, strings.Fields(tc.words)...)...) // the fake restores nothing
			asked := strings.Join(c.fake.asked, "\n")
			if !strings.Contains(asked, tc.want) || tc.want == "" && asked != "" || !strings.Contains(c.err.String(), tc.err) {
				t.Errorf("asked %s, want backup %s\n%s", asked, tc.want, c.err.String())
			}
		})
	}
}

// TestRestoreOfNewestBackup: a restore with the name of a volume takes the newest complete backup of that volume. A name
// that looks like an ID is taken for the ID of a backup first.
func TestRestoreOfNewestBackup(t *testing.T) {
	id := func(digit string) string { return strings.Repeat(digit, 64) }
	for name, tc := range map[string]struct{ words, want, err string }{
		"newest":             {words: "db new@gold", want: id("2")},
		"lost volume":        {words: "gone new", want: id("4")},
		"nothing but pieces": {words: "cut new", err: `no backup of a volume "cut"`},
		"other cluster":      {words: "theirs new", err: "backups of other volumes of this name: 1 (give the ID of one"},
		"other dataset": {words: "db-test new", err: "the volume that has the name db-test now has no backup yet; " +
			"backups of an earlier volume of this name: 1 (give the ID of one: drover backup ls db-test)"},
		"two volumes":         {words: "twice new", err: "2 volumes had the name twice, and none has it now"},
		"name like an ID":     {words: "11111111 new@gold", want: id("1")},
		"name that is no ID":  {words: "98989898 new", want: id("6")},
		"neither":             {words: "nothing new", err: `no backup of a volume "nothing", and none with this ID`},
		"volume still exists": {words: "db", err: "volume db exists (name the new volume: drover backup restore 22222222 NEW)"},
	} {
		t.Run(name, func(t *testing.T) {
			w := theWorld()
			like := w.backups[0]
			w.backups = nil
			for i, volume := range []string{"db", "db", "db", "gone", "cut", "98989898", "theirs", "db-test", "twice", "twice", "db"} {
				b := like
				b.ID, b.Volume, b.Taken = id(fmt.Sprintf("%x", i+1)), volume, like.Taken.Add(time.Duration(i)*time.Hour)
				b.Operation, b.Incomplete = uuid.Nil, i == 2 || volume == "cut"
				switch {
				case volume == "theirs" || i == 10: // the newest one of db is of another host that recovered db
					b.Elsewhere, b.Cluster, b.Dataset = true, idOther, uuid.New()
				case volume != "db":
					b.Dataset = uuid.New()
				}
				w.backups = append(w.backups, b)
			}
			c := newConsole(w)
			_ = c.run(t, append([]string{"backup", "restore"}, strings.Fields(tc.words)...)...) // the fake restores nothing
			asked := strings.Join(c.fake.asked, "\n")
			if !strings.Contains(asked, tc.want) || tc.want == "" && asked != "" || !strings.Contains(c.err.String(), tc.err) {
				t.Errorf("asked %s, want backup %s\n%s", asked, tc.want, c.err.String())
			}
		})
	}
}

// TestRestoreWithoutRepository: the error says that no repository is recorded, not only that there is no backup.
func TestRestoreWithoutRepository(t *testing.T) {
	w := theWorld()
	w.repositories, w.backups = nil, nil
	for _, command := range []string{"restore", "verify"} {
		c := newConsole(w)
		if c.run(t, "backup", command, "db"); !strings.Contains(c.err.String(), "no repository is recorded (drover repository add)") {
			t.Errorf("%s: %s", command, c.err.String())
		}
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
		id[:7] + " new":                          "VolumeBackups VolumeBackups VolumeBackup", // or a volume
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
