package backups

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/cmd/drover/internal/show"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// candidate is a volume that drover recover can create. It is an item of the command's JSON output.
type candidate struct {
	Backup  api.VolumeBackup `json:"backup"` // newest backup that is not known to be incomplete
	State   candidateState   `json:"state"`
	Problem *dataset.Problem `json:"problem,omitempty"` // why it was not recovered, or why its record cannot be read
	// Unconfirmed reports that Backup may be incomplete, because control does not know the operation that made it.
	Unconfirmed bool `json:"unconfirmed,omitempty"`
	// Previous is the newest earlier backup of the same volume that is not known to be incomplete.
	Previous *api.VolumeBackup `json:"previous,omitempty"`
	// Unusable has the newer backups that are not complete. They are not used.
	Unusable []api.VolumeBackup `json:"unusable,omitempty"`
	// Older has the newest backup of each other volume that has or had the same name.
	Older []api.VolumeBackup `json:"older,omitempty"`

	operation *dataset.Operation // restore that is in progress; nil: none
	present   string             // present name of the volume, if it exists
	chosen    bool               // named on the command line
}

// candidateState says what drover recover does with a volume.
type candidateState string

const (
	stateAbsent    candidateState = "absent"     // it is created
	stateNoProfile candidateState = "no-profile" // it is absent, and so is its profile
	stateRestoring candidateState = "restoring"  // a restore of the backup is in progress
	stateRestored  candidateState = "restored"   // it was created from the backup
	stateExists    candidateState = "exists"     // it is the volume that was backed up
	stateOtherData candidateState = "other-data" // another volume has the name
	stateUnusable  candidateState = "incomplete" // the volume that last had the name has no complete backup
	stateFailed    candidateState = "failed"     // it was not recovered; see Problem
)

// cluster has the present records of control. The backups are compared with them.
type cluster struct {
	volumes    []api.Volume
	profiles   []api.ListedProfile
	operations []dataset.Operation
}

func readCluster(ctx context.Context, c cli.Remote) (now cluster, err error) {
	if now.operations, err = cli.FetchAll(ctx, c.Operations); err != nil {
		return now, err
	}
	// The volumes are read after the operations: a restore that ends meanwhile is found as a volume.
	if now.volumes, err = cli.FetchAll(ctx, c.Volumes); err != nil {
		return now, err
	}
	now.profiles, err = c.Profiles(ctx)
	return now, err
}

// candidates returns a candidate for each name of a volume that has a backup in the repository, sorted by name. It
// ignores backups that are later than latest, unless latest is zero. incomplete says why some backups cannot be read.
// candidates also sets r.profiles.
func (r *recovery) candidates(ctx context.Context, c cli.Remote, repository string, latest time.Time) (
	list []*candidate, incomplete, err error) {
	backups, incomplete, err := fetch(ctx, c, repository, "")
	if err != nil {
		return nil, nil, err
	}
	now, err := readCluster(ctx, c)
	if err != nil {
		return nil, nil, err
	}
	r.profiles = now.profiles
	byName := map[string]*candidate{}
	for _, b := range slices.Backward(backups) { // newest first
		if !latest.IsZero() && b.Taken.After(latest) {
			continue
		}
		cand := byName[b.Volume]
		if cand == nil {
			cand = &candidate{Backup: b, State: stateUnusable}
			byName[b.Volume] = cand
			list = append(list, cand)
		}
		isListed := func(o api.VolumeBackup) bool { return o.Dataset == b.Dataset }
		undecided := cand.State == stateUnusable && (len(cand.Older) == 0 || isListed(cand.Backup))
		switch made := now.completeness(b); {
		case made == incompleteBackup && undecided:
			cand.Unusable = append(cand.Unusable, b)
		case made == incompleteBackup:
		case undecided:
			now.use(cand, b, made, r.profile != "")
		case isListed(cand.Backup) && cand.Previous == nil:
			cand.Previous = &b
		case !isListed(cand.Backup) && !slices.ContainsFunc(cand.Older, isListed):
			cand.Older = append(cand.Older, b)
		}
	}
	slices.SortFunc(list, func(x, y *candidate) int { return strings.Compare(x.Backup.Volume, y.Backup.Volume) })
	return list, incomplete, nil
}

// use makes b the backup of a candidate that has no complete one yet. But if b is of another volume than the newest
// backup of the name, and the name is free, use adds b to cand.Older: only the user can choose to restore it under the
// name.
func (now cluster) use(cand *candidate, b api.VolumeBackup, made completeness, profileChosen bool) {
	before := *cand
	cand.Backup, cand.Unconfirmed = b, made == unconfirmedBackup
	now.compare(cand, profileChosen)
	absent := cand.State == stateAbsent || cand.State == stateNoProfile
	if absent && b.Dataset != before.Backup.Dataset {
		*cand = before
		cand.Older = append(cand.Older, b)
	}
}

// completeness says whether a backup has all files of its volume.
type completeness int

const (
	incompleteBackup  completeness = iota // the operation did not end with it, so it may lack files
	completeBackup                        // the operation ended with it
	unconfirmedBackup                     // control does not know the operation
)

