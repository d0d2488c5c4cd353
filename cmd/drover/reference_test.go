package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/cmd/drover/internal/settings"
)

// TestReferencePages fails if docs/reference differs from the pages that are made from the schemas.
func TestReferencePages(t *testing.T) {
	for _, p := range settings.ReferencePages() {
		want, err := p.Markdown()
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join("../../docs/reference", strings.TrimSuffix(p.File, ".yaml")+".md")
		if *update {
			if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		got, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(string(got), want); d != "" {
			t.Errorf("%s is stale (go test ./cmd/drover -run TestReferencePages -update writes it anew):\n%s", file, d)
		}
	}
}

// TestReferenceIsComplete checks that each key has everything that the page shows, and that its example is YAML.
func TestReferenceIsComplete(t *testing.T) {
	want := map[string][]string{
		"profiles.yaml": {"profiles.NAME.snapshots.keep.daily", "profiles.NAME.fence.exec", "profiles.NAME.encryption.key_file", "profiles.NAME.filesystem.mount"},
		"drover.yaml":   {"pools[].trim", "store.consul.token_file", "listen.advertise", "transfers.rate"},
	}
	for _, p := range settings.ReferencePages() {
		keys, err := p.Keys()
		if err != nil {
			t.Fatal(err)
		}
		var paths []string
		for _, k := range keys {
			paths = append(paths, k.Path)
			if k.Type == "" || k.Description == "" || k.Example == "" || k.Live == "" || !strings.HasSuffix(k.Description, ".") {
				t.Errorf("%s: give key %s a description, examples and x-live in the schema: %+v", p.File, k.Path, k)
			}
			var v any
			if err := yaml.Unmarshal([]byte(k.Path[strings.LastIndex(k.Path, ".")+1:]+": "+k.Example), &v); err != nil {
				t.Errorf("%s: example of %s: %v", p.File, k.Path, err)
			}
		}
		for _, path := range want[p.File] {
			if !slices.Contains(paths, path) {
				t.Errorf("%s: no key %s among %v", p.File, path, paths)
			}
		}
	}
}
