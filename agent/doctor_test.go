package agent

import (
	"maps"
	"path/filepath"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/backends"
	"github.com/droverhq/drover/dataset"
)

// Between two looks a doctor sees work half done: what was deleted since, made
// since, or brought to its place since is no finding.
func TestDoctorLooksAgain(t *testing.T) {
	r := newRig(t)
	d := r.volume("db")
	p, ok := r.pools.byName("default")
	if !ok {
		t.Fatal("no pool")
	}
	entries, err := p.backend.List(t.Context())
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	known := map[uuid.UUID]dataset.Dataset{d.ID: d}
	gone := backends.Entry{ID: uuid.New(), State: backends.EntryDeleting, Path: filepath.Join(r.root, "gone")}
	findings := func(entries []backends.Entry, known map[uuid.UUID]dataset.Dataset) []string {
		rep := &report{}
		r.checkEntries(t.Context(), rep, p, entries, known)
		var texts []string
		for _, f := range rep.list {
			texts = append(texts, f.Level+": "+f.Subject+": "+f.Text)
		}
		return texts
	}
	purged := d
	purged.ID = uuid.New()
	for name, c := range map[string]struct {
		entries []backends.Entry
		known   map[uuid.UUID]dataset.Dataset
	}{
		"as it is":      {entries, known},
		"deleted since": {append(entries, gone), known},
		"made since":    {entries, nil},
		"placed since":  {nil, known},
		"purged since":  {entries, map[uuid.UUID]dataset.Dataset{d.ID: d, purged.ID: purged}},
	} {
		if got := findings(c.entries, c.known); len(got) > 0 {
			t.Errorf("%s: %q", name, got)
		}
	}

	// What lasts is found.
	left := gone
	left.Path = r.root
	strange := backends.Entry{ID: uuid.New(), State: backends.EntryReady, Path: r.root}
	for name, e := range map[string]backends.Entry{"left by a crash": left, "not on record": strange} {
		if got := findings(append(entries, e), maps.Clone(known)); len(got) != 1 {
			t.Errorf("%s: %q", name, got)
		}
	}
	if err := p.backend.Delete(t.Context(), d.ID); err != nil {
		t.Fatal(err)
	}
	if got := findings(nil, known); len(got) != 1 {
		t.Errorf("on record and not in the pool: %q", got)
	}
}
