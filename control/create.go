package control

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"strings"

	"github.com/google/uuid"

	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/control/placement"
	"github.com/droverhq/drover/control/record"
	"github.com/droverhq/drover/dataset"
)

// planCreate decides on the requests create, clone and import. Each of them makes a dataset and claims a name.
func (s *Service) planCreate(t *record.Tx, node uuid.UUID, req api.Request) (*dataset.Operation, *dataset.Dataset,
	error) {
	w, err := parseCreate(req)
	if err != nil {
		return nil, nil, addSnapshots(t, s.addProfiles(err, req), req.Ref)
	}
	if err := s.prefetchCreate(t, w, node); err != nil {
		return nil, nil, err
	}
	if old, ok, err := t.VolumeByName(w.spec.Name); err != nil {
		return nil, nil, err
	} else if ok {
		return nil, &old, s.checkMatches(t, old, w)
	}
	d := dataset.Dataset{
		ID: uuid.New(), Volume: w.spec.Name, RequestedAs: req.Ref.Spelling, State: dataset.StateReady,
		Labels: w.opts.Labels, Protected: w.opts.Protect, ReadOnly: w.opts.ReadOnly,
		Anonymous: w.spec.Anonymous() && len(req.Options) == 0 && w.spec.Profile == "" && w.spec.From == "",
		Epoch:     1, Created: s.Clock.Now(),
	}
	if req.Engine {
		d.RequestedBy = node
	}
	op := &dataset.Operation{
		Volume: d.Volume, DatasetID: d.ID, Epoch: d.Epoch, DatasetRecord: &d,
		Options: maps.Clone(req.Options), Path: req.Path, Live: req.Live,
		Repository: req.Repository, Backup: req.Backup,
	}
	if req.Repository != "" {
		r, err := record.GetRepository(t, req.Repository)
		if err != nil {
			return nil, nil, err
		}
		if req.KeptApart != uuid.Nil {
			d.KeptApart = &dataset.KeptApart{Cluster: req.KeptApart, URL: r.URL}
		}
	}
	if err := setVersion(&d, req); err != nil {
		return nil, nil, err
	}
	if w.spec.From != "" {
		err = s.planSource(t, op, w)
	} else {
		err = s.planNew(t, op, w, node)
	}
	if err != nil {
		return nil, nil, err
	}
	op.Node = d.Home
	return op, nil, nil
}

// createRequest is a request that makes a volume, with its options parsed.
type createRequest struct {
	kind      dataset.OpKind
	engine    bool // an engine made the request
	spec      dataset.Spec
	opts      dataset.Options
	allowName bool // From may also be a name
	hostFiles bool // the files are on the requesting node, or come through it
}

// parseCreate parses the options of a request, and compares them with its spec, which api.Request.Parsed has parsed.
// It fails with dataset.ErrInvalid if the options or the spec are wrong.
func parseCreate(req api.Request) (w createRequest, err error) {
	w.kind, w.engine = req.Kind, req.Engine
	w.hostFiles = req.Kind == dataset.OpImport && req.Backup == ""
	if req.Ref.Err != nil {
		return w, req.Ref.Err
	}
	w.spec = req.Ref.Spec
	if w.opts, err = dataset.ParseOptions(req.Options); err != nil {
		return w, err
	}
	if w.opts.Profile != "" && w.spec.Profile != "" && w.opts.Profile != w.spec.Profile {
		return w, dataset.Errorf(dataset.ErrInvalid,
			"volume %q: the name has profile %s, option profile has %s (use only one)", req.Volume, w.spec.Profile,
			w.opts.Profile)
	}
	if w.spec.Profile == "" {
		w.spec.Profile = w.opts.Profile
	}
	if w.opts.From != "" && w.spec.From != "" && !strings.EqualFold(w.opts.From, w.spec.From) {
		return w, dataset.Errorf(dataset.ErrInvalid,
			"volume %q: the name has snapshot %s, option from has %s (use only one)", req.Volume, w.spec.From,
			dataset.Clip(w.opts.From))
	}
	if w.spec.From == "" {
		w.spec.From, w.allowName = w.opts.From, true
	}
	if w.kind == dataset.OpImport && w.spec.From != "" {
		return w, dataset.Errorf(dataset.ErrInvalid,
			"volume %q: an import cannot be a clone as well (omit from or @snapshot-)", req.Volume)
	}
	if what := describeCopy(req, w); what != "" && (w.opts.Owner != nil || w.opts.Mode != nil) {
		return w, dataset.Errorf(dataset.ErrInvalid,
			"volume %q: %s has the owner and mode of its source (omit owner and mode)", req.Volume, what)
	}
	if w.kind == dataset.OpClone && w.spec.From == "" {
		return w, dataset.Errorf(dataset.ErrInvalid,
			"volume %q: missing source of the clone (use option from, or NAME@snapshot-PREFIX)", req.Volume)
	}
	return w, nil
}

