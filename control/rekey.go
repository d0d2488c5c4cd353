package control

import (
	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// planRekey decides to wrap the data key of an encrypted dataset with the key that its profile names now. The home of
// the dataset does it.
func (s *Service) planRekey(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if dataset.KindOf(err) == dataset.ErrNotFound {
		err = hintInTrash(t, req.Volume, err)
	}
	if err != nil {
		return nil, nil, err
	}
	if d.Move != uuid.Nil {
		return nil, nil, moveInProgress(d)
	}
	if d.Encryption == nil {
		return nil, nil, dataset.Errorf(dataset.ErrUnsupported, "volume %s: it is not encrypted, so it has no key",
			d.Volume)
	}
	p, err := s.Deps.Profiles().Get(d.Profile.Name)
	if err != nil {
		return nil, nil, err
	}
	if !p.Encryption.Wanted() {
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"volume %s: profile %s no longer names a key (give it one in profiles.yaml)", d.Volume, p.Name)
	}
	op, next := record.NewOperation(d), d
	next.Profile = d.Profile.Clone()
	next.Profile.Encryption = p.Encryption
	op.DatasetRecord, op.Path = &next, req.Path
	return op, nil, nil
}

// hintInTrash extends the error in the argument none, which says that a volume was not found. If the reference names a
// dataset in the trash, the extended error says how to rekey that dataset.
func hintInTrash(t *record.Tx, ref string, none error) error {
	d, err := record.FindDeleted(t, ref, func(d dataset.Dataset) bool { return d.State == dataset.StateTrashed })
	if err != nil {
		return none
	}
	return dataset.Errorf(dataset.ErrNotFound,
		"volume %s: it is in the trash, where nothing can be changed (drover trash restore %s, then drover "+
			"volume rekey %s)", d.Volume, d.ID.String()[:8], d.Volume)
}

// moveInProgress returns the error for a rekey during a move. The target of the move has checked that it has the
// present key, and may not have the new one.
func moveInProgress(d dataset.Dataset) error {
	return dataset.Errorf(dataset.ErrConflict,
		"volume %s: it is being moved to another node, which has already checked its key (operation %s; ask "+
			"again when that has ended)", d.Volume, d.Move)
}

// commitRekey records the newly wrapped data key and the place of the key that wraps it. The data key itself must be
// the same, because all data is encrypted with it.
func commitRekey(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if d.Move != uuid.Nil {
		return moveInProgress(d)
	}
	next := op.DatasetRecord
	if d.Encryption == nil || d.Encryption.ID != next.Encryption.ID {
		return dataset.Errorf(dataset.ErrConflict, "volume %s: its recorded data key is another one", d.Volume)
	}
	t.Event(api.EventVolumeRekey, d, "key "+d.Encryption.KeyID+" to "+next.Encryption.KeyID)
	d.Encryption, d.Profile.Encryption, d.Request = next.Encryption, next.Profile.Clone().Encryption, op.ID
	for _, node := range d.Copies { // their records have the data key too
		t.NotifyDataset(d.ID, node)
	}
	return t.PutDataset(d)
}
