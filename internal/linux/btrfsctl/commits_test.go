package btrfsctl_test

import (
	"errors"
	"sync"
	"testing"

	"github.com/droverhq/drover/internal/linux/btrfsctl"
)

// Callers of Wait during a commit share the next commit.
func TestCommitsAreShared(t *testing.T) {
	var c btrfsctl.Commits
	var mu sync.Mutex
	count := 0
	begun, go1 := make(chan struct{}), make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = c.Wait(func() error { close(begun); <-go1; return nil })
	})
	<-begun
	failed := errors.New("commit failed")
	var joined sync.WaitGroup
	for range 20 {
		joined.Add(1)
		wg.Go(func() {
			joined.Done()
			err := c.Wait(func() error {
				mu.Lock()
				defer mu.Unlock()
				count++
				return failed
			})
			if !errors.Is(err, failed) {
				t.Errorf("got %v", err)
			}
		})
	}
	joined.Wait()
	close(go1)
	wg.Wait()
	if count < 1 || count > 20 {
		t.Errorf("%d commits", count)
	}
	for range 2 {
		_ = c.Wait(func() error { count = 0; return nil })
	}
	if count != 0 {
		t.Error("the next one did not run")
	}
}
