package client

import (
	"encoding/json"
	"testing"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

func TestNextCursor(t *testing.T) {
	encoded := func(l any) string {
		text, err := json.Marshal(l)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	odd := api.Volume{PoolName: `],"next":"no"}`, Dataset: dataset.Dataset{Volume: "db"}}
	for name, c := range map[string]struct{ page, want string }{
		"next page":        {encoded(api.List[api.Volume]{Items: []api.Volume{odd}, Next: `a"b`}), `a"b`},
		"end of line":      {encoded(api.List[int]{Items: []int{1}, Next: "x"}) + "\n", "x"},
		"last page":        {encoded(api.List[api.Volume]{Items: []api.Volume{odd}}), ""},
		"empty list":       {encoded(api.List[int]{Items: []int{}}), ""},
		"next of an item":  {`{"items":[{"list":[1],"next":"x"}]}`, ""},
		"other first":      {`{"next":"x","items":[]}`, ""},
		"cursor not text":  {`{"items":[],"next":7}`, ""},
		"more keys":        {`{"items":[],"next":"x","more":1}`, ""},
		"incomplete":       {`{"items":[],"next":"x"`, ""},
		"no JSON at all":   {"busy", ""},
		"nothing whatever": {"", ""},
	} {
		if got := nextCursor([]byte(c.page)); got != c.want {
			t.Errorf("%s: got cursor %q of %s, want %q", name, got, c.page, c.want)
		}
	}
}
