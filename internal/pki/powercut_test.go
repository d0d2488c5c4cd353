package pki_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/droverhq/drover/internal/pki"
	"github.com/droverhq/drover/internal/scratch"
	"github.com/droverhq/drover/test/require"
)

func TestMain(m *testing.M) { os.Exit(scratch.Main(m)) }

// onDisk returns an image with a filesystem, and its mount point.
func onDisk(t *testing.T) (image, root string) {
	t.Helper()
	image = scratch.Image(t, "ext4", scratch.Ext4)
	return image, scratch.MountImage(t, "ext4", image)
}

// I2: after a power cut between any two steps of a Save, LoadPair reads a complete pair. After Save has returned, it
// reads the new pair, and the key is in its place.
func TestI2SaveSurvivesAPowerCut(t *testing.T) {
	a, _ := create(t)
	first, second := issue(t, a, nodeID, start), issue(t, a, nodeID, start.Add(time.Hour))
	image, root := onDisk(t)
	require.NoError(t, first.Save(pki.NodeFiles(root)))
	for acts := range second.SaveActs(pki.Files{}) + 1 {
		require.NoError(t, second.SaveCut(pki.NodeFiles(root), acts))
		f := pki.NodeFiles(scratch.CutPower(t, "ext4", image))
		got, err := pki.LoadPair(f)
		if err != nil || !got.Key.Equal(first.Key) && !got.Key.Equal(second.Key) {
			t.Errorf("cut after %d acts: %v", acts, err)
		}
		if acts < second.SaveActs(pki.Files{}) {
			require.NoError(t, first.Save(pki.NodeFiles(root)))
			continue
		}
		if err == nil && !got.Key.Equal(second.Key) {
			t.Error("the pair that was saved is not there")
		}
		if _, err := os.Lstat(f.Key + ".next"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the key is not in its place: %v", err)
		}
	}
}

// I2: an authority and a request are on the disk when the calls that make them return. All certificates of the cluster
// depend on the authority, and a token was used up for the request.
func TestI2AuthorityAndRequestSurviveAPowerCut(t *testing.T) {
	image, root := onDisk(t)
	a, err := pki.Create(filepath.Join(root, "ca"), start)
	require.NoError(t, err)
	dir := filepath.Join(scratch.CutPower(t, "ext4", image), "ca")
	if got, err := pki.Load(dir); err != nil || got.Cluster() != a.Cluster() {
		t.Errorf("the authority: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(dir, "ca.pem")); err != nil || string(b) != a.Bundle() {
		t.Errorf("what others need to believe it: %q, %v", b, err)
	}
	req, err := pki.NewRequest()
	require.NoError(t, err)
	require.NoError(t, req.Save(filepath.Join(root, "join.pem")))
	if got, err := pki.LoadRequest(filepath.Join(scratch.CutPower(t, "ext4", image), "join.pem")); err != nil ||
		got.PEM != req.PEM {
		t.Errorf("the request: %v", err)
	}
}
