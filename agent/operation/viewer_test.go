package operation

import (
	"context"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/mounting"
	"github.com/droverhq/drover/agent/records"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// pages is a control whose list of volumes has two pages.
type pages struct{ api.Service }

func (pages) Volumes(_ context.Context, p api.Page) (out api.List[api.Volume], err error) {
	name, next := "a", "a"
	if p.After == "a" {
		name, next = "b", ""
	}
	d := dataset.Dataset{ID: uuid.New(), Volume: name, RequestedAs: name + "@gold"}
	return api.List[api.Volume]{Items: []api.Volume{{Dataset: d}}, Next: next}, nil
}

// A list can have more volumes than one answer of control.
func TestListOfManyPages(t *testing.T) {
	v := &Operations{Mounts: &mounting.Mounts{Host: &host.Host{Control: pages{}, Cache: records.NewCache()}}, ListAll: true}
	list, err := v.List(t.Context())
	if err != nil || len(list) != 2 || list[0].Spelling != "a@gold" || list[1].Spelling != "b@gold" {
		t.Errorf("%+v, %v", list, err)
	}
}

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

// Status has the newest snapshots, however many snapshots exist.
func TestStatusHasTheNewest(t *testing.T) {
	p := &paged{}
	for i := range p.pages {
		for range snapshotsShown - i {
			p.pages[i] = append(p.pages[i], dataset.Snapshot{ID: uuid.New()})
		}
	}
	v := &Operations{Mounts: &mounting.Mounts{Host: &host.Host{Control: p}}}
	list, err := v.snapshotList(t.Context(), dataset.Dataset{})
	last := p.pages[1][len(p.pages[1])-1].ID
	if err != nil || len(list) != snapshotsShown || list[snapshotsShown-1]["id"] != last || list[0]["id"] != p.pages[0][snapshotsShown-1].ID {
		t.Errorf("%v, %v", list, err)
	}
}