// wantsSchedules reports whether the schedules of the profile apply to the new volume. A clone does not inherit those
// of its source, unless the request says so or names a profile.
func (w createRequest) wantsSchedules() bool {
	if on := w.opts.Schedules; on != nil {
		return *on
	}
	return w.spec.From == "" || w.spec.Profile != ""
}

// describeCopy describes a clone or import, for the error that its root directory, with the owner, is copied from
// another volume or folder. For other requests it returns "".
func describeCopy(req api.Request, w createRequest) string {
	switch {
	case w.spec.From != "":
		return "a clone"
	case req.Path != "":
		return "an import"
	case req.Backup != "":
		return "a restored backup"
	}
	return ""
}

// setVersion records in a new dataset which version in a repository it continues. The agent that restores the backup
// checks that the backup has the data of that version.
func setVersion(d *dataset.Dataset, req api.Request) error {
	if req.Version == nil {
		return nil
	}
	d.BasedOn = []dataset.VersionRef{*req.Version}
	if dataset.CheckRefs(d.BasedOn) != nil || req.Version.Repository != req.Repository {
		return dataset.Errorf(dataset.ErrInvalid,
			"import of volume %q: bad version: expected the repository %s, a name and a UUID", d.Volume, req.Repository)
	}
	return nil
}

// prefetchCreate reads in one call the records that most creates need: the name, and the requesting node with its last
// known pools.
func (s *Service) prefetchCreate(t *record.Tx, w createRequest, node uuid.UUID) error {
	keys := []string{record.NameKey(w.spec.Name)}
	if node != uuid.Nil && w.spec.From == "" {
		keys = append(keys, record.NodeKey(node))
		n, _ := s.Ledger.Nodes().Node(node)
		for _, id := range n.Pools[:min(len(n.Pools), maxPrefetchedPools)] {
			keys = append(keys, record.PoolKey(id))
		}
	}
	return t.Prefetch(keys)
}

// maxPrefetchedPools is the largest number of pools of a node that prefetchCreate reads.
const maxPrefetchedPools = 16

// addProfiles adds the list of existing profiles to an error about a profile name. If both the volume name and the
// profile are wrong, it adds the missing profile to the error about the name, so that the user can correct both
// mistakes at once.
func (s *Service) addProfiles(err error, req api.Request) error {
	volume, after := req.Ref.SplitAtSign()
	name := cmp.Or(after, req.Options["profile"])
	if !errors.Is(err, dataset.ErrProfileName) {
		if dataset.CheckName(volume) == nil || name == "" || dataset.CheckProfileName(name) != nil {
			return err
		}
		if _, unknown := s.Deps.Profiles().Get(name); unknown != nil {
			err = fmt.Errorf("%w; and %w", err, unknown)
		}
		return err
	}
	var have []string
	for _, p := range s.Deps.Profiles().All() {
		have = append(have, p.Name)
	}
	return fmt.Errorf("%w (available: %s)%s", err, dataset.FormatChoices(have), dataset.Suggestion(name, have))
}

// addSnapshots adds the UUIDs of the snapshots to the error about a spec that has the name of a snapshot after
// @snapshot-, instead of its UUID.
func addSnapshots(t *record.Tx, err error, ref dataset.Reference) error {
	name, after := ref.SplitAtSign()
	head, snapshot, ok := strings.Cut(after, "-")
	if !ok || strings.ToLower(head) != "snapshot" || dataset.CheckPrefix(strings.ToLower(snapshot)) == nil {
		return err
	}
	return addSnapshotsNamed(t, err, name, snapshot)
}

