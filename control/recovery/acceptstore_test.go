package recovery_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/controltest"
	"github.com/droverhq/drover/dataset"
)

// singleHost returns the control of a single host with n grants.
func singleHost(t *testing.T, n int) (*controltest.Control, *controltest.Agent) {
	t.Helper()
	e := controltest.New(t)
	a := e.NewAgent("alpha")
	if _, err := e.AddRepository(e.Ctx, api.NewRepository{
		Name: "team", URL: "/srv/team", Password: dataset.PasswordSource{File: "/etc/drover/team"},
	}); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		g := api.NewGrant{Name: fmt.Sprintf("grant-%02d", i), Repository: "team", SecretHash: strings.Repeat("0", 64)}
		if _, err := e.AddGrant(e.Ctx, g); err != nil {
			t.Fatal(err)
		}
	}
	return e, a
}

// The store of a single host is accepted without its grants, and with a clock above the highest one that the agent
// knows. Each removed grant has an event. A dry run says the same, and changes nothing.
func TestAcceptStoreRemovesGrants(t *testing.T) {
	const n = 60 // more than one transaction removes
	e, a := singleHost(t, n)
	before := e.Dump()
	would, err := e.AcceptStore(e.Ctx, a.ID, api.AcceptStore{StoreClock: 500, DryRun: true})
	if err != nil || len(would.RemovedGrants) != n {
		t.Errorf("dry run: %+v, %v", would, err)
	}
	if now := e.Dump(); len(now) != len(before) {
		t.Error("the dry run changed something")
	}
	did, err := e.AcceptStore(e.Ctx, a.ID, api.AcceptStore{StoreClock: 500})
	if err != nil || !slices.Equal(did.RemovedGrants, would.RemovedGrants) {
		t.Errorf("got %+v, %v, and the dry run said %+v", did, err, would)
	}
	if list, err := e.Grants(e.Ctx); err != nil || len(list) > 0 {
		t.Errorf("the grants are %+v, %v", list, err)
	}
	removed := 0
	err = e.Events(e.Ctx, 0, false, func(ev api.Event) error {
		if ev.Type == api.EventGrantRemove && strings.HasSuffix(ev.Detail, ": the store was restored from a backup") {
			removed++
		}
		return nil
	})
	if err != nil || removed != n {
		t.Errorf("got %d events, %v", removed, err)
	}
	clock := a.MustSync(0).StoreClock
	if clock <= 500 {
		t.Errorf("the store clock is %d", clock)
	}
	again, err := e.AcceptStore(e.Ctx, a.ID, api.AcceptStore{StoreClock: 500})
	if now := a.MustSync(0).StoreClock; err != nil || len(again.RemovedGrants) > 0 || now != clock {
		t.Errorf("accepted again: %+v, %v, and the store clock is %d instead of %d", again, err, now, clock)
	}
	e.CheckInvariants()
}

func TestAcceptStoreKeepsGrants(t *testing.T) {
	e, a := singleHost(t, 2)
	out, err := e.AcceptStore(e.Ctx, a.ID, api.AcceptStore{StoreClock: 500, KeepGrants: true})
	if err != nil || len(out.RemovedGrants) > 0 {
		t.Errorf("got %+v, %v", out, err)
	}
	if list, err := e.Grants(e.Ctx); err != nil || len(list) != 2 {
		t.Errorf("the grants are %+v, %v", list, err)
	}
	if clock := a.MustSync(0).StoreClock; clock <= 500 {
		t.Errorf("the store clock is %d", clock)
	}
}

func TestAcceptStoreRefuses(t *testing.T) {
	e, a := singleHost(t, 1)
	_, err := e.AcceptStore(e.Ctx, uuid.New(), api.AcceptStore{})
	controltest.Refused(t, err, dataset.ErrNotFound, "is not recorded")
	_, err = e.AcceptStore(e.Ctx, a.ID, api.AcceptStore{StoreClock: 1 << 60})
	controltest.Refused(t, err, dataset.ErrInvalid, "store clock")
	if list, err := e.Grants(e.Ctx); err != nil || len(list) != 1 {
		t.Errorf("the grants are %+v, %v", list, err)
	}
	m := restoredGrants(t)
	_, err = m.Service.AcceptStore(t.Context(), m.Agents["alpha"].ID, api.AcceptStore{})
	controltest.Refused(t, err, dataset.ErrUnsupported, "drover store recover")
}
