package registration_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/controlsync"
	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/clock"
)

// A later format of node.json is refused, with and without the database of the agent, and the file stays unchanged. It
// is not taken for a damaged one, which would give the node another identity.
func TestB16IdentityOfALaterFormat(t *testing.T) {
	st, err := bolt.Open(t.Context(), filepath.Join(t.TempDir(), "agent.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	h := &host.Host{Root: t.TempDir(), DB: records.OpenDB(st), Log: logrus.New()}
	h.Trust = host.NewTrust("")
	id := controlsync.Identity{Host: h}
	file := filepath.Join(h.Root, controlsync.IdentityFile)
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const later = `{"format":2,"node":{"new":1}}`
	for _, database := range []string{"empty", "with the identity"} {
		put(later)
		if err := id.Load(t.Context()); !errors.Is(err, dataset.ErrUnsupported) {
			t.Errorf("database %s: got %v, want %v", database, err, dataset.ErrUnsupported)
		}
		if b, err := os.ReadFile(file); err != nil || string(b) != later {
			t.Errorf("database %s: the file has %q, %v", database, b, err)
		}
		put("damaged")
		if err := id.Load(t.Context()); err != nil {
			t.Errorf("database %s, damaged file: %v", database, err)
		}
	}
	put(later)
	if _, err := controlsync.KnownNode(h.Root); !errors.Is(err, dataset.ErrUnsupported) {
		t.Errorf("known node: got %v, want %v", err, dataset.ErrUnsupported)
	}
	node := uuid.New()
	put(`{"node":"` + node.String() + `"}`)
	if known, err := controlsync.KnownNode(h.Root); err != nil || known != node {
		t.Errorf("file without a format: %s, %v; want %s", known, err, node)
	}
}
