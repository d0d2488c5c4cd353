package planning

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// checkPoolOfSource fails with dataset.ErrUnsupported if a clone is wanted in another pool than the pool of its source
// from. wanted is the name of the pool, or "" if any pool will do. The error has the commands that make a full copy in
// that pool, if the source can be exported.
func checkPoolOfSource(t *record.Tx, d, from dataset.Dataset, w CreateRequest, wanted string) error {
	pool, err := t.Pool(from)
	if err != nil || wanted == "" || pool.Name == wanted {
		return err
	}
	remedy := "omit the pool"
	if w.opts.Pool == "" {
		remedy = "choose another profile"
	}
	if from.State == dataset.StateReady {
		source, target := from.Volume, d.Volume
		if d.Origin.Snapshot != uuid.Nil && !d.Origin.Implicit {
			source += " --snapshot " + d.Origin.Snapshot.String()[:8]
		}
		if w.spec.Profile != "" {
			target += "@" + w.spec.Profile
		}
		if w.opts.Pool != "" {
			target += " -o pool=" + w.opts.Pool
		}
		remedy = fmt.Sprintf("for a full copy there: drover volume export %s | drover volume import %s --from -",
			source, target)
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %q: a clone shares the blocks of its source, and stays in pool %s of %s, but pool %s was "+
			"requested (%s)", d.Volume, pool.Name, from.Volume, wanted, remedy)
}

// checkPoolOfProfile fails with dataset.ErrUnsupported if profile p requires another pool than that of volume d.
func checkPoolOfProfile(t *record.Tx, d dataset.Dataset, p dataset.Profile) error {
	pool, err := t.Pool(d)
	if err != nil || p.Pool == "" || pool.Name == p.Pool {
		return err
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %s: profile %s requires pool %s, and a volume stays in its pool, here %s (for a full copy there: "+
			"%s)", d.Volume, p.Name, p.Pool, pool.Name, copyCommands(d, p))
}
