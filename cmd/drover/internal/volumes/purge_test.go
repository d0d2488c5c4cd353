package volumes

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// TestFindInTrash: a name means the only dataset that can still be restored, and datasets that wait for their deletion
// do not make it ambiguous.
func TestFindInTrash(t *testing.T) {
	in := func(digit, name, pool string, state dataset.State) api.Volume {
		id := uuid.MustParse(strings.Repeat(digit, 8) + "-0000-4000-8000-000000000001")
		return api.Volume{
			Dataset: dataset.Dataset{ID: id, Volume: name, State: state}, Node: "alpha", PoolName: pool,
		}
	}
	const trashed, purging = dataset.StateTrashed, dataset.StatePurging
	one, two := in("a", "db", "fast", trashed), in("b", "db", "slow", trashed)
	waits, waits2 := in("c", "db", "fast", purging), in("d", "db", "slow", purging)
	web := in("e", "web", "fast", trashed)
	for name, c := range map[string]struct {
		trash []api.Volume
		ref   string
		want  api.Volume
		err   *dataset.Kind
		says  []string
	}{
		"by name":                          {[]api.Volume{one, web}, "db", one, nil, nil},
		"by a prefix of the UUID":          {[]api.Volume{one, two}, "BBBBBBBB", two, nil, nil},
		"not there":                        {[]api.Volume{web}, "db", api.Volume{}, dataset.ErrNotFound, []string{`no such dataset in the trash: "db"`, "web"}},
		"two of that name":                 {[]api.Volume{one, web, two}, "db", api.Volume{}, dataset.ErrAmbiguous, []string{"in pool fast of node alpha", "in pool slow of node alpha", "aaaaaaaa", "drover trash purge bbbbbbbb --dry-run"}},
		"one waits for its deletion":       {[]api.Volume{waits, one}, "db", one, nil, nil},
		"several wait for their deletion":  {[]api.Volume{waits, one, waits2}, "db", one, nil, nil},
		"the only one waits":               {[]api.Volume{waits, web}, "db", waits, nil, nil},
		"all wait":                         {[]api.Volume{waits, waits2}, "db", api.Volume{}, dataset.ErrAmbiguous, []string{"cccccccc", "dddddddd"}},
		"by the UUID of one that waits":    {[]api.Volume{waits, one}, waits.ID.String(), waits, nil, nil},
		"two of that name, and one waits":  {[]api.Volume{one, two, waits}, "db", api.Volume{}, dataset.ErrAmbiguous, []string{"aaaaaaaa", "bbbbbbbb"}},
		"one of another name waits for it": {[]api.Volume{waits, web}, "web", web, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			before := append([]api.Volume{}, c.trash...)
			got, err := findInTrash(c.trash, c.ref)
			if got.ID != c.want.ID || (err == nil) != (c.err == nil) || err != nil && !errors.Is(err, c.err) {
				t.Fatalf("%s (%v), want %s (%v)", got.ID, err, c.want.ID, c.err)
			}
			for _, text := range c.says {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("%v, want %q in it", err, text)
				}
			}
			for i := range before { // the caller purges the rest of the list
				if c.trash[i].ID != before[i].ID {
					t.Fatal("it changed the list")
				}
			}
		})
	}
}
