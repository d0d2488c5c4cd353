package agent

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// paged answers with two pages of snapshots.
type paged struct {
	api.Service
	pages [2][]dataset.Snapshot
}

func (p *paged) Snapshots(_ context.Context, _ string, page api.Page) (out api.List[dataset.Snapshot], err error) {
	if page.After == "" {
		return api.List[dataset.Snapshot]{Items: p.pages[0], Next: "more"}, nil
	}
	return api.List[dataset.Snapshot]{Items: p.pages[1]}, nil
}

// Status has the newest snapshots, however many there are.
func TestStatusHasTheNewest(t *testing.T) {
	p := &paged{}
	for i := range p.pages {
		for range snapshotsShown - i {
			p.pages[i] = append(p.pages[i], dataset.Snapshot{ID: uuid.New()})
		}
	}
	a := &Agent{Config: Config{Control: p}}
	list, err := a.snapshotList(t.Context(), dataset.Dataset{})
	last := p.pages[1][len(p.pages[1])-1].ID
	if err != nil || len(list) != snapshotsShown || list[snapshotsShown-1]["id"] != last || list[0]["id"] != p.pages[0][snapshotsShown-1].ID {
		t.Errorf("%v, %v", list, err)
	}
}
