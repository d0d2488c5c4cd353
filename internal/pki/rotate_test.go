package pki_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/assert"
	"github.com/droverhq/drover/test/fakes"
	"github.com/droverhq/drover/test/require"
)

// During a rotation all members trust each other, whether or not they have the new root. After the rotation,
// certificates that the old key signed are refused.
func TestRotation(t *testing.T) {
	before, dir := create(t)
	day := 24 * time.Hour
	now := start.Add(day)
	after, err := pki.Rotate(dir, now)
	require.NoError(t, err)
	if since, ok := after.Rotating(); !ok || !since.Equal(now) {
		t.Error(since, ok)
	}
	if _, err := pki.Rotate(dir, now); !errors.Is(err, dataset.ErrConflict) {
		t.Error(err)
	}
	loaded, err := pki.Load(dir)
	if err != nil || len(loaded.Roots()) != 2 || loaded.Fingerprint() != after.Fingerprint() {
		t.Fatal(loaded, err)
	}
	clk := fakes.NewClock(now)
	for _, control := range []*pki.Authority{before, loaded} {
		for _, node := range []*pki.Authority{before, loaded} {
			c := pki.NewCredentials(issue(t, control, controlID, now), clk, nil)
			n := pki.NewCredentials(issue(t, node, nodeID, now), clk, nil)
			if _, serverErr, err := shake(t, c.Server(pki.Node), n.Client(pki.Control)); serverErr != nil ||
				err != nil {
				t.Error(serverErr, err)
			}
		}
		for _, token := range []pki.Fingerprint{before.Fingerprint(), after.Fingerprint()} {
			c := pki.NewCredentials(issue(t, control, controlID, now), clk, nil)
			_, _, err := shake(t, c.UnverifiedServer(), pki.Pinned(token, uuid.Nil, clk))
			if unknown := control == before && token == after.Fingerprint(); unknown != (err != nil) {
				t.Error(err)
			}
		}
	}
	if _, err := pki.FinishRotation(dir, false, now.Add(29*day)); !errors.Is(err, dataset.ErrConflict) {
		t.Error(err)
	}
	done, err := pki.FinishRotation(dir, false, now.Add(30*day))
	if err != nil || len(done.Roots()) != 1 {
		t.Fatal(done, err)
	}
	if again, err := pki.FinishRotation(dir, false, now.Add(30*day)); err != nil ||
		again.Fingerprint() != after.Fingerprint() {
		t.Error(again, err)
	}
	clk.Set(now.Add(time.Hour))
	c := pki.NewCredentials(issue(t, done, controlID, now), clk, nil)
	n := pki.NewCredentials(issue(t, before, nodeID, now), clk, nil)
	n.Pair().Roots = done.Roots()
	if _, err, _ := shake(t, c.Server(), n.Client()); err == nil ||
		!strings.Contains(err.Error(),
			"not signed by this cluster's certificate authority: it was signed by another one") {
		t.Error(err)
	}
	_, err = pki.Rotate(dir, now.Add(31*day))
	assert.NoError(t, err)
}

// A rotation that was interrupted between its two files can be repeated or finished.
func TestRotationCutShort(t *testing.T) {
	_, dir := create(t)
	state, err := os.ReadFile(filepath.Join(dir, "ca-key.pem"))
	require.NoError(t, err)
	first, err := pki.Rotate(dir, start)
	require.NoError(t, err)
	write(t, filepath.Join(dir, "ca-key.pem"), state) // as after a crash: the bundle was written before the state
	second, err := pki.Rotate(dir, start)
	if err != nil || second.Fingerprint() == first.Fingerprint() {
		t.Fatal(second, err)
	}
	_, err = pki.FinishRotation(dir, true, start)
	assert.NoError(t, err)
	bundle, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil || strings.Count(string(bundle), "BEGIN") != 1 {
		t.Errorf("%s, %v", bundle, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) != 0 {
		t.Error(left)
	}
}

// Cached verifications of certificates end when their roots are no longer trusted.
func TestVouchersEnd(t *testing.T) {
	a, dir := create(t)
	clk := fakes.NewClock(start)
	server := pki.NewCredentials(issue(t, a, controlID, start), clk, nil)
	node := issue(t, a, nodeID, start)
	cs, err, _ := shake(t, server.UnverifiedServer(), node.Credulous())
	require.NoError(t, err)
	for range 2 {
		if id, err := server.VerifyPeer(cs); err != nil || id != node.Identity {
			t.Fatal(id, err)
		}
	}
	_, err = pki.Rotate(dir, start)
	require.NoError(t, err)
	next, err := pki.FinishRotation(dir, true, start)
	require.NoError(t, err)
	server.Set(issue(t, next, controlID, start))
	if _, err := server.VerifyPeer(cs); !errors.Is(err, dataset.ErrForbidden) {
		t.Error("an old root is believed by memory:", err)
	}
}

// A user who can open the folder of an authority and locks it does not prevent changes of the authority. No lock file
// remains. Create accepts a folder in which a crash left a lock file, because it does not count as the content of
// another program.
func TestStrangerLocksTheFolder(t *testing.T) {
	_, dir := create(t)
	require.NoError(t, os.Chmod(dir, 0o755))
	f, err := os.Open(dir)
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, unix.Flock(int(f.Fd()), unix.LOCK_EX))
	done := make(chan error, 1)
	go func() {
		_, err := pki.Rotate(dir, start.Add(time.Hour))
		done <- err
	}()
	select {
	case err := <-done:
		assert.NoError(t, err)
	case <-time.After(30 * time.Second):
		t.Error("it waits for the lock of the folder")
	}
	if names, err := filepath.Glob(filepath.Join(dir, "*")); err != nil || len(names) != 2 {
		t.Errorf("%v, %v", names, err)
	}
	fresh := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(fresh, "lock"), nil, 0o600))
	_, err = pki.Create(fresh, start)
	assert.NoError(t, err)
}