// completeness returns whether the operation that made a backup ended with it. On an empty machine, and after about a
// day, control does not know the operation: the repository does not say whether restic could read all files.
func (now cluster) completeness(b api.VolumeBackup) completeness {
	i := slices.IndexFunc(now.operations, func(op dataset.Operation) bool { return op.ID == b.Operation })
	switch {
	case b.Incomplete:
		return incompleteBackup
	case b.Operation == uuid.Nil || i < 0:
		return unconfirmedBackup
	case now.operations[i].State == dataset.OpDone && now.operations[i].Backup == b.ID:
		return completeBackup
	}
	return incompleteBackup
}

// compare sets the state of a candidate. If profileChosen is set, the profile of its backup is not needed.
func (now cluster) compare(cand *candidate, profileChosen bool) {
	b := cand.Backup
	restores := func(op dataset.Operation) bool {
		return op.Kind == dataset.OpImport && op.Backup == b.ID && op.Volume == b.Volume
	}
	same := func(v api.Volume) bool { return v.ID == b.Dataset }
	if i := slices.IndexFunc(now.volumes, same); i >= 0 {
		cand.State, cand.present = stateExists, now.volumes[i].Volume
		return
	}
	named := func(v api.Volume) bool { return v.HasName(b.Volume) }
	if i := slices.IndexFunc(now.volumes, named); i >= 0 {
		cand.State, cand.present = stateOtherData, now.volumes[i].Volume
		if slices.ContainsFunc(now.operations, func(op dataset.Operation) bool {
			return restores(op) && op.State == dataset.OpDone && op.DatasetID == now.volumes[i].ID
		}) {
			cand.State = stateRestored
		}
		return
	}
	for i, op := range now.operations {
		if restores(op) && !op.State.Final() {
			cand.State, cand.operation = stateRestoring, &now.operations[i]
			return
		}
	}
	known := func(p api.ListedProfile) bool { return p.Name == b.Profile }
	if cand.State = stateAbsent; !profileChosen && b.Profile != "" && !slices.ContainsFunc(now.profiles, known) {
		cand.State = stateNoProfile
	}
}

// readsAtOnce is how many records are read from a repository at the same time, unless --parallel is more. Each read
// runs restic, which uses about 100 MiB of memory.
const readsAtOnce = 4

// print prints the candidates. The size of each one is in its record, which restic must read from the repository.
func (r *recovery) print(ctx context.Context, c cli.Remote, repository string, list []*candidate) error {
	each(list, max(r.parallel, readsAtOnce), func(cand *candidate) {
		b, err := c.VolumeBackup(ctx, cand.Backup.Repository, cand.Backup.ID)
		if err != nil {
			cand.Problem = dataset.ProblemOf(err)
			return
		}
		cand.Backup = b
	})
	unreadable := 0
	for _, cand := range list {
		if cand.Problem != nil {
			unreadable++
		}
	}
	if r.out.JSON() {
		if err := show.List(r.app.Out, list); err != nil {
			return err
		}
	} else if err := r.printTable(ctx, repository, list); err != nil {
		return err
	}
	if unreadable > 0 {
		return fmt.Errorf("the records of %d of %d backups cannot be read", unreadable, len(list))
	}
	return nil
}

func (r *recovery) printTable(ctx context.Context, repository string, list []*candidate) error {
	t := show.NewTable("VOLUME", "BACKUP", "TAKEN", "SIZE", "NODE", "PROFILE", "STATE")
	absent, ambiguous := 0, 0
	for _, cand := range list {
		b, size, node := cand.Backup, "not limited", ""
		if b.Record != nil {
			node = b.Record.Node
		}
		switch {
		case b.Record == nil:
			size = "unknown"
		case b.Record.Size > 0:
			size = b.Record.Size.Readable()
		}
		t.Row(cli.ShortName(b.Volume), short(b.ID), show.Ago(r.app.Now(), b.Taken), size, node, b.Profile,
			string(cand.State))
		if cand.State == stateAbsent {
			absent++
			if len(cand.Older) > 0 {
				ambiguous++
			}
		}
	}
	if err := t.Write(r.app.Out); err != nil {
		return err
	}
	r.noteUnconfirmed(list)
	r.noteUnused(list)
	for _, cand := range list {
		if cand.Problem != nil {
			r.app.PrintError(ctx, cand.Problem.Err())
		}
	}
	hint := ""
	if absent > ambiguous && r.at == "" {
		hint = " (drover recover --from " + repository + " --all)"
	}
	if ambiguous > 0 {
		hint += fmt.Sprintf(", %d of them not with --all, because other volumes have or had their names", ambiguous)
	}
	_, err := fmt.Fprintf(r.app.ErrOut, "drover: %d of %d volumes can be recovered%s\n", absent, len(list), hint)
	return err
}

// each calls f for each candidate, for up to parallel of them at the same time.
func each(list []*candidate, parallel uint, f func(*candidate)) {
	var all sync.WaitGroup
	next := make(chan *candidate)
	for range min(parallel, uint(len(list))) {
		all.Go(func() {
			for cand := range next {
				f(cand)
			}
		})
	}
	for _, cand := range list {
		next <- cand
	}
	close(next)
	all.Wait()
}
