package server

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/api/client"
	"github.com/droverhq/drover/control/api/wire"
	"github.com/droverhq/drover/dataset"
	"github.com/droverhq/drover/test/require"
)

// lister is a fake whose lists have several items. It pages those that the service pages.
type lister struct {
	*fake
	volumes    []api.Volume
	snapshots  []dataset.Snapshot
	operations []dataset.Operation
	profiles   []api.ListedProfile
}

func newLister() *lister {
	l := &lister{fake: newFake()}
	for _, name := range []string{"aa", "bb", "cc"} {
		id := uuid.New()
		l.volumes = append(l.volumes, api.Volume{Dataset: dataset.Dataset{ID: id, Volume: name}})
		l.snapshots = append(l.snapshots, dataset.Snapshot{ID: uuid.New(), Dataset: id, Name: name})
		l.operations = append(l.operations, dataset.Operation{ID: uuid.New(), Volume: name})
		l.profiles = append(l.profiles, api.ListedProfile{Profile: dataset.Profile{Name: name}})
		// A pool that could not be made has no UUID.
		l.pools = append(l.pools, api.Pool{Pool: dataset.Pool{Node: node1, Name: name}})
		l.nodes = append(l.nodes, api.Node{Node: dataset.Node{ID: uuid.New(), Name: name}})
		l.repositories = append(l.repositories, dataset.Repository{Name: name})
		l.io = append(l.io, api.VolumeIO{Dataset: id, Volume: name, Node: "host-a"})
		l.found = append(l.found, api.Finding{Level: "ok", Subject: "pool", Text: "it serves"})
	}
	return l
}

// part returns a page, as the service does.
func part[T any](p api.Page, items []T, cursor func(T) string) (out api.List[T], err error) {
	for i, item := range items {
		if cursor(item) == p.After {
			items = items[i+1:]
			break
		}
	}
	out.Items = items
	if len(items) > p.Size() {
		out.Items = items[:p.Size()]
		out.Next = cursor(items[p.Size()-1])
	}
	return out, nil
}

func (l *lister) Volumes(_ context.Context, p api.Page) (api.List[api.Volume], error) {
	return part(p, l.volumes, func(v api.Volume) string { return v.Volume })
}

func (l *lister) VolumeSummaries(ctx context.Context, p api.Page) (api.List[api.VolumeSummary], error) {
	whole, err := l.Volumes(ctx, p)
	out := api.Summarize(whole)
	for i := range out.Items {
		if v := &out.Items[i]; !p.Health {
			v.Home, v.Pool = uuid.Nil, uuid.Nil
		}
	}
	return out, err
}

func (l *lister) Trash(_ context.Context, p api.Page) (api.List[api.Volume], error) {
	return part(p, l.volumes, func(v api.Volume) string { return v.ID.String() })
}

func (l *lister) Snapshots(_ context.Context, _ string, p api.Page) (api.List[dataset.Snapshot], error) {
	return part(p, l.snapshots, func(s dataset.Snapshot) string { return s.Dataset.String() + "/" + s.ID.String() })
}

func (l *lister) Operations(_ context.Context, p api.Page) (api.List[dataset.Operation], error) {
	return part(p, l.operations, func(o dataset.Operation) string { return o.ID.String() })
}

func (l *lister) Profiles(context.Context) ([]api.ListedProfile, error) { return l.profiles, nil }

