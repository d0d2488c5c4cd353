package pki_test

import (
	"errors"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/test/require"
)

func TestFiles(t *testing.T) {
	a, _ := create(t)
	dir := t.TempDir()
	f := pki.NodeFiles(dir)
	if _, err := pki.LoadPair(f); !errors.Is(err, dataset.ErrNotFound) {
		t.Error(err)
	}
	first, second := issue(t, a, nodeID, start), issue(t, a, nodeID, start.Add(time.Hour))
	require.NoError(t, first.Save(f))
	got, err := pki.LoadPair(f)
	if err != nil || !got.Key.Equal(first.Key) || got.Identity != first.Identity {
		t.Fatal(got, err)
	}
	before := map[string][]byte{}
	for _, p := range []string{f.Cert, f.Key, f.CA} {
		if st, err := os.Stat(p); err != nil || st.Mode() != 0o600 {
			t.Error(p, st.Mode(), err)
		}
		before[p], _ = os.ReadFile(p)
	}
	require.NoError(t, second.Save(f))
	// If Save is interrupted before it writes the certificate, LoadPair returns the previous pair, otherwise the new
	// one.
	key, _ := os.ReadFile(f.Key)
	write(t, f.Key, before[f.Key])
	write(t, f.Key+".next", key)
	if got, err := pki.LoadPair(f); err != nil || !got.Key.Equal(second.Key) {
		t.Error(got, err)
	}
	write(t, f.Cert, before[f.Cert])
	if got, err := pki.LoadPair(f); err != nil || !got.Key.Equal(first.Key) {
		t.Error(got, err)
	}
	write(t, f.Cert, []byte("-----BEGIN NONSENSE-----\n-----END NONSENSE-----\n"))
	if _, err := pki.LoadPair(f); !errors.Is(err, dataset.ErrCorrupt) {
		t.Error(err)
	}
	require.NoError(t, os.Remove(f.Key))
	write(t, f.Cert, before[f.Cert])
	if _, err := pki.LoadPair(f); !errors.Is(err, dataset.ErrNotFound) || errors.Is(err, fs.ErrPermission) {
		t.Error(err)
	}
}

// If a Save and the next one are interrupted after any steps, LoadPair returns one of the pairs that were saved or
// about to be saved.
func TestSavesCutShort(t *testing.T) {
	a, _ := create(t)
	first, second, third := issue(t, a, nodeID, start), issue(t, a, nodeID, start), issue(t, a, nodeID, start)
	acts := first.SaveActs(pki.Files{})
	for i := range acts + 1 {
		for j := range acts + 1 {
			f := pki.NodeFiles(t.TempDir())
			if err := errors.Join(first.Save(f), second.SaveCut(f, i), third.SaveCut(f, j)); err != nil {
				t.Fatal(i, j, err)
			}
			got, err := pki.LoadPair(f)
			if err != nil || !got.Key.Equal(first.Key) && !got.Key.Equal(second.Key) && !got.Key.Equal(third.Key) {
				t.Errorf("cut after %d acts, then after %d: %v", i, j, err)
			}
			if err := first.Save(f); err != nil {
				t.Error(i, j, err)
			}
			if got, err := pki.LoadPair(f); err != nil || !got.Key.Equal(first.Key) {
				t.Error(i, j, err)
			}
		}
	}
}

func write(t *testing.T, path string, b []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(path, b, 0o600))
}