// addSnapshotsNamed adds a hint to an error: the specs with which the volume name would be made as a clone of a
// snapshot that is called snapshot. Without such snapshots it returns the error unchanged.
func addSnapshotsNamed(t *record.Tx, err error, name, snapshot string) error {
	has, listErr := record.SnapshotsNamed(t, snapshot)
	if listErr != nil || len(has) == 0 {
		return cmp.Or(listErr, err)
	}
	var forms []string
	for _, n := range has {
		forms = append(forms, name+n.AtSign())
	}
	return fmt.Errorf("%w; snapshots of this name: %s", err, strings.Join(forms, ", "))
}

func (s *Service) planNew(t *record.Tx, op *dataset.Operation, w createRequest, node uuid.UUID) error {
	p, err := s.Deps.Profiles().Get(w.spec.Profile)
	if err != nil { // the user may mean a snapshot, as in copy@first
		return addSnapshotsNamed(t, err, w.spec.Name, w.spec.Profile)
	}
	d := op.DatasetRecord
	d.Profile = w.opts.Apply(p)
	if !w.wantsSchedules() {
		d.Profile = d.Profile.WithoutSchedules()
	}
	if err := s.Relocator.CheckFailover(*d); err != nil {
		return err
	}
	if d.Anonymous {
		d.Profile.OnDelete = dataset.OnDelete{Mode: dataset.DeletePurge}
		d.Profile = d.Profile.WithoutSchedules()
	}
	d.Size = d.Profile.Size
	chosen, err := chosenNode(t, w, node)
	if err != nil {
		return err
	}
	pool, err := s.placer.Place(t, placement.Requirement{
		ID: d.ID, Subject: "volume " + d.Volume, Profile: d.Profile, Requester: node,
		RequesterOnly: w.kind == dataset.OpImport, Node: chosen,
	})
	if err != nil {
		return err
	}
	d.Pool, d.Home = pool.ID, pool.Node
	return s.CopyKeeper.CheckEnough(t, *d)
}

