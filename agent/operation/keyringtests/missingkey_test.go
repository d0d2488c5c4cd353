package keyring_test

import (
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// lies returns the content of the pool and the records: for each path the content of the file, and all volumes.
func (k *keyRig) lies() map[string]string {
	k.T.Helper()
	has := map[string]string{}
	err := filepath.WalkDir(k.Pool().Info().Path, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var text []byte
		if e.Type().IsRegular() {
			text, err = os.ReadFile(path)
		}
		has[path] = string(text)
		return err
	})
	if err != nil {
		k.T.Fatal(err)
	}
	volumes, err := k.Control.Volumes(k.T.Context(), api.Page{})
	if err != nil {
		k.T.Fatal(err)
	}
	for i := range volumes.Items {
		volumes.Items[i].Status = nil // the last report of its agent
	}
	text, err := json.Marshal(volumes.Items)
	if err != nil {
		k.T.Fatal(err)
	}
	has["volumes"] = string(text)
	return has
}

// resize makes the agent resize a volume as control has planned it.
func (k *keyRig) resize(name, size string) error {
	k.T.Helper()
	p, err := k.Control.Plan(k.T.Context(), k.Node(), api.Request{ID: uuid.New(), Kind: dataset.OpResize, Volume: name, Size: size})
	if err != nil || p.Operation == nil { // the volume has that size already
		return err
	}
	_, err = k.Execute(k.T.Context(), &host.Job{}, *p.Operation)
	return err
}

// Each operation that needs a key is refused without the key, or with another one, before anything is changed. The
// error says what to do.
func TestOperationsWithoutKeyChangeNothing(t *testing.T) {
	k := newKeyRig(t)
	d := k.encrypted("db@gold")
	d.Home = uuid.New() // for the move to this node
	k.encrypted("copied@gold")
	acts := map[string]func() error{
		"create": func() error { return k.Create(t.Context(), "new@gold", nil) },
		"clone":  func() error { return k.Create(t.Context(), "clone@gold", map[string]string{"from": "copied"}) },
		"clone by another key": func() error {
			return k.Create(t.Context(), "clone@silver", map[string]string{"from": "copied"})
		},
		"mount":                   func() error { return k.opens("db") },
		"resize":                  func() error { return k.resize("db", "2GiB") },
		"rekey":                   func() error { return k.rekey("db", "") },
		"rekey by the wrong file": func() error { return k.rekey("db", k.silver) },
		"move": func() error {
			op := dataset.Operation{ID: uuid.New(), Kind: dataset.OpMove, Volume: "db", DatasetID: d.ID, DatasetRecord: &d, OtherNode: d.Home}
			_, err := k.Move(t.Context(), &host.Job{}, &op)
			return err
		},
	}
	for _, c := range []struct {
		name string
		do   func() error
		says string
		not  string // the operation that does not need that key
	}{
		{"missing", func() error { return os.Remove(k.gold) }, "not found (", ""},
		{"open to others", func() error { return os.Chmod(k.gold, 0o644) }, "chmod 600 " + k.gold, ""},
		{"cut off", func() error { return os.Truncate(k.gold, 7) }, "a key has 32 to", ""},
		{"another", func() error { k.write(t, k.gold, 3); return nil }, "put that key back", "create"},
	} {
		for name, act := range acts {
			if name == c.not {
				continue
			}
			if err := c.do(); err != nil {
				t.Fatal(err)
			}
			before := k.lies()
			for range 2 {
				err := act()
				if !errors.Is(err, dataset.ErrForbidden) || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%s, the key is %s: %v", name, c.name, err)
				}
			}
			if after := k.lies(); !maps.Equal(before, after) {
				t.Errorf("%s, the key is %s: it was %q, and is %q", name, c.name, before, after)
			}
			if err := os.RemoveAll(k.gold); err != nil {
				t.Fatal(err)
			}
			k.write(t, k.gold, 1)
		}
	}
	for name, err := range map[string]error{"db": k.opens("db"), "copied": k.opens("copied"), "larger": k.resize("db", "2GiB")} {
		if err != nil {
			t.Errorf("%s with its key: %v", name, err)
		}
	}
}
