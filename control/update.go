package control

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// planResize decides to change the size of a volume.
func (s *Service) planResize(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	size, err := dataset.ParseSize(req.Size)
	if err != nil {
		return nil, nil, err
	}
	next := d
	next.Profile = d.Profile.Clone()
	next.Size, next.Profile.Size = size, size
	return s.resizeTo(t, d, next)
}

// resizeTo plans the resize of a dataset that is necessary to change its record from d to next.
func (s *Service) resizeTo(t *record.Tx, d, next dataset.Dataset) (*dataset.Operation, *dataset.Dataset, error) {
	if next.Size == d.Size {
		return nil, &d, nil
	}
	pool, err := t.Pool(d)
	if err != nil {
		return nil, nil, err
	}
	c := placement.Candidate{Pool: pool, Status: s.Reports.Pool(pool.ID)}
	why := cmp.Or(placement.WhyUnsuitable(c, dataset.Profile{Size: next.Size}), c.WhyTooSmall(next.Size, d.Size))
	switch {
	case c.IsUnopened():
		return nil, nil, dataset.Errorf(dataset.ErrOffline, "volume %s: pool %s is offline: %s", d.Volume,
			pool.Name, c.Status.Reason)
	case why != "":
		err := dataset.Errorf(dataset.ErrUnsupported, "volume %s: pool %s cannot change its size to %s: %s", d.Volume,
			pool.Name, next.Size, why)
		return nil, nil, s.placer.SuggestOthers(t, err, []placement.Site{{Pools: []placement.Candidate{c}}},
			placement.Requirement{Profile: next.Profile, CurrentSize: d.Size})
	case next.Size < d.Size && !pool.Capabilities.Shrink:
		return nil, nil, dataset.Errorf(dataset.ErrUnsupported,
			"volume %s: size %s is smaller than its %s, and its filesystem cannot shrink (drover volume export "+
				"%s | drover volume import NEW@%s -o size=%s --from - creates another)", d.Volume,
			next.Size, d.Size.Readable(), d.Volume, d.Profile.Name, next.Size)
	}
	op := record.NewOperation(d)
	op.Kind, op.DatasetRecord, op.Change = dataset.OpResize, &next, describeResize(next, "")
	return op, nil, nil
}

// commitResize records the new size of a dataset, and its new profile if the resize was part of a change of profile. It
// keeps other changes that were made since the plan. The data has already changed, so a report from the present home
// and epoch is refused only if the dataset is being destroyed. If the failover of the volume was changed since the
// plan, the volume keeps its profile. If the cluster has too few nodes for the replicas of the new profile meanwhile,
// the background work reports that.
func (s *Service) commitResize(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d, err := record.CurrentDataset(t, op)
	if err != nil {
		return err
	}
	out.Dataset = &d
	if d.Request == op.ID {
		return nil
	}
	if d.State == dataset.StatePurging {
		return dataset.Errorf(dataset.ErrConflict, "volume %s was destroyed meanwhile", d.Volume)
	}
	next := op.DatasetRecord
	before, name := d, op.Options[dataset.OptionProfile]
	if d.Profile.Failover.Auto != next.Profile.Failover.Auto {
		name = "" // the failover has changed since the plan, and the home takes part in such a change: see commitUpdate
	}
	if name != "" {
		where := d.Profile.Clone().Encryption // a rekey may have changed the key since the plan
		d.ScheduleSince = s.scheduleSince(d, next.Profile)
		d.Profile = next.Profile.Clone()
		d.Profile.Encryption = where
		if err := record.ChangeVerifications(t, before, d, s.Clock.Now()); err != nil {
			return err
		}
	}
	d.Size, d.Profile.Size, d.Request = next.Size, next.Profile.Size, op.ID
	t.Event(api.EventVolumeResize, d, describeResize(*next, name))
	if err := t.PutDataset(d); err != nil || name == "" {
		return err
	}
	_, err = s.CopyKeeper.Decide(t, d)
	return err
}

// describeResize returns what a resize changes, for its event. profile is empty if the profile stays.
func describeResize(next dataset.Dataset, profile string) string {
	text := "size " + next.Size.Readable()
	if profile != "" {
		text += ", profile " + profile
	}
	return text
}

