package cli_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest/loopback"
	"github.com/droverhq/drover/dataset"
)

// pagedVolumes is a server with lists of two volumes a page. The cursor is the number of the next page.
type pagedVolumes struct {
	pages  int
	broken int // the page that the server refuses; 0: none
	mu     sync.Mutex
	asked  map[int]int
}

func (s *pagedVolumes) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page, _ := strconv.Atoi(r.URL.Query().Get("after"))
	s.mu.Lock()
	s.asked[page]++
	s.mu.Unlock()
	if s.broken != 0 && page == s.broken {
		w.WriteHeader(http.StatusInternalServerError)
		return
	}
	l := api.List[api.Volume]{Items: []api.Volume{named(2 * page), named(2*page + 1)}}
	if page+1 < s.pages {
		l.Next = strconv.Itoa(page + 1)
	}
	_ = json.NewEncoder(w).Encode(l)
}

func named(i int) api.Volume {
	return api.Volume{Dataset: dataset.Dataset{Volume: "db" + strconv.Itoa(i)}}
}

func fetchAll(t *testing.T, s *pagedVolumes) ([]string, error) {
	t.Helper()
	s.asked = map[int]int{}
	c := loopback.New(s)
	t.Cleanup(c.Close)
	all, err := cli.FetchAll(t.Context(), c.Volumes)
	var names []string
	for _, v := range all {
		names = append(names, v.Volume)
	}
	return names, err
}

func TestFetchAllReadsEachPageOnce(t *testing.T) {
	for _, pages := range []int{1, 2, 7} {
		s := &pagedVolumes{pages: pages}
		got, err := fetchAll(t, s)
		var want []string
		for i := range 2 * pages {
			want = append(want, named(i).Volume)
		}
		if d := cmp.Diff(want, got); err != nil || d != "" {
			t.Errorf("%d pages: got error %v, volumes (-want +got):\n%s", pages, err, d)
		}
		for page, n := range s.asked {
			if n != 1 {
				t.Errorf("page %d of %d was asked for %d times, want once", page, pages, n)
			}
		}
	}
}

func TestFetchAllFailsIfOnePageFails(t *testing.T) {
	if got, err := fetchAll(t, &pagedVolumes{pages: 5, broken: 3}); err == nil || got != nil {
		t.Errorf("page 3 fails: got %v, %v, want only an error", got, err)
	}
}

// A list that repeats itself has no end.
func TestFetchAllEnds(t *testing.T) {
	next := map[string]string{"": "a", "a": "b", "b": ""}
	page := func(_ context.Context, p api.Page) (api.List[string], error) {
		return api.List[string]{Items: []string{"after " + p.After}, Next: next[p.After]}, nil
	}
	got, err := cli.FetchAll(t.Context(), page)
	if d := cmp.Diff([]string{"after ", "after a", "after b"}, got); err != nil || d != "" {
		t.Errorf("got error %v, items (-want +got):\n%s", err, d)
	}
	next["b"] = "b"
	if _, err := cli.FetchAll(t.Context(), page); !errors.Is(err, dataset.ErrInternal) {
		t.Errorf("a list that repeats itself: got error %v, want ErrInternal", err)
	}
}
