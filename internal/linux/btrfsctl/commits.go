package btrfsctl

import (
	"os"
	"sync"
)

// Commits shares commits of a filesystem between callers. All callers that call Wait while a commit runs share the next
// commit. The zero value is ready for use.
type Commits struct {
	mu      sync.Mutex
	waiting *round
	running sync.Mutex
}

type round struct {
	done chan struct{}
	err  error
}

// Wait returns once a commit has run that began after the call.
func (c *Commits) Wait(commit func() error) error {
	c.mu.Lock()
	if r := c.waiting; r != nil {
		c.mu.Unlock()
		<-r.done
		return r.err
	}
	r := &round{done: make(chan struct{})}
	c.waiting = r
	c.mu.Unlock()

	c.running.Lock()
	c.mu.Lock()
	c.waiting = nil
	c.mu.Unlock()
	r.err = commit()
	c.running.Unlock()
	close(r.done)
	return r.err
}

// Commit writes the running transaction of the filesystem of dir. Unlike btrfs's sync it does not write out
// the dirty pages of all other files.
func Commit(dir *os.File) error {
	id, err := StartSync(dir)
	if err != nil {
		return err
	}
	return WaitSync(dir, id)
}
