package dataset

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
)

// The error for a pool that is not empty lists what the pool contains, and for each item how to remove it.
func TestPoolNotEmpty(t *testing.T) {
	id := uuid.MustParse("e1bd1e04-0000-4000-8000-000000000001")
	volume := func(s State) PoolContent { return Dataset{ID: id, Volume: "shop", State: s}.PoolContent() }
	kept := func(k CopyKind) PoolContent { return Copy{Dataset: id, Kind: k}.PoolContent("shop", "host-a") }
	stray := PoolContent{"/srv/stray, which is not drover's", "remove it yourself"}
	long := PoolContent{strings.Repeat("x", 180), "y"}
	for want, contents := range map[string][]PoolContent{
		"volume shop: drover volume rm shop --dry-run":                                                                                       {volume(StateReady)},
		"volume shop (in the trash, e1bd1e04): drover trash purge e1bd1e04 --dry-run":                                                        {volume(StateTrashed)},
		"the remaining data of volume shop (purged, e1bd1e04): removed automatically, try again soon":                                        {volume(StatePurging)},
		"a replica of volume shop: delete the volume, or run drover node drain host-a":                                                       {kept(CopyReplica)},
		"a superseded copy of volume shop: drover copy mount " + id.String() + " host-a shows it":                               {kept(CopySuperseded)},
		"a copy of volume shop from before a move: removed automatically some time after the move":                                           {kept(CopyLeft)},
		"the remaining data of a copy of volume shop: removed automatically, try again soon":                                                 {kept(CopyCondemned)},
		"/srv/stray, which is not drover's: remove it yourself; /srv/stray, which is not drover's: remove it yourself":                       {stray, stray},
		stray.What + ": " + stray.Remedy + "; " + strings.Repeat(stray.What+": "+stray.Remedy+"; ", 2) + "and 2 more":                        {stray, stray, stray, stray, stray},
		long.What + ": y; " + long.What + ": y; and 1 more":                                                                                  {long, long, long},
		"volume shop (in the trash, e1bd1e04): drover trash purge e1bd1e04 --dry-run; /srv/stray, which is not drover's: remove it yourself": {volume(StateTrashed), stray},
	} {
		err := PoolNotEmpty("dd", contents)
		if !errors.Is(err, ErrConflict) || err.Error() != "pool dd holds "+want || len(err.Error()) > 400 {
			t.Errorf("%v\nwant pool dd holds %s", err, want)
		}
	}
	if err := PoolNotEmpty("dd", nil); err != nil {
		t.Error(err)
	}
}
