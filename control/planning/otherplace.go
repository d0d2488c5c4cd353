package planning

import (
	"fmt"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// chosenNode returns the node of option node, or uuid.Nil if the request does not have this option. It fails with
// dataset.ErrInvalid if no node has that name, and with dataset.ErrUnsupported if the import of a folder or a stream
// names another node than requester, which has the files. A backup can be restored on any node.
func chosenNode(t *record.Tx, w CreateRequest, requester uuid.UUID) (uuid.UUID, error) {
	if w.opts.Node == "" {
		return uuid.Nil, nil
	}
	n, err := t.FindNode(w.opts.Node)
	if err != nil || !w.hostFiles || n.ID == requester {
		return n.ID, err
	}
	return n.ID, dataset.Errorf(dataset.ErrUnsupported,
		"volume %q: an import is created on the node that reads the files, not on node %s (omit node, then "+
			"drover volume move %s %s)", w.spec.Name, n.Name, w.spec.Name, n.Name)
}

// checkNodeOfSource fails with dataset.ErrUnsupported if option node names another node than the home of the source
// from: a clone is created beside its source.
func checkNodeOfSource(t *record.Tx, d, from dataset.Dataset, w CreateRequest) error {
	if w.opts.Node == "" {
		return nil
	}
	n, err := t.FindNode(w.opts.Node)
	if err != nil || n.ID == from.Home {
		return err
	}
	home, err := t.NodeName(from.Home)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrUnsupported,
		"volume %q: a clone shares the blocks of its source on node %s, and cannot be created on node %s (omit node, "+
			"then drover volume move %s %s)", d.Volume, home, n.Name, d.Volume, n.Name)
}

// checkSameNode fails with dataset.ErrExists if a person requests the existing volume d on another node. An engine
// repeats the options of the first request for as long as the volume exists. The volume may have been moved since then,
// so that option node says nothing about an existing volume.
func checkSameNode(t *record.Tx, d dataset.Dataset, w CreateRequest) error {
	if w.opts.Node == "" || w.engine {
		return nil
	}
	n, err := t.FindNode(w.opts.Node)
	if err != nil || n.ID == d.Home {
		return err
	}
	home, err := t.NodeName(d.Home)
	if err != nil {
		return err
	}
	return dataset.Errorf(dataset.ErrExists, "volume %q exists on node %s, not %s (drover volume move %s %s)", d.Volume,
		home, n.Name, d.Volume, n.Name)
}

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