// chosenNode returns the node of option node, or uuid.Nil if the request does not have this option. It fails with
// dataset.ErrInvalid if no node has that name, and with dataset.ErrUnsupported if the import of a folder or a stream
// names another node than requester, which has the files. A backup can be restored on any node.
func chosenNode(t *record.Tx, w createRequest, requester uuid.UUID) (uuid.UUID, error) {
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

// checkSameFilesystem fails if a clone would have another filesystem than its source.
func checkSameFilesystem(d dataset.Dataset, fs string) error {
	if fs == "" || fs == d.Profile.Filesystem.Type {
		return nil
	}
	return dataset.Errorf(dataset.ErrInvalid,
		"volume %q: a clone has the filesystem of its source, here %s, and cannot have %s (omit fs)", d.Volume,
		filesystem(d.Profile), fs)
}

// checkCloneSize fails if a clone would be smaller than its source.
func checkCloneSize(d dataset.Dataset, want dataset.Size) error {
	if want == 0 || want >= d.Size {
		return nil
	}
	return dataset.Errorf(dataset.ErrInvalid,
		"volume %q: size %s is smaller than the size %s of its source (omit the "+
			"size)", d.Volume, want, d.Size.Readable())
}

// checkKeyKnown fails if the source of a clone is encrypted and the profile of the clone does not say where the key is.
// This happens after a loss of the store.
func checkKeyKnown(d, from dataset.Dataset) error {
	if from.Encryption == nil || d.Profile.Encryption.Wanted() {
		return nil
	}
	return dataset.Errorf(dataset.ErrForbidden,
		"volume %q: its source is encrypted, and its profile %s no longer names a key (give profile %s one in "+
			"profiles.yaml, then drover volume rekey %s)", d.Volume, d.Profile.Name,
		d.Profile.Name, from.Volume)
}

// planSource fills in the plan of a clone. The clone gets the pool of its source. Unless the request names a profile,
// the clone gets the profile that the source had at the time of the snapshot.
func (s *Service) planSource(t *record.Tx, op *dataset.Operation, w createRequest) error {
	src, err := t.Source(w.spec.From, w.allowName)
	if err != nil {
		return err
	}
	d := op.DatasetRecord
	from, err := copySourceRecord(t, d, src)
	if err != nil {
		return err
	}
	if err := checkSameFilesystem(*d, w.opts.FS); err != nil {
		return err
	}
	profile := w.spec.Profile
	if profile == "" && (from.Anonymous || d.Profile.SchedulesOff && w.wantsSchedules()) {
		profile = from.Profile.Name // the source has a reduced profile, and the clone gets the full one
	}
	var p dataset.Profile
	if profile != "" {
		if p, err = s.Deps.Profiles().Get(profile); err != nil {
			return err
		}
	}
	if err := checkNodeOfSource(t, *d, from, w); err != nil {
		return err
	}
	if err := checkPoolOfSource(t, *d, from, w, cmp.Or(w.opts.Pool, p.Pool)); err != nil {
		return err
	}
	if profile != "" {
		from.Profile = d.Profile
		if d.Profile, err = applyToExisting(from, p); err != nil {
			return cmp.Or(s.placer.CheckSuits(t, *d, p), fmt.Errorf("volume %q: %w", d.Volume, err))
		}
		d.Profile.Encryption = p.Encryption // the data key of the clone is wrapped separately
	}
	if err := checkKeyKnown(*d, from); err != nil {
		return err
	}
	d.Profile = w.opts.Apply(d.Profile)
	if !w.wantsSchedules() {
		d.Profile = d.Profile.WithoutSchedules()
	}
	if err := checkCloneSize(*d, w.opts.Size); err != nil {
		return err
	}
	had := d.Size
	d.Size = max(d.Size, d.Profile.Size)
	if err := s.Relocator.CheckFailover(*d); err != nil {
		return err
	}
	wanted := d.Profile
	wanted.Filesystem.Type = "" // the filesystem is copied with the data, and nothing is formatted
	if profile == "" && w.opts.Pool == "" {
		wanted.Pool = "" // the source's pool may have got another name when a node adopted it
	}
	if err := s.placer.CheckFits(t, *d, wanted, had); err != nil {
		return err
	}
	d.Profile.Size = d.Size
	op.Source = &src
	if profile == "" && d.Size == had {
		return nil // with the profile of the source, the clone may lack replicas as the source does
	}
	return s.CopyKeeper.CheckEnough(t, *d)
}

// copySourceRecord sets the place, profile, size and origin of the new clone d from its source. It returns the record
// of the source's dataset.
func copySourceRecord(t *record.Tx, d *dataset.Dataset, src dataset.Source) (dataset.Dataset, error) {
	from, err := t.Dataset(src.Dataset)
	if err != nil {
		return from, err
	}
	d.Pool, d.Home = from.Pool, from.Home
	d.Profile, d.Size = from.Profile.Clone(), from.Size
	d.Origin = &dataset.Origin{Dataset: src.Dataset, Snapshot: src.Snapshot}
	if src.Snapshot == uuid.Nil {
		d.Origin.Snapshot, d.Origin.Implicit = uuid.New(), true
		return from, nil
	}
	snap, err := t.ReadSnapshot(src.Dataset, src.Snapshot)
	if err != nil {
		return from, err
	}
	d.Profile, d.Size = snap.Profile.Clone(), snap.Size
	d.Profile.Encryption = from.Profile.Clone().Encryption // the source may have got another key since the snapshot
	return from, nil
}

// applyToExisting returns profile p for an existing dataset. The properties that are fixed on disk keep the values of
// the present profile: the filesystem, the owner of the root, and the key that wraps the data key. If the present
// profile does not say where that key is, the key of p is used.
//
// It fails with dataset.ErrInvalid if p requires another filesystem, or if only one of p and the dataset is
// encrypted.
func applyToExisting(d dataset.Dataset, p dataset.Profile) (dataset.Profile, error) {
	old, encrypted := d.Profile, d.Encryption != nil
	p = p.Clone()
	if want := p.Filesystem.Type; want != "" && want != old.Filesystem.Type {
		return p, dataset.Errorf(dataset.ErrInvalid,
			"profile %s requires filesystem %s, but volume %s has %s (for a full copy with this profile: %s)",
			p.Name, want, d.Volume, filesystem(old), copyCommands(d, p))
	}
	if p.Encryption.Wanted() != encrypted {
		does, is := "encrypts data", "is not encrypted"
		if encrypted {
			does, is = "does not encrypt data", "is encrypted"
		}
		return p, dataset.Errorf(dataset.ErrInvalid,
			"profile %s %s, but volume %s %s (for a full copy with this profile: %s)", p.Name, does, d.Volume, is,
			copyCommands(d, p))
	}
	if old.Encryption.Wanted() {
		p.Encryption = old.Clone().Encryption
	}
	p.Filesystem.Chosen = p.Filesystem.Type == "" && old.Filesystem.Chosen
	p.Filesystem.Type, p.Owner = old.Filesystem.Type, old.Clone().Owner
	return p, nil
}

// copyCommands returns the commands that copy the files of a volume into a new one with another profile. The new volume
// is not smaller than the existing one.
func copyCommands(d dataset.Dataset, p dataset.Profile) string {
	size := ""
	if p.Size != 0 && p.Size < d.Size {
		size = fmt.Sprintf(" -o size=%s", d.Size)
	}
	return fmt.Sprintf("drover volume export %s | drover volume import NEW@%s%s --from -", d.Volume, p.Name, size)
}

// commitCreate claims the name for a dataset that its node has made, and gives the node the lease, all in one
// transaction.
func (s *Service) commitCreate(t *record.Tx, op dataset.Operation, out *api.Committed) error {
	d := *op.DatasetRecord
	var mine dataset.Dataset
	if there, err := t.Get(record.DatasetKey(d.ID), &mine); err != nil {
		return err
	} else if there { // the dataset is recorded, so the agent must not undo the create, even after a later change
		out.Dataset = &mine
		return nil
	}
	old, ok, err := t.VolumeByName(d.Volume)
	if err != nil {
		return err
	}
	if ok {
		out.Dataset, out.Duplicate = &old, true
		return nil
	}
	if err := checkSource(t, op); err != nil {
		return err
	}
	t.Event(createEvent(op.Kind), d, d.Profile.Name)
	out.Dataset = &d
	if err := t.Put(record.NameKey(d.Volume), record.Claim{ID: d.ID}); err != nil {
		return err
	}
	if err := record.AddDataset(t, d, op.Incarnation); err != nil {
		return err
	}
	if d.Profile.Replicas.Count == 0 {
		if t.Index(record.OperationKey(op.ID)) == 0 {
			t.Notice.InResponse = true // the response has the record, so the agent needs no notice
		}
		return nil
	}
	// If there are too few nodes for the replicas, the create succeeds. The background work reports the shortage, and
	// tries again.
	_, err = s.CopyKeeper.Decide(t, d)
	return err
}

// checkSource fails if the source of a clone was destroyed or deleted while the clone was made, or if the clone has
// another data key than its source.
func checkSource(t *record.Tx, op dataset.Operation) error {
	if op.Source == nil {
		return nil
	}
	from, err := t.Dataset(op.Source.Dataset)
	if dataset.KindOf(err) == dataset.ErrNotFound || (err == nil && from.State == dataset.StatePurging) {
		return dataset.Errorf(dataset.ErrConflict, "volume %s: its source, dataset %s, was destroyed meanwhile",
			op.Volume, op.Source.Dataset)
	}
	if err != nil {
		return err
	}
	if had, has := from.Encryption, op.DatasetRecord.Encryption; (had == nil) != (has == nil) || had != nil &&
		had.ID != has.ID {
		return dataset.Errorf(dataset.ErrInvalid,
			"volume %s: it and its source, dataset %s, have different data keys", op.Volume, from.ID)
	}
	if op.Source.Snapshot == uuid.Nil {
		return nil
	}
	_, err = t.ReadSnapshot(from.ID, op.Source.Snapshot)
	if dataset.KindOf(err) == dataset.ErrNotFound {
		return dataset.Errorf(dataset.ErrConflict, "volume %s: its source, snapshot %s, was deleted meanwhile",
			op.Volume, op.Source.Snapshot)
	}
	return err
}

// createEvent returns the type of the event about a new volume.
func createEvent(kind dataset.OpKind) api.EventType {
	switch kind {
	case dataset.OpClone:
		return api.EventVolumeClone
	case dataset.OpImport:
		return api.EventVolumeImport
	default:
		return api.EventVolumeCreate
	}
}
