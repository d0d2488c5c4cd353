package pooladmin_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/droverhq/drover/agent/agenttest"
	"github.com/droverhq/drover/backends/dir"
	"github.com/droverhq/drover/backends/trialdir"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// The error names what keeps a pool, and how to remove it. For volumes in the trash and condemned ones, that is not
// the command that removes a live volume: a live volume may have the same name.
func TestRemovalErrorNamesWhatThePoolHas(t *testing.T) {
	r := agenttest.New(t)
	ctx := t.Context()
	path := newPool(r, "plain")
	p, _ := r.Pools.ByName("plain")
	if err := r.Create(ctx, "shop", map[string]string{"pool": "plain"}); err != nil {
		t.Fatal(err)
	}
	d, _ := r.Cache.Volume("shop")
	short := d.ID.String()[:8]
	keeps := func(text string) {
		t.Helper()
		keepsPool(r, "plain", false, dataset.ErrConflict, "pool plain holds "+text)
	}
	keeps("volume shop: drover volume rm shop --dry-run")
	for _, with := range []string{" with 1 snapshot: ", " with 2 snapshots: "} {
		if err := r.Perform(ctx, api.Request{Kind: dataset.OpSnapshot, Volume: "shop"}); err != nil {
			t.Fatal(err)
		}
		keeps("volume shop" + with)
	}
	if err := r.Remove(ctx, "shop"); err != nil {
		t.Fatal(err)
	}
	if err := r.Create(ctx, "shop", nil); err != nil {
		t.Fatal(err)
	}
	keeps("volume shop (in the trash, " + short + ") with 2 snapshots: drover trash purge " + short)
	d, _ = r.Cache.Dataset(d.ID)
	d.State = dataset.StatePurging
	r.Cache.Apply(d, 0)
	keeps("the remaining data of volume shop (purged, " + short + ") with 2 snapshots: removed automatically")
	r.Cache.Remove(d.ID)
	r.Cache.SetCopy(d.ID, &api.AssignedCopy{Copy: dataset.Copy{Dataset: d.ID, Pool: p.ID, Kind: dataset.CopySuperseded}})
	keeps("a superseded copy of volume shop with 2 snapshots: drover copy mount " + d.ID.String() + " " + r.NodeName)
	r.Cache.SetCopy(d.ID, nil)
	keeps("volume shop (" + short + ", not recorded here) with 2 snapshots: drover doctor says what it is")
	if err := p.Storage.Delete(ctx, d.ID); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := trialdir.Make(path, p.ID, dir.Backend{}.Name())
	if err != nil {
		t.Fatal(err)
	}
	stray := path + "/stray, which is not drover's: remove it yourself; "
	keeps(stray + c.Path + ", of a drover backend verify that is running: try again after it ends")
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	keeps(stray + c.Path + ", of drover backend verify: drover backend verify ")
}
