package cluster_test

import (
	"errors"
	"slices"
	"testing"

	"github.com/droverhq/drover/test/consul"
	"github.com/droverhq/drover/test/engine"
	"github.com/droverhq/drover/test/host"
	"github.com/droverhq/drover/test/lan"
)

func TestMain(m *testing.M) { engine.Main(m) }

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
