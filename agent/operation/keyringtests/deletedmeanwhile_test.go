package keyring_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
)

// A rekey that waits for the dataset's lock while the volume is deleted changes no key in the trash, and fails.
func TestRekeyOfVolumeDeletedMeanwhile(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	unlock, err := k.Locks.Lock(t.Context(), d.ID, "test")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- k.rekey("db", "") }()
	agenttest.Await(t, func() bool { return k.Locks.Users(d.ID) == 2 })
	deleted, _ := k.Cache.Dataset(d.ID)
	deleted.State, deleted.Trash = dataset.StateTrashed, &dataset.Trash{At: d.Created}
	k.Cache.Apply(deleted, 0)
	unlock()
	if err := <-ended; !errors.Is(err, dataset.ErrConflict) || !strings.Contains(err.Error(), "deleted meanwhile") {
		t.Errorf("%v", err)
	}
}
