package consul_test

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/droverhq/drover/control/store"
	"github.com/droverhq/drover/control/store/consul"
	"github.com/droverhq/drover/dataset"
	consultest "github.com/droverhq/drover/test/consul"
)

// Published entries are found by Consul's own queries. Publishing costs a write if something changed and none
// otherwise, and removing them removes nothing else.
func TestCatalog(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	open := func(token string) *consul.Store {
		return openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "drover", Token: token})
	}
	s := open(c.NewToken(consul.Policy("drover") + consul.CatalogPolicy("drover")))
	session, err := s.Session(t.Context(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	var all []store.Service
	for i := range 150 { // more than one transaction takes
		all = append(all, store.Service{
			Kind: "agent", ID: fmt.Sprint("n", i), Address: fmt.Sprintf("10.0.0.%d:9471", i), Alive: true,
			Tags: []string{"pool.fast"}, Meta: map[string]string{"drover_load_10": fmt.Sprint(i)},
		})
	}
	all = append(all, store.Service{Kind: "control", ID: "10.0.1.1:9470", Address: "c1.example:9470", Alive: true})
	publish := func(s *consul.Store, look bool) {
		t.Helper()
		if err := s.Publish(t.Context(), all, look); err != nil {
			t.Fatal(err)
		}
	}
	found := func(kind, filter string) []*api.ServiceEntry {
		t.Helper()
		list, _, err := c.Client().Health().Service("drover-"+kind, "", true, &api.QueryOptions{Filter: filter, RequireConsistent: true})
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	publish(s, false)
	if list := found("agent", `Service.Meta.drover_load_10 == "7" and "pool.fast" in Service.Tags`); len(list) != 1 || list[0].Service.Address != "10.0.0.7" || list[0].Service.Port != 9471 {
		t.Errorf("%+v", list)
	}
	if list := found("control", ""); len(list) != 1 || list[0].Service.Address != "c1.example" {
		t.Errorf("%+v", list)
	}
	// The raft index is not counted: Consul writes the coordinates of its nodes from time to time.
	written := func() [2]uint64 {
		t.Helper()
		q := &api.QueryOptions{RequireConsistent: true}
		_, services, err1 := c.Client().Catalog().Services(q)
		_, checks, err2 := c.Client().Health().State("any", q)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return [2]uint64{services.LastIndex, checks.LastIndex}
	}
	before, sent := written(), s.Stats().Requests
	publish(s, false)
	if got := s.Stats().Requests; got != sent {
		t.Errorf("%d requests for entries that are published already", got-sent)
	}
	publish(s, true)
	other := open(c.Token) // another process does not know of it
	publish(other, false)
	if now := written(); now != before {
		t.Errorf("indexes %v, were %v: it writes what is there", now, before)
	}
	all[7].Alive, all[7].Note = false, "nothing is heard of it"
	all[8].Meta = map[string]string{"drover_load_10": "9.9"}
	publish(other, false)
	if list := found("agent", `Service.Meta.drover_load_10 == "9.9"`); len(list) != 1 || len(found("agent", "")) != 149 {
		t.Errorf("%+v", list)
	}
	if err := s.Withdraw(t.Context(), "control", "10.0.1.1:9470"); err != nil {
		t.Fatal(err)
	}
	if err := s.Withdraw(t.Context(), "control", "10.0.1.1:9470"); err != nil {
		t.Error("again:", err)
	}
	if len(found("control", "")) != 0 {
		t.Error("it is still published")
	}
	all = all[:1]
	publish(s, false)
	services, _, err := c.Client().Catalog().Services(nil)
	if _, there := services["consul"]; err != nil || len(services) != 2 || !there || len(found("agent", "")) != 1 {
		t.Errorf("%v, %v", services, err)
	}
	if err := s.Renew(t.Context(), session); err != nil {
		t.Error("a session was removed together with the services:", err)
	}
}

// Without the permission, the error says which one is missing and what to add to the policy. Nothing else is
// affected.
func TestCatalogWithoutTheRight(t *testing.T) {
	c := consultest.Start(t, consultest.Options{ACL: true})
	one := []store.Service{{Kind: "control", ID: "c1", Address: "10.0.0.1:9470", Alive: true}}
	for rules, want := range map[string]string{
		"": `lacks node:write on drover-services: give its policy node "drover-services" { policy = "write" } (all rights that it needs: node "drover-services" { policy = "write" } service "drover-control"`,
		`node "drover-services" { policy = "write" }`: `lacks service:write on drover-control: give its policy service "drover-control" { policy = "write" }`,
	} {
		s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "drover", Token: c.NewToken(consul.Policy("drover") + rules)})
		for range 2 {
			says(t, s.Publish(t.Context(), one, false), dataset.ErrForbidden, "", want)
		}
		says(t, s.Withdraw(t.Context(), "control", "c1"), dataset.ErrForbidden, "", "lacks service:write on ")
		if err := s.Check(t.Context()); err != nil {
			t.Error(err)
		}
	}
	s := openWith(t, consul.Options{Addresses: c.Addresses(), Prefix: "drover", Token: c.Token})
	says(t, s.Publish(t.Context(), []store.Service{{Kind: "agent", ID: "a", Address: "nowhere"}}, false), dataset.ErrInvalid, "", `address "nowhere"`)
}

func TestDocsShowTheCatalogPolicy(t *testing.T) {
	text, err := os.ReadFile("../../../docs/consul.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "```hcl\n"+consul.CatalogPolicy("drover")+"```") {
		t.Errorf("docs/consul.md does not show\n%s", consul.CatalogPolicy("drover"))
	}
}