// planUpdate decides on a change of the profile, the labels or the protection of a volume.
func (s *Service) planUpdate(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	switch {
	case req.TakeOver && d.KeptApart == nil:
		return nil, &d, nil
	case req.TakeOver:
		next := d
		next.KeptApart = nil
		return newUpdate(d, next, nil), nil, nil
	case req.Labels != nil && (req.Profile != "" || req.Protect != nil):
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"volume %s: labels cannot change together with profile or protection (change one, then the other)",
			d.Volume)
	case req.Labels != nil:
		return planLabels(d, *req.Labels)
	case req.Profile != "" && req.Protect != nil:
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"volume %s: profile and protection cannot change at once (change one, then the other)", d.Volume)
	case req.Profile != "":
		return s.planProfile(t, d, req.Profile)
	case req.Protect == nil:
		return nil, nil, dataset.Errorf(dataset.ErrInvalid,
			"volume %s: nothing to change (set a profile, labels, or the protection)", d.Volume)
	case *req.Protect == d.Protected:
		return nil, &d, nil
	}
	next := d
	next.Protected = *req.Protect
	return newUpdate(d, next, map[string]string{dataset.OptionProtect: strconv.FormatBool(next.Protected)}), nil, nil
}

// newUpdate returns the operation of an update, which changes the record of a dataset from d to next.
func newUpdate(d, next dataset.Dataset, options map[string]string) *dataset.Operation {
	op := record.NewOperation(d)
	op.DatasetRecord, op.Options, op.Change = &next, options, describeUpdate(d, next)
	return op
}

// planLabels decides on a change of the labels of a volume.
func planLabels(d dataset.Dataset, change dataset.LabelChange) (*dataset.Operation, *dataset.Dataset, error) {
	labels, err := change.Apply("volume "+d.Volume, d.Labels)
	if err != nil {
		return nil, nil, err
	}
	if maps.Equal(labels, d.Labels) {
		return nil, &d, nil
	}
	options := map[string]string{}
	for key, value := range change.Set {
		options[dataset.OptionLabel+key] = value
	}
	for _, key := range change.Remove {
		options[dataset.OptionUnlabel+key] = ""
	}
	next := d
	next.Labels = labels
	return newUpdate(d, next, options), nil, nil
}

func (s *Service) planProfile(t *record.Tx, d dataset.Dataset, profile string) (*dataset.Operation,
	*dataset.Dataset, error) {
	p, err := s.Deps.Profiles().Get(profile)
	if err != nil {
		return nil, nil, err
	}
	isSame := p.Name == d.Profile.Name && p.Revision == d.Profile.Revision
	if isSame && (!d.Profile.SchedulesOff || d.Anonymous) { // otherwise the schedules of the profile are turned on
		return nil, &d, nil
	}
	return s.applyProfile(t, d, p)
}

// applyProfile decides to give a volume profile p, if its dataset can have the profile.
func (s *Service) applyProfile(t *record.Tx, d dataset.Dataset, p dataset.Profile) (*dataset.Operation,
	*dataset.Dataset, error) {
	if err := checkPoolOfProfile(t, d, p); err != nil {
		return nil, nil, err
	}
	next := d
	var err error
	if next.Profile, err = applyToExisting(d, p); err != nil {
		return nil, nil, dataset.Errorf(dataset.KindOf(err), "volume %s: %w", d.Volume, err)
	}
	failoverChanges := d.Profile.Failover.Auto != p.Failover.Auto
	if failoverChanges {
		if err := s.checkFailoverChange(t, d, next); err != nil {
			return nil, nil, err
		}
	}
	if d.Profile.Access == dataset.AccessMany && p.Access != dataset.AccessMany {
		if err := s.Relocator.Views.CheckNoSharedMounts(t, d, "give profile "+p.Name+" to"); err != nil {
			return nil, nil, err
		}
	}
	if d.Anonymous {
		next.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		next.Profile = next.Profile.WithoutSchedules()
	}
	wanted := next.Profile
	wanted.Filesystem.Type = "" // the existing filesystem stays
	// CheckFits must not refuse the size of the profile: resizeTo checks the size that the dataset really gets.
	if err := s.placer.CheckFits(t, d, wanted, max(next.Profile.Size, d.Size)); err != nil {
		return nil, nil, err
	}
	pool, err := t.Pool(d)
	if err != nil {
		return nil, nil, err
	}
	next.Size = sizeAfterUpdate(d, p, pool.Capabilities.Shrink)
	next.Profile.Size = next.Size
	if failoverChanges {
		if err := checkSizeStays(d, next); err != nil {
			return nil, nil, err
		}
	}
	if err := s.CopyKeeper.CheckEnough(t, next); err != nil { // next already has the new size
		return nil, nil, err
	}
	options := map[string]string{dataset.OptionProfile: p.Name}
	if next.Size != d.Size {
		op, done, err := s.resizeTo(t, d, next)
		if op != nil {
			op.Options, op.Change = options, describeResize(next, p.Name)
		}
		return op, done, err
	}
	next.ScheduleSince = s.scheduleSince(d, next.Profile)
	op := newUpdate(d, next, options)
	if failoverChanges && p.Failover.Auto {
		updateByHome(op, d)
	}
	return op, nil, nil
}

