package main

import (
	"strings"
	"sync"
	"testing"
	"time"

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

// TestRestoreListsOnlyIfItMust: a restore asks for one backup if only one repository can have it and enough digits are
// given. If the answer is an error about the backup, the list explains it.
func TestRestoreListsOnlyIfItMust(t *testing.T) {
	id := strings.Repeat("1c09bb5f", 8)
	for words, want := range map[string]string{
		id[:8] + " new":                                "VolumeBackup",
		id[:16] + " new":                               "VolumeBackup",
		id + " new":                                    "VolumeBackup",
		id[:8] + " new --repository offsite":           "VolumeBackup",
		id[:7] + " new":                                "VolumeBackups VolumeBackup",
		id[:8] + "000 new":                             "VolumeBackup VolumeBackups", // the next digits differ
		"00000000 new":                                 "VolumeBackup VolumeBackups",
		id[:8] + " new --repository offsite two":       "VolumeBackup",
		id[:8] + " new two":                            "VolumeBackups VolumeBackups VolumeBackup",
		id[:8] + " new offline":                        "VolumeBackup",
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
