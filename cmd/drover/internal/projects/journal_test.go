package projects

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/droverhq/drover/dataset"
)

// plant writes a journal.
func (w *world) plant(text string) {
	w.t.Helper()
	if err := os.WriteFile(w.journal(), []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
}

// TestForeignJournal: a journal that another user may have written, or with a path outside of the project, is refused.
// No file is replaced, and no container is stopped.
func TestForeignJournal(t *testing.T) {
	edit := func(change func(*Journal)) func(*world) error {
		return func(w *world) error {
			text, err := os.ReadFile(w.journal())
			var j Journal
			if err = errors.Join(err, json.Unmarshal(text, &j)); err != nil {
				return err
			}
			change(&j)
			text, err = json.Marshal(j)
			return errors.Join(err, os.WriteFile(w.journal(), text, 0o600))
		}
	}
	for name, c := range map[string]struct {
		do   func(*world) error
		kind error
	}{
		"mode":           {func(w *world) error { return os.Chmod(w.journal(), 0o644) }, dataset.ErrForbidden},
		"owner":          {func(w *world) error { return os.Chown(w.journal(), 65534, 0) }, dataset.ErrForbidden},
		"folder":         {func(w *world) error { return os.Chmod(w.journals, 0o777) }, dataset.ErrForbidden},
		"folder's owner": {func(w *world) error { return os.Chown(w.journals, 65534, 0) }, dataset.ErrForbidden},
		"FIFO":           {func(w *world) error { return errors.Join(os.Remove(w.journal()), unix.Mkfifo(w.journal(), 0o600)) }, dataset.ErrInvalid},
		"link": {func(w *world) error {
			return errors.Join(os.Rename(w.journal(), w.journal()+"2"), os.Symlink(w.journal()+"2", w.journal()))
		}, unix.ELOOP},
		"size":             {func(w *world) error { return os.Truncate(w.journal(), 1<<30) }, nil},
		"project":          {edit(func(j *Journal) { j.Project.Name = "blog" }), dataset.ErrCorrupt},
		"project's folder": {edit(func(j *Journal) { j.Project.Dir = "/etc" }), dataset.ErrCorrupt},
		"path":             {edit(func(j *Journal) { j.Files[0].Path = "/etc/cron.d/x" }), dataset.ErrCorrupt},
		"parent path":      {edit(func(j *Journal) { j.Files[0].Path += "/../x"; j.Project.Files = []string{j.Files[0].Path} }), dataset.ErrCorrupt},
		"new":              {edit(func(j *Journal) { j.Files[0].New = "/home/alice/x" }), dataset.ErrCorrupt},
		"old":              {edit(func(j *Journal) { j.Files[0].Old += "/../../x" }), dataset.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			w := shop(t)
			w.adoptKilledAt("switch")
			if err := c.do(w); err != nil {
				t.Fatal(err)
			}
			before, noted := entries(t, w.dir), len(w.noted)
			for _, args := range [][]string{adopt, {"shop", "--undo", "--yes"}, {"shop", "--confirm"}} {
				done := make(chan error, 1)
				go func() { done <- w.run(args...) }()
				select {
				case err := <-done:
					if err == nil || c.kind != nil && !errors.Is(err, c.kind) || !strings.Contains(err.Error(), w.journals) {
						t.Errorf("%v: %v, want %v", args, err, c.kind)
					}
				case <-time.After(20 * time.Second):
					t.Fatalf("%v does not end", args)
				}
			}
			if after := entries(t, w.dir); after != before || len(w.noted) != noted {
				t.Errorf("%s became %s, after %v", before, after, w.noted)
			}
		})
	}
}

// TestJournalInFolder: a file with the name of a journal in the folder of the project is not read.
func TestJournalInFolder(t *testing.T) {
	w := shop(t)
	w.write(".drover-shop.json", `{"version": 1, "step": "switch"}`)
	w.write(filepath.Base(w.journal()), `{"version": 1, "step": "switch"}`)
	w.must(adopt...)
	w.wantMoved()
}
