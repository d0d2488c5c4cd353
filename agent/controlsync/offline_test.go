package controlsync

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/fakes"
)

var (
	here  = uuid.MustParse("a0000000-0000-4000-8000-000000000001")
	there = uuid.MustParse("b0000000-0000-4000-8000-000000000002")
	start = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
)

// control is a control that returns an error for each request, or nil and a fixed answer. The other methods of
// api.Service panic.
type control struct {
	api.Service
	err   error
	hangs bool // until the context of the request ends
}

func (c *control) answer(ctx context.Context) error {
	if c.hangs {
		<-ctx.Done()
		return ctx.Err()
	}
	return c.err
}

func (c *control) Volumes(ctx context.Context, _ api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{Items: []api.Volume{{Node: "control"}}}, c.answer(ctx)
}

func (c *control) VolumeSummaries(ctx context.Context, _ api.Page) (api.List[api.VolumeSummary], error) {
	return api.List[api.VolumeSummary]{Items: []api.VolumeSummary{{Node: "control"}}}, c.answer(ctx)
}

func (c *control) Trash(ctx context.Context, _ api.Page) (api.List[api.Volume], error) {
	return api.List[api.Volume]{}, c.answer(ctx)
}

func (c *control) Volume(ctx context.Context, _ string) (api.Volume, error) {
	return api.Volume{Node: "control"}, c.answer(ctx)
}

func (c *control) Snapshots(ctx context.Context, _ string, _ api.Page) (api.List[dataset.Snapshot], error) {
	return api.List[dataset.Snapshot]{}, c.answer(ctx)
}

func (c *control) Snapshot(ctx context.Context, _, _ string) (dataset.Snapshot, error) {
	return dataset.Snapshot{}, c.answer(ctx)
}

func (c *control) Pools(ctx context.Context) ([]api.Pool, error) { return nil, c.answer(ctx) }

// kept are the records of a node.
type kept struct {
	home   map[uuid.UUID]dataset.Dataset
	copies map[uuid.UUID]api.AssignedCopy
}

func (k kept) IDs() (ids []uuid.UUID) {
	for id := range k.home {
		ids = append(ids, id)
	}
	return ids
}
func (k kept) Dataset(id uuid.UUID) (dataset.Dataset, bool) { d, ok := k.home[id]; return d, ok }
func (k kept) CopyIDs() (ids []uuid.UUID) {
	for id := range k.copies {
		ids = append(ids, id)
	}
	return ids
}
func (k kept) Copy(id uuid.UUID) (api.AssignedCopy, bool) { c, ok := k.copies[id]; return c, ok }

// harness is a Reader of a node with the volumes db, cache and web, of which web has its home elsewhere, and old in the
// trash.
type harness struct {
	*OfflineReader
	control *control
	clock   *fakes.Clock
	heard   time.Time
	ids     map[string]uuid.UUID
	records kept
}

func newHarness() *harness {
	h := &harness{
		control: &control{err: dataset.Errorf(dataset.ErrUnavailable, "connection refused")},
		clock:   fakes.NewClock(start), ids: map[string]uuid.UUID{},
		records: kept{home: map[uuid.UUID]dataset.Dataset{}, copies: map[uuid.UUID]api.AssignedCopy{}},
	}
	for i, name := range []string{"db", "cache", "old", "web"} {
		id := uuid.UUID{0: byte(0x10 + i), 15: byte(i)}
		d := dataset.Dataset{ID: id, Volume: name, Home: here, State: dataset.StateReady, Aliases: []string{name + "-before"}, Profile: dataset.Profile{Name: "bronze"}}
		h.ids[name] = id
		switch name {
		case "old":
			d.State = dataset.StateTrashed
		case "web":
			d.Home = there
			h.records.copies[id] = api.AssignedCopy{Record: &d}
			continue
		}
		h.records.home[id] = d
	}
	h.OfflineReader = &OfflineReader{
		Service: h.control, records: h.records, pools: h, nodes: h, status: h, answers: h, clock: h.clock,
		started: h.clock.Now(),
	}
	return h
}

func (h *harness) Name(node uuid.UUID) string {
	return map[uuid.UUID]string{here: "alpha", there: "beta"}[node]
}

func (h *harness) Status(_ context.Context, d dataset.Dataset) dataset.DatasetStatus {
	return dataset.DatasetStatus{ID: d.ID, Used: new(dataset.GiB)}
}

func (h *harness) SnapshotsOf(_ context.Context, d dataset.Dataset) ([]dataset.Snapshot, error) {
	if d.Volume == "cache" {
		return nil, dataset.Errorf(dataset.ErrUnavailable, "pool default is offline")
	}
	return []dataset.Snapshot{{ID: uuid.UUID{0: 0xee}, Dataset: d.ID, Name: "first"}, {ID: uuid.UUID{0: 0xff}, Dataset: d.ID}}, nil
}

func (h *harness) PoolStates(context.Context) []api.Pool { return []api.Pool{{NodeName: "alpha"}} }

func (h *harness) PoolOf(uuid.UUID) (dataset.Pool, bool) {
	return dataset.Pool{Name: "default", Backend: "loop"}, true
}

func (h *harness) LastAnswer() time.Time { return h.heard }

