package control

import (
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/membership"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/control/relocation"
	"github.com/droverhq/drover/dataset"
)

// planRename decides to give a volume another name. The present name becomes an alias. Only records change, so a volume
// can be renamed while it is in use or moves, or while its home is unreachable. Operations name their dataset by its
// UUID, so a running operation continues under the new name. If the volume already has the name, nothing changes.
func planRename(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	if req.Name == d.Volume {
		return nil, &d, nil
	}
	if err := checkNewName(d, req.Name); err != nil {
		return nil, nil, err
	}
	other, taken, err := t.VolumeByName(req.Name)
	if err != nil {
		return nil, nil, err
	}
	if taken && other.ID != d.ID {
		return nil, nil, nameTakenError("rename of volume "+d.Volume, req.Name, other)
	}
	next, err := renamed(d, req.Name)
	if err != nil {
		return nil, nil, err
	}
	op := record.NewOperation(d)
	op.DatasetRecord, op.Change = &next, "now "+next.Volume
	return op, nil, nil
}

// checkNewName fails if a volume cannot get a name, whether or not the name is free.
func checkNewName(d dataset.Dataset, name string) error {
	if err := dataset.CheckName(name); err != nil {
		return dataset.Errorf(dataset.ErrInvalid, "rename of volume %s: %w", d.Volume, err)
	}
	if (dataset.Spec{Name: name}).Anonymous() {
		return dataset.Errorf(dataset.ErrInvalid,
			"rename of volume %s: %s looks like a name that Docker generates for a volume without a name (choose "+
				"another name)", d.Volume, name)
	}
	if d.Anonymous {
		return dataset.Errorf(dataset.ErrUnsupported,
			"rename of volume %s: it is anonymous, so its engine removes it with its container (drover clone %s %s "+
				"creates a volume that stays)", d.Volume, d.Volume, name)
	}
	return nil
}

// nameTakenError returns the error for a name that another volume has as its name or alias. The
// argument what names the request in the error.
func nameTakenError(what, name string, other dataset.Dataset) error {
	if name == other.Volume {
		return dataset.Errorf(dataset.ErrExists, "%s: volume %s exists (choose another name)", what, name)
	}
	return dataset.Errorf(dataset.ErrExists,
		"%s: %s is an alias of volume %s (drover volume rename --drop-alias %s %s frees the name)", what, name,
		other.Volume, name, other.Volume)
}

// renamed returns the record of a volume with another name, which no other volume has. The present name becomes its
// first alias. If the new name is an alias of the volume, it is no longer one. renamed fails with dataset.ErrInvalid if
// the volume would have more than dataset.MaxAliases aliases.
func renamed(d dataset.Dataset, name string) (dataset.Dataset, error) {
	aliases := append([]string{d.Volume}, withoutName(d.Aliases, name)...)
	if n := len(aliases); n > dataset.MaxAliases {
		return d, dataset.Errorf(dataset.ErrInvalid,
			"rename of volume %s: it has %d aliases, and cannot have more (drover volume rename --drop-alias %s %s "+
				"drops the oldest)", d.Volume, len(d.Aliases), aliases[n-1], d.Volume)
	}
	d.Volume = name
	d.Aliases = aliases
	if d.RequestedBy == uuid.Nil { // otherwise the engine of that node knows the volume by RequestedAs
		d.RequestedAs = name
	}
	return d, nil
}

// withoutName returns the given names except name.
func withoutName(names []string, name string) []string {
	return slices.DeleteFunc(slices.Clone(names), func(n string) bool { return n == name })
}

// planDropAlias decides to end an alias of a volume. The data stays. It fails with dataset.ErrOffline if a node that
// can mount the volume without asking control is unreachable: that node would still find the volume by the alias, after
// another volume got the name. It fails with dataset.ErrInUse if a node reports that an engine has the volume mounted
// by the alias, or may have: such a container could not start again. With Force, such reports do not count.
func (s *Service) planDropAlias(t *record.Tx, req api.Request) (*dataset.Operation, *dataset.Dataset, error) {
	d, err := t.Volume(req.Volume)
	if err != nil {
		return nil, nil, err
	}
	next, err := withoutAlias(d, req.Name)
	if err != nil {
		return nil, nil, err
	}
	what := "drop alias " + req.Name + " of volume " + d.Volume
	if err := s.checkMountingNodesReachable(t, d, what); err != nil {
		return nil, nil, err
	}
	if !req.Force {
		if err := s.checkAliasNotMounted(t, d, req.Name, what); err != nil {
			return nil, nil, err
		}
	}
	op := record.NewOperation(d)
	op.DatasetRecord, op.Change = &next, noAlias(req.Name)
	return op, nil, nil
}

// noAlias returns the description of a dropped alias, for the event and the operation.
func noAlias(name string) string { return "no alias " + name }

// checkMountingNodesReachable fails with dataset.ErrOffline if the home of a volume, or a node with a shared mount of
// it, is unreachable. The argument what names the request in the error.
func (s *Service) checkMountingNodesReachable(t *record.Tx, d dataset.Dataset, what string) error {
	if !s.Ledger.Shared {
		return nil
	}
	for _, id := range mountingNodes(d) {
		since, alive, err := membership.LivingSession(t, id)
		if err != nil {
			return err
		}
		if alive {
			continue
		}
		name, err := t.NodeName(id)
		if err != nil {
			return err
		}
		return dataset.Errorf(dataset.ErrOffline,
			"%s: node %s, which %s, can still use the volume by this name (start it, or move the volume first)", what,
			name, relocation.FormatUnreachable(since))
	}
	return nil
}

