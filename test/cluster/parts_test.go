package cluster_test

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/droverhq/drover/test/cluster"
	"github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
)

func TestMain(m *testing.M) { engine.Main(m) }

// TestAwaitLease: only refusals that end by themselves are repeated, until the limit, and the log tells it.
func TestAwaitLease(t *testing.T) {
	t.Parallel()
	const long = 10 * time.Second // no case reaches it
	for _, tc := range []struct {
		errs           []string // the results of the requests; after them: nil
		want           string
		requests, logs int
		limit          time.Duration
	}{
		{nil, "", 1, 0, long},
		{[]string{"db is fenced", "db is fenced", "control does not respond"}, "", 4, 3, long},
		{[]string{"db is fenced", "db is damaged"}, "db is damaged", 2, 1, long},
		{slices.Repeat([]string{"db is fenced"}, 1000), "db is fenced", 0, 1, 200 * time.Millisecond},
	} {
		requests, log := 0, &logged{TB: t}
		err := cluster.AwaitLease(log, tc.limit, func() error {
			if requests++; requests <= len(tc.errs) {
				return errors.New(tc.errs[requests-1])
			}
			return nil
		})
		if got := fmt.Sprint(err); got != cmp.Or(tc.want, "<nil>") {
			t.Errorf("%.80q: %s", tc.errs, got)
		}
		if tc.requests > 0 && requests != tc.requests || requests > 5 || log.n != tc.logs {
			t.Errorf("%.80q: %d requests, %d lines in the log", tc.errs, requests, log.n)
		}
	}
}

// logged counts the lines in the log of a test.
type logged struct {
	testing.TB

	n int
}

func (l *logged) Logf(string, ...any) { l.n++ }

// Three Consul servers on three machines elect another leader if the first one is cut off, and accept it again when
// it is reachable.
func TestConsulOnMachines(t *testing.T) {
	t.Parallel()
	n := lan.New(t)
	on := []*lan.Machine{n.Machine("consul1", nil), n.Machine("consul2", nil), n.Machine("consul3", nil)}
	c := consul.Start(t, consul.Options{On: on})
	old := c.Leader()
	n.Isolate(old.On)
	others := slices.DeleteFunc(slices.Clone(c.Servers), func(s *consul.Server) bool { return s == old })
	host.Await(t, "another leads", func() error {
		for _, s := range others {
			if l := s.Leads(); l == "" || l == old.IP {
				return errors.New(s.Name + " follows " + l)
			}
		}
		return nil
	})
	n.Heal()
	host.Await(t, "all follow the new one", func() error {
		if l, want := old.Leads(), others[0].Leads(); l != want || l == "" {
			return errors.New(old.Name + " follows " + l + ", not " + want)
		}
		return nil
	})
}
