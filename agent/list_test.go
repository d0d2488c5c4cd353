package agent

import (
	"slices"
	"testing"
)

func (h *flockHost) lists() (names []string) {
	h.f.Helper()
	list, err := h.List(h.f.Context())
	if err != nil {
		h.f.Fatal(err)
	}
	for _, v := range list {
		if v.Mountpoint == "" {
			h.f.Errorf("%s has no mountpoint", v.Spelling)
		}
		names = append(names, v.Spelling)
	}
	slices.Sort(names)
	return names
}

// A node lists what is its own and what its engine has used; where drover.yaml says so all
// others as well, each once and in the spelling that is used here; and what is its own alone
// while control is away.
func TestListOfTheCluster(t *testing.T) {
	t.Parallel()
	f := newFlock(t, "dir", "dir")
	f.a.volume("far@plain", nil)
	f.a.volume("used@plain", nil)
	f.a.volume("gone", nil)
	f.b.volume("near@never", nil)
	if err := f.b.Create(t.Context(), "used", nil); err != nil {
		t.Fatal(err)
	}
	own := []string{"near@never", "used"}
	if got := f.b.lists(); !slices.Equal(got, own) {
		t.Errorf("it lists %v", got)
	}
	f.b.cfg.ListAll = true
	f.b.again()
	if got := f.b.lists(); !slices.Equal(got, []string{"far@plain", "gone", "near@never", "used"}) {
		t.Errorf("of the cluster it lists %v", got)
	}
	if err := f.a.Remove(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if got := f.b.lists(); slices.Contains(got, "gone") {
		t.Errorf("it lists %v", got)
	}
	if v, err := f.b.Get(t.Context(), "far@plain"); err != nil || v.Spelling != "far@plain" {
		t.Errorf("%+v, %v", v, err)
	}
	f.b.cfg.Control = away{f.link}
	f.b.again()
	if got := f.b.lists(); !slices.Equal(got, own) {
		t.Errorf("with control away it lists %v", got)
	}
}
