package backups

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/droverhq/drover/cmd/drover/internal/cli"
	"github.com/droverhq/drover/control/api"
	"github.com/droverhq/drover/dataset"
)

// candidate is a volume that drover recover can create. It is an item of the command's JSON output.
type candidate struct {
	Backup  api.VolumeBackup `json:"backup"` // newest backup
	State   candidateState   `json:"state"`
	Problem *dataset.Problem `json:"problem,omitempty"` // why it was not recovered, or why its record cannot be read
	// Older has the newest backup of each other volume that has or had the same name.
	Older []api.VolumeBackup `json:"older,omitempty"`

	renamed   string             // the name under which the same volume has a newer backup; empty: none
	future    *api.VolumeBackup  // newest backup whose time is in the future, if it is not used; see byAge
	operation *dataset.Operation // restore that is in progress; nil: none
	present   string             // present name of the volume, if it exists
	chosen    bool               // named on the command line
	apart     *dataset.KeptApart // the volume exists, and is kept apart from a cluster; nil: it is not
}

// candidateState says what drover recover does with a volume.
type candidateState string

const (
	stateAbsent    candidateState = "absent"         // it is created
	stateNoProfile candidateState = "no-profile"     // it is absent, and so is its profile
	stateRestoring candidateState = "restoring"      // a restore of the backup is in progress
	stateRestored  candidateState = "restored"       // it was created from the backup
	stateOlder     candidateState = "restored-older" // it was created from an older backup of the same volume
	stateExists    candidateState = "exists"         // it is the volume that was backed up
	stateOtherData candidateState = "other-data"     // another volume has the name
	stateFailed    candidateState = "failed"         // it was not recovered; see Problem
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
// candidates also sets r.profiles and r.volumes.
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
	r.profiles, r.volumes = now.profiles, now.volumes
	if backups, err = r.chooseCluster(backups, now, repository); err != nil {
		return nil, nil, err
	}
	byName := map[string]*candidate{}
	newest := map[uuid.UUID]string{} // of each volume, the name that it had at its newest backup
	if latest.IsZero() {
		backups = byAge(r.app.Now(), backups)
	}
	for _, b := range slices.Backward(backups) { // newest first
		if b.Incomplete || !latest.IsZero() && b.Taken.After(latest) {
			continue
		}
		newest[b.Dataset] = cmp.Or(newest[b.Dataset], b.Volume)
		cand := byName[b.Volume]
		if cand == nil {
			cand = &candidate{Backup: b}
			if name := newest[b.Dataset]; name != b.Volume {
				cand.renamed = name
			}
			byName[b.Volume] = cand
			list = append(list, cand)
			now.compare(cand, backups, r.profile != "")
			continue
		}
		isListed := func(o api.VolumeBackup) bool { return o.Dataset == b.Dataset }
		switch {
		case !isListed(cand.Backup) && !slices.ContainsFunc(cand.Older, isListed):
			cand.Older = append(cand.Older, b)
		case isListed(cand.Backup) && cand.future == nil && b.Taken.After(cand.Backup.Taken):
			cand.future = &b
		}
	}
	slices.SortFunc(list, func(x, y *candidate) int { return strings.Compare(x.Backup.Volume, y.Backup.Volume) })
	return list, incomplete, nil
}

// compare sets the state of a candidate. backups has at least those of its volume. If profileChosen is set, the profile
// of its backup is not needed.
func (now cluster) compare(cand *candidate, backups []api.VolumeBackup, profileChosen bool) {
	b := cand.Backup
	restores := func(op dataset.Operation) bool {
		return op.Kind == dataset.OpImport && op.Backup == b.ID && op.Volume == b.Volume
	}
	isOlder := func(op dataset.Operation) bool {
		return op.Kind == dataset.OpImport && slices.ContainsFunc(backups, func(o api.VolumeBackup) bool {
			return o.ID == op.Backup && o.Dataset == b.Dataset && !o.Taken.After(b.Taken)
		})
	}
	same := func(v api.Volume) bool { return v.ID == b.Dataset }
	if i := slices.IndexFunc(now.volumes, same); i >= 0 {
		cand.found(stateExists, now.volumes[i])
		return
	}
	named := func(v api.Volume) bool { return v.HasName(b.Volume) }
	if i := slices.IndexFunc(now.volumes, named); i >= 0 {
		cand.found(stateOtherData, now.volumes[i])
		for _, op := range now.operations {
			switch made := op.State == dataset.OpDone && op.DatasetID == now.volumes[i].ID; {
			case made && restores(op):
				cand.State = stateRestored
			case made && isOlder(op):
				cand.State = stateOlder
			}
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

// found sets the state of a candidate whose volume, or whose name, exists.
func (cand *candidate) found(state candidateState, v api.Volume) {
	cand.State, cand.present, cand.apart = state, v.Volume, v.KeptApart
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
		if err := cli.JSONList(r.app.Out, list); err != nil {
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
	t := cli.NewTable("VOLUME", "BACKUP", "TAKEN", "SIZE", "NODE", "PROFILE", "STATE")
	absent, ambiguous, here := 0, 0, 0
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
		t.Row(cli.ShortName(b.Volume), short(b.ID), cli.Ago(r.app.Now(), b.Taken), size, node, b.Profile,
			string(cand.State))
		switch cand.State {
		case stateExists, stateRestored, stateOlder:
			here++
		case stateAbsent:
			absent++
			if len(cand.Older) > 0 {
				ambiguous++
			}
		}
	}
	if err := t.Write(r.app.Out); err != nil {
		return err
	}
	r.noteUnused(list)
	for _, cand := range list {
		if cand.Problem != nil {
			r.app.PrintError(ctx, cand.Problem.Err())
		}
	}
	if here == len(list) {
		_, err := fmt.Fprintln(r.app.ErrOut, "drover: all listed volumes are here")
		return err
	}
	hint := ""
	if absent > ambiguous && r.at == "" { // with --at, --all fails for volumes that exist
		hint = " (" + r.command(repository) + " --all)"
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