// A client that prefers it gets the summaries of volumes. Other lists stay whole.
func TestSummariesOfVolumes(t *testing.T) {
	l := newLister()
	h := Handler(Deps{Service: l, Local: l})
	get := func(path, prefer string) (applied string, keys []string) {
		t.Helper()
		req := httptest.NewRequest("GET", path, nil)
		req.Header.Set("Prefer", prefer)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, req)
		var list struct{ Items []map[string]any }
		if err := json.Unmarshal(w.Body.Bytes(), &list); err != nil || len(list.Items) != 3 {
			t.Fatalf("%s: got %s, %v, want 3 items", path, w.Body, err)
		}
		return w.Header().Get("Preference-Applied"), slices.Sorted(maps.Keys(list.Items[0]))
	}
	_, whole := get("/v1/volumes", "")
	applied, summary := get("/v1/volumes", wire.Minimal)
	if applied != wire.Minimal || slices.Contains(summary, "request") || slices.Contains(summary, "home") || !slices.Contains(summary, "pool_name") {
		t.Errorf("got preference %q and keys %v, want those of a summary", applied, summary)
	}
	for _, key := range summary {
		if !slices.Contains(whole, key) {
			t.Errorf("key %s of a summary is not one of the whole volume", key)
		}
	}
	l.volumes[0].Home = uuid.New()
	if applied, health := get("/v1/volumes", wire.MinimalHealth); applied != wire.MinimalHealth ||
		!slices.Contains(health, "home") || slices.Contains(health, "request") {
		t.Errorf("got preference %q and keys %v, want those of a summary and home", applied, health)
	}
	if applied, keys := get("/v1/trash", wire.Minimal); applied != "" || !slices.Equal(keys, whole) {
		t.Errorf("trash: got preference %q and keys %v, want whole items", applied, keys)
	}
	if applied, keys := get("/v1/volumes", "respond-async"); applied != "" || !slices.Equal(keys, whole) {
		t.Errorf("another preference: got %q and keys %v, want whole items", applied, keys)
	}
}

// TestEveryListIsPaged walks all lists of the API, which have the same parameters and the same form.
func TestEveryListIsPaged(t *testing.T) {
	l := newLister()
	h := Handler(Deps{Service: l, Local: l})
	lists := map[string]bool{}
	for _, path := range []string{
		"/v1/volumes", "/v1/trash", "/v1/snapshots", "/v1/operations", "/v1/profiles", "/v1/pools", "/v1/nodes", "/v1/doctor",
		"/v1/volume-io", "/v1/repositories",
	} {
		lists[path] = true
		t.Run(path, func(t *testing.T) {
			get := func(query string) (status int, items []any, next string) {
				t.Helper()
				resp, body := raw(t, h, "GET", path+query, "")
				var list struct {
					Items []any
					Next  string
				}
				require.NoErrorf(t, json.Unmarshal([]byte(body), &list), "%s%s", path, query)
				return resp.StatusCode, list.Items, list.Next
			}
			_, whole, next := get("")
			if len(whole) != 3 || next != "" {
				t.Fatalf("the whole list has %d items and next %q, want 3 and none", len(whole), next)
			}
			if _, most, next := get("?limit=3"); len(most) != 3 || next != "" {
				t.Errorf("a page of all has %d items and next %q, want 3 and none", len(most), next)
			}
			var walked []any
			for query, pages := "?limit=1", 1; ; pages++ {
				_, items, next := get(query)
				if walked = append(walked, items...); len(items) != 1 || pages > 3 {
					t.Fatalf("page %d%s has %d items, want 1 on each of 3 pages", pages, query, len(items))
				}
				if next == "" {
					break
				}
				query = "?limit=1&after=" + url.QueryEscape(next)
			}
			if d := cmp.Diff(whole, walked); d != "" {
				t.Errorf("page by page (-whole +walked):\n%s", d)
			}
			for _, bad := range []string{"after=..%2F..", "after=-1", "after=" + strings.Repeat("x", 600), "limit=-1", "limit=1001", "limit=x", "offset=1"} {
				if status, _, _ := get("?" + bad); status != http.StatusUnprocessableEntity {
					t.Errorf("?%.40s: got status %d, want 422", bad, status)
				}
			}
		})
	}
	for _, e := range endpoints(t) {
		if e.lists && !lists[e.path] {
			t.Errorf("GET %s answers with a list and is not tested here", e.path)
		}
	}
}

// The client reads all pages of the lists that its caller wants as a whole.
func TestClientReadsAllPages(t *testing.T) {
	l := newLister()
	for len(l.pools) <= 2*api.MaxPage {
		l.pools = append(l.pools, api.Pool{Pool: dataset.Pool{ID: uuid.New(), Node: node1, Name: "more"}})
	}
	transports(t, Deps{Service: l, Local: l}, func(t *testing.T, c *client.Client) {
		got, err := c.Pools(soon(t))
		require.NoError(t, err)
		if d := cmp.Diff(l.pools, got); d != "" {
			t.Errorf("-want +got:\n%s", d)
		}
	})
}