// scheduleSince returns the time from which the schedules of profile to apply to a dataset that gets the profile now.
// Snapshots and backups that were due before that time do not count as missed. The result is zero if the profile has no
// schedule, or if the dataset has had the same schedules and repository since it was created.
func (s *Service) scheduleSince(d dataset.Dataset, to dataset.Profile) time.Time {
	snapshots, backups := to.Snapshots.Schedule, to.Backup.Schedule
	switch {
	case snapshots == "" && backups == "":
		return time.Time{}
	case (snapshots == "" || snapshots == d.Profile.Snapshots.Schedule) &&
		(backups == "" || backups == d.Profile.Backup.Schedule && to.Backup.To == d.Profile.Backup.To):
		return d.ScheduleSince
	}
	return s.Clock.Now()
}

// sizeAfterUpdate returns the size that a volume gets with profile p. The size stays the same in these cases:
//
//   - The profile has no size.
//   - The profile is a newer revision of the present one, with a smaller size: the volume may have been enlarged on
//     purpose.
//   - The profile has a smaller size, and the filesystem cannot shrink. The response shows the actual size.
func sizeAfterUpdate(d dataset.Dataset, p dataset.Profile, shrinks bool) dataset.Size {
	size := p.Size
	if shrinks && p.Name != d.Profile.Name && size > 0 && size < d.Size {
		return size
	}
	return max(d.Size, size)
}

// formatFailover formats the failover setting of a profile as in profiles.yaml.
func formatFailover(f dataset.Failover) string {
	if f.Auto {
		return "auto"
	}
	return "manual"
}

// describeUpdate returns what differs between two records of a dataset, for the event.
func describeUpdate(before, after dataset.Dataset) string {
	var changes []string
	switch old, now := before.Profile, after.Profile; {
	case old.Name != now.Name:
		changes = append(changes, fmt.Sprintf("profile %s, was %s", now.Name, old.Name))
	case old.Revision != now.Revision:
		changes = append(changes, fmt.Sprintf("profile %s, revision %s", now.Name, now.Revision))
	case old.SchedulesOff && !now.SchedulesOff:
		changes = append(changes, "schedules of profile "+now.Name)
	}
	switch {
	case after.Protected && !before.Protected:
		changes = append(changes, "protected")
	case before.Protected && !after.Protected:
		changes = append(changes, "no longer protected")
	}
	if before.KeptApart != nil && after.KeptApart == nil {
		changes = append(changes, "takes over from cluster "+before.KeptApart.Cluster.String())
	}
	for _, key := range slices.Sorted(maps.Keys(after.Labels)) {
		if old, had := before.Labels[key]; !had || old != after.Labels[key] {
			changes = append(changes, fmt.Sprintf("label %s=%s", key, after.Labels[key]))
		}
	}
	for _, key := range slices.Sorted(maps.Keys(before.Labels)) {
		if _, has := after.Labels[key]; !has {
			changes = append(changes, "no label "+key)
		}
	}
	return dataset.Cut(strings.Join(changes, "; "))
}

// settleUpdate writes the changes that planUpdate decided on. It must run in the same transaction as planUpdate.
func (s *Service) settleUpdate(t *record.Tx, op dataset.Operation) error {
	d := *op.DatasetRecord
	var before dataset.Dataset
	if _, err := t.Get(record.DatasetKey(d.ID), &before); err != nil {
		return err
	}
	t.Event(api.EventVolumeUpdate, d, describeUpdate(before, d))
	if err := record.ChangeVerifications(t, before, d, s.Clock.Now()); err != nil {
		return err
	}
	if err := t.PutDataset(d); err != nil {
		return err
	}
	_, err := s.CopyKeeper.Decide(t, d)
	return err
}
