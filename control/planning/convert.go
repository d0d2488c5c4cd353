package planning

import (
	"fmt"
	"slices"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// The filesystem and the encryption of a dataset never change. If a volume gets a profile that requires others, its
// home copies the files into a new dataset. One transaction then gives the names of the volume to the new dataset, and
// puts the former dataset in the trash with its snapshots.

// needsConversion reports whether dataset d must be copied into a new dataset to get profile p.
func needsConversion(d dataset.Dataset, p dataset.Profile) bool {
	return p.Filesystem.Type != "" && p.Filesystem.Type != d.Profile.Filesystem.Type ||
		p.Encryption.Wanted() != (d.Encryption != nil)
}

// planConvert decides to copy a volume into a new dataset with profile p, on the same node.
func (v *Planner) planConvert(t *record.Tx, d dataset.Dataset, p dataset.Profile) (*dataset.Operation, error) {
	what := "conversion of volume " + d.Volume + " to profile " + p.Name
	if err := v.checkConvertible(t, d, p, what); err != nil {
		return nil, err
	}
	next := dataset.Dataset{
		ID: uuid.New(), State: dataset.StateReady, Profile: p.Clone(), Home: d.Home, Epoch: 1,
	}
	inherit(&next, d)
	if d.Anonymous {
		next.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		next.Profile = next.Profile.WithoutSchedules()
	}
	next.Profile.Owner = d.Profile.Clone().Owner
	// Space for the files is certain only if the volume becomes no smaller.
	next.Size = sizeAfterUpdate(d, p, false)
	next.Profile.Size = next.Size
	if err := v.chooseConversionPool(t, d, &next, what); err != nil {
		return nil, err
	}
	if err := v.Relocator.CheckFailover(next); err != nil {
		return nil, err
	}
	if err := v.CopyKeeper.CheckEnough(t, next); err != nil {
		return nil, err
	}
	change, err := describeConversion(t, d, next)
	if err != nil {
		return nil, err
	}
	op := record.NewOperation(d)
	op.Kind, op.DatasetRecord, op.Change = dataset.OpConvert, &next, change
	op.Options = map[string]string{dataset.OptionProfile: p.Name, optionReplaces: formatRevision(d.Profile)}
	return op, nil
}

// checkConvertible fails if a volume cannot be converted now. The argument what names the request in the error.
func (v *Planner) checkConvertible(t *record.Tx, d dataset.Dataset, p dataset.Profile, what string) error {
	if d.Move != uuid.Nil {
		return dataset.Errorf(dataset.ErrConflict,
			"%s: it is being moved to another node (operation %s; try again when that has ended)", what, d.Move)
	}
	if d.Profile.Access == dataset.AccessMany {
		return v.CheckNoSharedMounts(t, d, "give profile "+p.Name+" to")
	}
	return nil
}

// chooseConversionPool sets the pool of the new dataset next for the files of d: the pool of d if it suits, or another
// pool of the same node. If the profile names no filesystem, a dataset that stays in its pool keeps its filesystem.
func (v *Planner) chooseConversionPool(t *record.Tx, d dataset.Dataset, next *dataset.Dataset, what string) error {
	cands, err := v.Placer.Candidates(t, d.Home)
	if err != nil {
		return err
	}
	rank := func(c placement.Candidate) int { // the present pool comes first
		if c.ID == d.Pool {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(cands, func(x, y placement.Candidate) int { return rank(x) - rank(y) })
	o := placement.Requirement{Subject: what, Profile: next.Profile, Size: next.Size}
	o.Profile.Placement = "" // it is for new volumes, and this one stays on its node
	pool, err := placement.Choose(cands, o)
	if err != nil {
		return v.Placer.SuggestOthers(t, err, []placement.Site{{Pools: cands}}, o)
	}
	if _, err := t.Get(record.PoolKey(pool.ID), &dataset.Pool{}); err != nil {
		return err
	}
	next.Pool = pool.ID
	if fs := &next.Profile.Filesystem; fs.Type == "" && next.Pool == d.Pool {
		fs.Type, fs.Chosen = d.Profile.Filesystem.Type, d.Profile.Filesystem.Chosen
	}
	return nil
}

// inherit gives the new dataset next what belongs to the volume and not to its data: names, labels, protection and age.
func inherit(next *dataset.Dataset, d dataset.Dataset) {
	next.Volume, next.RequestedAs, next.RequestedBy = d.Volume, d.RequestedAs, d.RequestedBy
	next.Aliases = d.Aliases
	next.Labels, next.Protected, next.ReadOnly, next.Anonymous = d.Labels, d.Protected, d.ReadOnly, d.Anonymous
	next.Created, next.BasedOn, next.KeptApart = d.Created, d.BasedOn, d.KeptApart
}

// describeConversion returns what differs between the former and the new dataset of a volume, for the event.
func describeConversion(t *record.Tx, d, next dataset.Dataset) (string, error) {
	text := fmt.Sprintf("profile %s, was %s", next.Profile.Name, d.Profile.Name)
	if was, now := d.Profile.Filesystem.Type, next.Profile.Filesystem.Type; now != "" && now != was {
		text += "; filesystem " + now
		if was != "" {
			text += ", was " + was
		}
	}
	switch wanted := next.Profile.Encryption.Wanted(); {
	case wanted && d.Encryption == nil:
		text += "; encrypted"
	case !wanted && d.Encryption != nil:
		text += "; no longer encrypted"
	}
	if d.Pool != next.Pool {
		from, err := t.Pool(d)
		if err != nil {
			return "", err
		}
		to, err := t.Pool(next)
		if err != nil {
			return "", err
		}
		text += "; pool " + to.Name + ", was " + from.Name
	}
	return dataset.Cut(text), nil
}

// BeginConvert writes the dataset of a conversion unchanged, so that a concurrent decision that read the dataset before
// the conversion was recorded is made again. It must run in the same transaction as the plan.
func BeginConvert(t *record.Tx, op dataset.Operation) error {
	d, err := t.Dataset(op.DatasetID)
	if err != nil {
		return err
	}
	return t.PutDataset(d)
}

// CommitConvert gives the names of a volume to the dataset that its home has made, and puts the former dataset in the
// trash. The result is the former dataset. Changes of names, labels and protection since the plan are kept. It fails
// with dataset.ErrConflict if the volume was deleted, is moved, or got another profile since the plan. Idempotent.
func (v *Planner) CommitConvert(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	var plan dataset.Operation
	there, err := t.Get(record.OperationKey(op.ID), &plan)
	if err != nil {
		return err
	}
	if !there || !matchesPlan(op, plan) {
		return dataset.Errorf(dataset.ErrInvalid, "report of operation %s: control has planned no such conversion",
			op.ID)
	}
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if err := v.checkStillConvertible(t, d, plan); err != nil {
		return err
	}
	next := *op.DatasetRecord
	inherit(&next, d)
	next.Request = op.ID
	if next.Profile.HasSchedules() {
		next.ScheduleSince = v.Clock.Now() // the new dataset has no snapshots, and none counts as missed
	}
	for _, name := range d.Names() {
		if err := record.CheckNameClaim(t, name, d.ID); err != nil {
			return err
		}
		if err := t.Put(record.NameKey(name), record.Claim{ID: next.ID}); err != nil {
			return err
		}
	}
	t.Event(api.EventVolumeUpdate, next, plan.Change)
	if err := v.Retire(t, &d, op.ID); err != nil {
		return err
	}
	if err := record.AddDataset(t, next, op.Incarnation); err != nil {
		return err
	}
	_, err = v.CopyKeeper.Decide(t, next)
	return err
}

// matchesPlan reports whether the report of a conversion has the dataset that control has planned, with a data key if
// its profile encrypts.
func matchesPlan(op, plan dataset.Operation) bool {
	made, planned := op.DatasetRecord, plan.DatasetRecord
	return plan.Kind == dataset.OpConvert && plan.DatasetID == op.DatasetID && planned != nil &&
		made.ID == planned.ID && made.Pool == planned.Pool && made.Home == planned.Home &&
		formatRevision(made.Profile) == formatRevision(planned.Profile) &&
		planned.Profile.Encryption.Wanted() == (made.Encryption != nil)
}

// checkStillConvertible fails if the record of a volume has changed since the plan so that the copy must not replace
// it.
func (v *Planner) checkStillConvertible(t *record.Tx, d dataset.Dataset, plan dataset.Operation) error {
	what := "conversion of volume " + d.Volume
	switch {
	case d.State != dataset.StateReady:
		return dataset.Errorf(dataset.ErrConflict, "%s: it was deleted meanwhile", what)
	case d.Move != uuid.Nil:
		return dataset.Errorf(dataset.ErrConflict, "%s: it is being moved to another node (operation %s)", what, d.Move)
	case formatRevision(d.Profile) != plan.Options[optionReplaces]:
		return dataset.Errorf(dataset.ErrConflict, "%s: its profile was changed meanwhile (try again)", what)
	case d.Profile.Access == dataset.AccessMany:
		return v.CheckNoSharedMounts(t, d, "convert")
	}
	return nil
}
