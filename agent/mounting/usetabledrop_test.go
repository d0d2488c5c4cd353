package mounting_test

import (
	"context"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/agent/mounting"
)

// A record of uses that could not be removed from disk is removed by the next attempt.
func TestDropOfUsesIsRepeatedAfterError(t *testing.T) {
	r := agenttest.New(t)
	d := r.NewVolume("db")
	r.MustMount("db", "user")
	r.MustUnmount("db", "user")
	key := "mounts/" + d.ID.String()
	if there, err := r.DB.Get(t.Context(), key, &mounting.Record{}); err != nil || !there {
		t.Fatalf("recorded: %t, %v", there, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := r.Uses.Drop(ctx, d.ID); err == nil {
		t.Fatal("the database accepts a write after the end of its context")
	}
	if err := r.Uses.Drop(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if there, err := r.DB.Get(t.Context(), key, &mounting.Record{}); err != nil || there {
		t.Errorf("after the second attempt recorded: %t, %v", there, err)
	}
}