// mountingNodes lists the nodes that can mount a volume without asking control: the home, and those with a shared
// mount.
func mountingNodes(d dataset.Dataset) []uuid.UUID {
	nodes := []uuid.UUID{d.Home}
	for _, g := range d.SharedMounts {
		nodes = append(nodes, g.Node)
	}
	return nodes
}

// checkAliasNotMounted fails with dataset.ErrInUse if a node reports a mount of a volume by an alias, or a mount whose
// name is not known. It fails with dataset.ErrPending if a node has not reported this volume since this service
// started, or has not reported lately to this service. A node with many volumes reports them in several parts, so its
// first report may lack the volume. The argument what names the request in the error.
func (s *Service) checkAliasNotMounted(t *record.Tx, d dataset.Dataset, alias, what string) error {
	for _, id := range mountingNodes(d) {
		var mounts []dataset.Mount
		st := s.Reports.Dataset(d.ID, id)
		if st != nil {
			mounts = st.MountsBy(alias)
		}
		isCurrent := st != nil && s.Ledger.Clock.Steady()-s.Reports.Heartbeat(id).At <= s.CopyKeeper.MaxReportAge
		if isCurrent && len(mounts) == 0 {
			continue
		}
		name, err := t.NodeName(id)
		if err != nil {
			return err
		}
		if len(mounts) > 0 {
			return aliasMountedError(d, alias, what, name, mounts)
		}
		return dataset.Errorf(dataset.ErrPending,
			"%s: node %s has not reported lately which containers use the volume (try again in a few seconds; "+
				"drover node inspect %s)", what, name, name)
	}
	return nil
}

// aliasMountedError returns the error for an alias that cannot be dropped, because engines of a node have mounted the
// volume by it, or may have.
func aliasMountedError(d dataset.Dataset, alias, what, node string, mounts []dataset.Mount) error {
	var spellings []string
	tool := "docker"
	for _, m := range mounts {
		spellings = append(spellings, dataset.SpellingsWithName(m.Names, alias)...)
		if m.Engine == "podman" {
			tool = m.Engine
		}
	}
	if len(spellings) == 0 {
		return dataset.Errorf(dataset.ErrInUse,
			"%s: the volume is mounted on node %s, and the name that its containers use is not known (stop them, or "+
				"drop the alias with --force; drover volume inspect %s lists the mounts)", what, node, d.Volume)
	}
	slices.Sort(spellings)
	spellings = slices.Compact(spellings)
	return dataset.Errorf(dataset.ErrInUse,
		"%s: a running container on node %s uses the volume by that name, and could not start again (%s ps --filter "+
			"volume=%s there shows it; recreate it with the name %s, or drop the alias with --force)", what, node, tool,
		strings.Join(spellings, " --filter volume="), d.Volume)
}

// withoutAlias returns the record of a volume without one of its aliases. It fails with dataset.ErrInvalid for the name
// of the volume, and with dataset.ErrNotFound if the volume has no such alias.
func withoutAlias(d dataset.Dataset, alias string) (dataset.Dataset, error) {
	what := "drop alias " + dataset.Clip(alias) + " of volume " + d.Volume
	switch {
	case alias == "":
		return d, dataset.Errorf(dataset.ErrInvalid, "drop an alias of volume %s: missing alias (available: %s)",
			d.Volume, dataset.FormatChoices(d.Aliases))
	case alias == d.Volume:
		return d, dataset.Errorf(dataset.ErrInvalid,
			"%s: it is the name of the volume, and not an alias (drover volume rename %s NEW gives the volume "+
				"another name)", what, d.Volume)
	case len(d.Aliases) == 0:
		return d, dataset.Errorf(dataset.ErrNotFound, "%s: the volume has no alias (drover volume inspect %s)", what,
			d.Volume)
	case !d.HasName(alias):
		return d, dataset.Errorf(dataset.ErrNotFound, "%s: the volume has no such alias (available: %s)%s", what,
			dataset.FormatChoices(d.Aliases), dataset.Suggestion(alias, d.Aliases))
	}
	d.Aliases = withoutName(d.Aliases, alias)
	if name, _, _ := strings.Cut(d.RequestedAs, "@"); name == alias { // it would find nothing
		d.RequestedAs = d.Volume // RequestedBy stays: that node may still delete the volume
	}
	return d, nil
}

// settleNames writes what planRename or planDropAlias decided: the record, and the claims of its names. It must run in
// the same transaction.
func settleNames(t *record.Tx, op dataset.Operation) error {
	d := *op.DatasetRecord
	before, err := t.Dataset(d.ID)
	if err != nil {
		return err
	}
	detail := "was " + before.Volume
	for _, name := range before.Names() {
		if err := record.CheckNameClaim(t, name, d.ID); err != nil {
			return err
		}
		if !d.HasName(name) {
			t.Delete(record.NameKey(name))
			detail = noAlias(name)
		}
	}
	if err := t.Put(record.NameKey(d.Volume), record.Claim{ID: d.ID}); err != nil {
		return err
	}
	event := api.EventVolumeUpdate
	if d.Volume != before.Volume {
		event = api.EventVolumeRename
	}
	t.Event(event, d, detail)
	record.NotifyCopies(t, d)
	for _, g := range d.SharedMounts {
		t.NotifyDataset(d.ID, g.Node)
	}
	return t.PutDataset(d)
}
