package main

import (
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