// TestVolumesWithoutControl: the volumes of this host are listed by name, page by page, with the time of control's last
// answer.
func TestVolumesWithoutControl(t *testing.T) {
	h := newHarness()
	h.heard = start.Add(-time.Minute)
	var names []string
	for page := (api.Page{Limit: 2}); ; {
		ctx, knownAt := api.WithKnownAt(t.Context())
		l, err := h.Volumes(ctx, page)
		if err != nil || !knownAt().Equal(h.heard) {
			t.Fatalf("page after %q: error %v, known at %v; want the records of %v", page.After, err, knownAt(), h.heard)
		}
		for _, v := range l.Items {
			names = append(names, v.Volume+" on "+v.Node)
		}
		if page.After = l.Next; page.After == "" {
			break
		}
	}
	if d := cmp.Diff([]string{"cache on alpha", "db on alpha", "web on beta"}, names); d != "" {
		t.Errorf("volumes (-want +got):\n%s", d)
	}
	summaries, err := h.VolumeSummaries(t.Context(), api.Page{After: "cache"})
	if err != nil || len(summaries.Items) != 2 || summaries.Items[1].Volume != "web" || summaries.Items[1].Node != "beta" {
		t.Errorf("summaries: %+v, error %v; want db and web", summaries.Items, err)
	}
	trash, err := h.Trash(t.Context(), api.Page{})
	if err != nil || len(trash.Items) != 1 || trash.Items[0].Volume != "old" {
		t.Errorf("trash: %+v, error %v; want old", trash.Items, err)
	}
}

// TestVolumeWithoutControl: a volume that this node does not know may exist, so the error is that control is
// unreachable (I7).
func TestVolumeWithoutControl(t *testing.T) {
	h := newHarness()
	for ref, want := range map[string]string{
		"db": "db", "web": "web", h.ids["db"].String(): "db", h.ids["old"].String()[:8]: "old",
		"db-before": "db", "web-before": "web", "db@bronze": "db", "web@bronze": "web", "db@gold": "", "old": "", "nosuch": "", "0000": "",
	} {
		ctx, knownAt := api.WithKnownAt(t.Context())
		v, err := h.Volume(ctx, ref)
		switch {
		case want == "" && (!errors.Is(err, dataset.ErrUnavailable) || errors.Is(err, dataset.ErrNotFound) || !knownAt().IsZero()):
			t.Errorf("%s: %+v, error %v, known at %v; want only that control is unreachable", ref, v, err, knownAt())
		case want != "" && (err != nil || v.Volume != want || v.PoolName != "default" || !knownAt().Equal(start)):
			t.Errorf("%s: %+v, error %v, known at %v; want %s of pool default, known at the start %v", ref, v, err, knownAt(), want, start)
		}
	}
	if v, err := h.Volume(t.Context(), "db"); err != nil || v.Status == nil || *v.Status.Used != dataset.GiB || v.Snapshots != 2 {
		t.Errorf("db: %+v, error %v; want its status and two snapshots", v, err)
	}
	if v, err := h.Volume(t.Context(), "web"); err != nil || v.Status != nil {
		t.Errorf("web: %+v, error %v; want no status, because its home is another node", v, err)
	}
}

// TestSnapshotsWithoutControl: a list that could lack snapshots is an error.
func TestSnapshotsWithoutControl(t *testing.T) {
	h := newHarness()
	if l, err := h.Snapshots(t.Context(), "db", api.Page{}); err != nil || len(l.Items) != 2 {
		t.Errorf("snapshots of db: %+v, error %v; want two", l.Items, err)
	}
	for _, ref := range []string{"cache", "web", "nosuch", ""} {
		if l, err := h.Snapshots(t.Context(), ref, api.Page{}); !errors.Is(err, dataset.ErrUnavailable) {
			t.Errorf("snapshots of %q: %+v, error %v; want ErrUnavailable", ref, l.Items, err)
		}
	}
	for _, ref := range []string{"first", "ee00"} {
		if s, err := h.Snapshot(t.Context(), "db", ref); err != nil || s.Name != "first" {
			t.Errorf("snapshot %s of db: %+v, error %v; want first", ref, s, err)
		}
	}
	if s, err := h.Snapshot(t.Context(), "db", "nosuch"); !errors.Is(err, dataset.ErrUnavailable) {
		t.Errorf("snapshot nosuch of db: %+v, error %v; want ErrUnavailable", s, err)
	}
}

// TestControlThatAnswersIsBelieved, also if it refuses the request.
func TestControlThatAnswersIsBelieved(t *testing.T) {
	h := newHarness()
	ctx, knownAt := api.WithKnownAt(t.Context())
	h.control.err = nil
	if v, err := h.Volume(ctx, "db"); err != nil || v.Node != "control" {
		t.Errorf("%+v, error %v; want the answer of control", v, err)
	}
	h.control.err = dataset.Errorf(dataset.ErrNotFound, "no such volume")
	if v, err := h.Volume(ctx, "db"); !errors.Is(err, dataset.ErrNotFound) {
		t.Errorf("%+v, error %v; want the refusal of control", v, err)
	}
	if !knownAt().IsZero() {
		t.Errorf("known at %v, want an answer that is current", knownAt())
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	h.control.hangs = true
	if v, err := h.Volume(gone, "db"); !errors.Is(err, context.Canceled) {
		t.Errorf("%+v, error %v; want the end of the caller's context", v, err)
	}
}

// TestSilentControlIsNotAwaitedForLong: a control that has been silent, and whose host swallows packets, costs a request
// controlTime.
func TestSilentControlIsNotAwaitedForLong(t *testing.T) {
	h := newHarness()
	h.control.hangs = true
	h.clock.Advance(silentAfter + time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if v, err := h.Volume(ctx, "db"); err != nil || v.Volume != "db" {
		t.Errorf("db: %+v, error %v; want the record of this node", v, err)
	}
	if _, err := h.Volume(ctx, "nosuch"); !errors.Is(err, dataset.ErrUnavailable) || ctx.Err() != nil {
		t.Errorf("nosuch: error %v, context %v; want ErrUnavailable in time", err, ctx.Err())
	}
}
