package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/bolt"
	"github.com/droverhq/drover/internal/clock"
)

// storeIn makes a store with one volume in a root.
func storeIn(t *testing.T, root string) *bolt.Store {
	t.Helper()
	s, err := bolt.Open(t.Context(), filepath.Join(root, "store.db"), bolt.Options{Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Txn(t.Context(), nil, []store.Write{
		{Key: "cluster/id", Value: []byte(`{"id":"6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1"}`)},
		{Key: "names/db", Value: []byte(`{"id":"3f0e0cd5-8a1f-4e9f-a3c4-111111111111"}`)},
	}); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestStoreIsCarried exports a store and imports it into another root. A problem is reported in one line.
func TestStoreIsCarried(t *testing.T) {
	dir := t.TempDir()
	old, other, config, file := filepath.Join(dir, "old"), filepath.Join(dir, "new"), filepath.Join(dir, "drover.yaml"), filepath.Join(dir, "a.jsonl")
	for path, text := range map[string]string{config: "", filepath.Join(dir, "half"): `{"format":"drover store","version":1}` + "\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(old, 0o755); err != nil {
		t.Fatal(err)
	}
	say := func(code int, words string, args ...string) {
		t.Helper()
		c := newConsole(theWorld())
		got := c.run(t, append(args, "--config", config)...)
		text := c.out.String() + c.err.String()
		if got != code || !strings.Contains(text, words) || code != 0 && strings.Count(text, "\n") != 1 {
			t.Fatalf("%v: exit %d, %q; want %d, %q", args, got, text, code, words)
		}
	}
	absent := func(path string) {
		t.Helper()
		if _, err := os.Lstat(path); err == nil {
			t.Errorf("%s is there", path)
		}
	}
	say(1, "no store at", "store", "export", file, "--root", filepath.Join(dir, "none"))
	say(1, "no store at", "store", "export", file, "--root", old)
	absent(file)
	absent(filepath.Join(dir, "none"))
	open := storeIn(t, old)
	say(1, "is open in another drover, process ", "store", "export", file, "--root", old)
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	say(0, "exported 2 records of cluster 6ad6dd0e-2f05-4f54-9b57-6e5d7ea0a9c1, including 1 volumes to "+file, "store", "export", file, "--root", old)
	say(1, "overwrites nothing", "store", "export", file, "--root", old)
	say(0, `{"key":"names/db","value":{"id":"3f0e0cd5`, "store", "export", "-", "--root", old)
	if st, err := os.Stat(file); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", st.Mode(), err)
	}

	say(1, "no such file", "store", "import", filepath.Join(dir, "none"), "--root", other)
	say(2, "it is not an export of a store", "store", "import", config, "--root", other)
	say(1, "was cut off", "store", "import", filepath.Join(dir, "half"), "--root", other)
	say(1, "was cut off", "store", "import", filepath.Join(dir, "half"), "--root", other, "--dry-run")
	say(0, "dry run: would import 2 records", "store", "import", file, "--root", other, "--dry-run")
	absent(other)
	say(0, "including 1 volumes from "+file+" into the file "+filepath.Join(other, "store.db"), "store", "import", file, "--root", other)
	say(1, "the store is not empty", "store", "import", file, "--root", other)
	say(1, "the store is not empty", "store", "import", file, "--root", other, "--dry-run")
	before, err := os.ReadFile(filepath.Join(other, "store.db"))
	if err != nil {
		t.Fatal(err)
	}
	say(0, "dry run: would replace every record in the store, and import 2 records", "store", "import", file, "--root", other, "--force", "--dry-run")
	if after, err := os.ReadFile(filepath.Join(other, "store.db")); err != nil || !bytes.Equal(before, after) {
		t.Errorf("the dry run changed the store: %v", err)
	}
	say(0, "imported 2 records", "store", "import", file, "--root", other, "--force", "--yes")
	say(0, "names/db", "store", "export", "-", "--root", other)
	say(2, "", "store", "import")
}
