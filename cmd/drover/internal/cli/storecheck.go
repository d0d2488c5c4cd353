package cli

import (
	"context"
	"time"
)

// storeCheckTime bounds how long a list waits for the state of the store.
const storeCheckTime = 2 * time.Second

// startStoreCheck asks the server, while the list is fetched, whether the store was lost or is an older one. The
// returned function waits for the answer. It returns a note that the list can lack items, with the next command, or ""
// if the store is consistent or the server did not answer.
func (l List[T]) startStoreCheck(ctx context.Context, a *App) func() string {
	if l.Local {
		return func() string { return "" }
	}
	note := make(chan string, 1)
	ctx, cancel := context.WithTimeout(ctx, storeCheckTime)
	go func() {
		defer close(note)
		c, err := a.Connect()
		if err != nil {
			return
		}
		// An error is not reported: the list itself fails if the server does not answer.
		if health, err := c.ClusterHealth(ctx); err == nil && health.Store.Halted != "" {
			note <- "this list may lack items: " + health.Store.Halted
		}
	}()
	return func() string {
		defer cancel()
		return <-note
	}
}
