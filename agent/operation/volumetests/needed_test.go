package volume_test

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/internal/linux/process"
	"github.com/droverhq/drover/plugin"
)

// A Docker engine lists a volume by the name for which it asked last, and by a name that a container needs, also one
// that does not run. It can remove the volume by any name once no container needs another one. This test is the engine.
func TestSpellingsThatContainersNeed(t *testing.T) {
	r, root := agenttest.New(t), t.TempDir()
	write := func(file, text string) {
		t.Helper()
		path := filepath.Join(root, file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	write("volumes/metadata.db", "")
	list, err := os.Open(filepath.Join(root, "volumes/metadata.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer list.Close()
	self, err := process.Of(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	ctx := plugin.WithTool(plugin.WithCaller(t.Context(), self), plugin.Docker)
	asks := func(name string, want ...string) {
		t.Helper()
		if _, err := r.Get(ctx, name); err != nil {
			t.Error(err)
		}
		all, err := r.List(ctx)
		var got []string
		for _, v := range all {
			got = append(got, v.Spelling)
		}
		if slices.Sort(got); err != nil || !slices.Equal(got, want) {
			t.Errorf("after %s was asked for it lists %v, want %v: %v", name, got, want, err)
		}
	}
	write("containers/c1/config.v2.json", `{"MountPoints":{"/data":{"Name":"six@bronze","Driver":"drover"}}}`)
	if err := r.Create(ctx, "six@bronze", nil); err != nil {
		t.Fatal(err)
	}
	asks("six@bronze", "six@bronze")
	if err := r.Remove(ctx, "six"); !errors.Is(err, dataset.ErrInUse) {
		t.Errorf("removed although a container needs it: %v", err)
	}
	asks("six", "six", "six@bronze")
	if err := r.Remove(ctx, "six"); err != nil { // only this name
		t.Error(err)
	}
	asks("six@bronze", "six@bronze")
	write("containers/c1/config.v2.json", "not written completely")
	asks("six", "six", "six@bronze") // what cannot be read may need any name
	if err := os.RemoveAll(filepath.Join(root, "containers/c1")); err != nil {
		t.Fatal(err)
	}
	asks("six", "six")
	asks("six@bronze", "six@bronze")
	if err := r.Remove(ctx, "six"); err != nil {
		t.Error(err)
	}
	if _, err := r.Get(ctx, "six"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("after the removal: %v", err)
	}
}
