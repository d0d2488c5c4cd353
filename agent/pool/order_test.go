package pool_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"github.com/sirupsen/logrus"

	"github.com/droverhq/drover/agent/host"
	"github.com/droverhq/drover/agent/pool"
	"github.com/droverhq/drover/dataset"
)

// The start that makes the pools finds them in another order than later starts do. The pool for new volumes must not
// depend on that.
func TestPoolsHaveOneOrder(t *testing.T) {
	configured := []pool.Config{{Name: "ssd"}, {Name: "hdd"}}
	for _, met := range [][]string{
		{"ssd", "hdd", "default", "zoo", "ant"},
		{"ant", "default", "hdd", "ssd", "zoo"},
		{"zoo", "ssd", "ant", "hdd", "default"},
	} {
		p := pool.New(&host.Host{Log: logrus.New()}, nil, nil, nil, configured)
		for _, name := range met {
			p.Add(&pool.Pool{Pool: dataset.Pool{ID: uuid.New(), Name: name, Default: name == "default"}})
		}
		p.Add(p.All()[0]) // again, as when it returns
		var got []string
		for _, o := range p.All() {
			got = append(got, o.Name)
		}
		if diff := cmp.Diff([]string{"ssd", "hdd", "default", "ant", "zoo"}, got); diff != "" {
			t.Errorf("met as %v: %s", met, diff)
		}
	}
}
